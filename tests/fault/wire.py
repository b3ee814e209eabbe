"""An HTTP/1.1 client over raw sockets that reports how a response ended.

`ask` is one request on a connection of its own; `Wire` is a connection that sends what it is told
and reads answers one by one. All of it is asyncio, so that one process can hold thousands.
"""

import asyncio
import json
import socket
import struct
import time

LARGEST = 64 * 1024 * 1024


class Answer:
    """A response as far as it was received. `error` is the reason if it is incomplete."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.body = b""
        self.error = None
        self.began = time.monotonic()
        self.first = None
        self.first_data = None
        self.ended = None

    @property
    def whole(self):
        return self.status is not None and self.error is None

    @property
    def seconds(self):
        return (self.ended or time.monotonic()) - self.began

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    def __str__(self):
        error = f" ({self.error})" if self.error else ""
        return f"{self.status}{error} after {self.seconds:.2f} s: {self.body[:120]!r}"


class Wire:
    """A connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, addr, source=None, small=False, timeout=10):
        """Connects from the loopback address `source`; `small` sets a small receive buffer."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            if source:
                sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                sock.bind((source, 0))
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(sock, addr), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            limit = 4096 if small else 65536
            return cls(*await asyncio.open_connection(sock=sock, limit=limit))
        except BaseException:
            sock.close()
            raise

    async def send(self, data, timeout=30):
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), timeout)

    def half_close(self):
        self.writer.write_eof()

    def close(self):
        self.writer.close()

    def reset(self):
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ends(self, timeout):
        """Whether the peer closes within the time, whatever it sends before."""
        try:
            async with asyncio.timeout(timeout):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    async def answer(self, timeout=30, method="POST", pause=0.0):
        """Reads the next answer; `pause` is the sleep of a slow reader before each read."""
        answer = Answer()
        try:
            async with asyncio.timeout(timeout):
                await self._head(answer)
                await self._body(answer, method, pause)
        except TimeoutError:
            answer.error = "timeout"
        except asyncio.IncompleteReadError as error:
            answer.body += error.partial if answer.status else b""
            answer.error = "cut" if answer.first else "closed"
        except OSError as error:
            answer.error = type(error).__name__
        except (ValueError, IndexError) as error:
            answer.error = f"nonsense ({error})"
        answer.ended = time.monotonic()
        return answer

    async def _line(self):
        return (await self.reader.readuntil(b"\r\n"))[:-2]

    async def exchange(self, data, timeout=30, pause=0.0):
        """Sends a request and reads its answer, which may come before all was sent."""
        began = time.monotonic()
        try:
            await self.send(data, timeout)
        except (OSError, TimeoutError):
            timeout = 1
        answer = await self.answer(timeout, pause=pause)
        answer.began = began
        return answer

    async def _head(self, answer):
        line = await self._line()
        answer.first = time.monotonic()
        version, status = line.split(b" ")[:2]
        if not version.startswith(b"HTTP/1."):
            raise ValueError(f"a status line {line[:40]!r}")
        answer.status = int(status)
        while line := await self._line():
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers[name.lower()] = value.strip()
        if answer.status == 100:
            answer.headers.clear()
            await self._head(answer)

    async def _body(self, answer, method, pause):
        if method == "HEAD" or answer.status in (204, 304):
            return
        if "chunked" in answer.headers.get("transfer-encoding", ""):
            while True:
                length = int(await self._line(), 16)
                if length == 0:
                    await self._line()
                    return
                await self._exactly(answer, length, pause)
                if await self._line():
                    raise ValueError("a frame longer than it says")
        if "content-length" in answer.headers:
            await self._exactly(answer, int(answer.headers["content-length"]), pause)
            return
        while data := await self.reader.read(65536):
            answer.body += data

    async def _exactly(self, answer, length, pause):
        while length:
            if pause:
                await asyncio.sleep(pause)
            data = await self.reader.read(min(length, 512 if pause else 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            answer.body += data
            answer.first_data = answer.first_data or time.monotonic()
            length -= len(data)
            if len(answer.body) > LARGEST:
                raise ValueError("an answer too large for the checker")


def request(method, path, body=None, headers=(), close=True):
    """The bytes of a request."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + data


async def ask(addr, method, path, body=None, source=None, timeout=30, headers=()):
    """One request on its own connection."""
    began = time.monotonic()
    try:
        wire = await Wire.open(addr, source, timeout=timeout)
    except (OSError, TimeoutError) as error:
        answer = Answer()
        answer.error = f"no connection ({type(error).__name__})"
        answer.ended = time.monotonic()
        return answer
    try:
        await wire.send(request(method, path, body, headers))
        answer = await wire.answer(timeout, method)
    except (OSError, TimeoutError):
        answer = await wire.answer(1, method)
    finally:
        wire.close()
    answer.began = began
    return answer


async def get(addr, path, **options):
    return await ask(addr, "GET", path, **options)
