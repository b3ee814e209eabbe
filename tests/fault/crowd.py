"""Thousands of connections at once, over plain sockets without a thread or a task for each."""

import asyncio
import errno
import socket
import time

PER_SOURCE = 2000
GONE = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ENOTCONN)


def connect(addr, source, timeout=5):
    sock = socket.socket()
    try:
        sock.settimeout(timeout)
        sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((source, 0))
        sock.connect(addr)
        sock.setblocking(False)
        return sock
    except OSError:
        sock.close()
        raise


class Crowd:
    """Connections in the order of their opening. `closed[i]` is when the i-th was seen to be
    closed by the peer, in seconds after it was opened."""

    def __init__(self, first_source=10):
        self.first_source = first_source
        self.sockets = []
        self.opened = []
        self.closed = {}
        self.received = {}
        self.refused = 0

    def __len__(self):
        return len(self.sockets)

    async def open(self, addr, count, opening=b"", pace=0.0):
        """Opens connections, each with these first bytes; gives other tasks their turn."""
        for _ in range(count):
            source = f"127.0.0.{self.first_source + len(self.sockets) // PER_SOURCE}"
            try:
                sock = connect(addr, source)
            except OSError:
                self.refused += 1
                if self.refused > 200:
                    return
                continue
            self.sockets.append(sock)
            self.opened.append(time.monotonic())
            if opening:
                self._write(len(self.sockets) - 1, opening)
            if pace or len(self.sockets) % 100 == 0:
                await asyncio.sleep(pace)

    def _write(self, place, data):
        try:
            self.sockets[place].send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in GONE:
                self._ended(place)

    def _ended(self, place):
        self.closed.setdefault(place, time.monotonic() - self.opened[place])

    def look(self):
        """Reads what has arrived, and records which connections were closed."""
        for place, sock in enumerate(self.sockets):
            if place in self.closed:
                continue
            try:
                data = sock.recv(65536)
                if data:
                    self.received[place] = self.received.get(place, b"") + data[:4096]
                else:
                    self._ended(place)
            except BlockingIOError:
                pass
            except OSError:
                self._ended(place)

    @property
    def held(self):
        return [place for place in range(len(self.sockets)) if place not in self.closed]

    async def drip(self, seconds, data, every=1.0, until_all_closed=True):
        """Sends these bytes on every connection again and again."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            due = time.monotonic() + every
            for place in self.held:
                self._write(place, data)
            while time.monotonic() < due:
                self.look()
                await asyncio.sleep(0.1)
            if until_all_closed and not self.held:
                return

    async def wait(self, seconds, most=0):
        """Waits until no more than `most` are held; whether that came."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            self.look()
            if len(self.held) <= most:
                return True
            await asyncio.sleep(0.1)
        return False

    def close(self):
        for sock in self.sockets:
            sock.close()


def flood(addr, opening, block, most, seconds, source="127.0.0.9", patience=2):
    """As `flood_on`, on a connection of its own."""
    return flood_on(connect(addr, source), opening, block, most, seconds, patience)


def flood_on(sock, opening, block, most, seconds, patience=2):
    """Sends `block` again and again behind `opening`, until the peer closes or the bound is met;
    then waits for the close with patience. Gives the bytes sent, the seconds that took, whether
    the peer closed, and what it said."""
    began = time.monotonic()
    sent, closed, said = 0, False, b""
    with sock:
        sock.settimeout(2)
        try:
            sock.sendall(opening)
            while sent < most and time.monotonic() - began < seconds:
                sent += sock.send(block)
        except TimeoutError:
            pass
        except OSError:
            closed = True
        taken = time.monotonic() - began
        sock.settimeout(patience)
        try:
            while data := sock.recv(65536):
                said = (said + data)[:4096]
            closed = True
        except TimeoutError:
            pass
        except OSError:
            closed = True
    return sent, taken, closed, said
