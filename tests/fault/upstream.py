#!/usr/bin/env python3
"""A scripted OpenAI-compatible upstream that fails on demand: upstream.py [--port N] [--replica N]
[--journal FILE] [--responses].

The first line of output is the port. What is answered, and what goes wrong on the way, stands in
the spec of the prompt (spec.py); the faults are explained at `Connection.answer`. `POST /_mode`
lays the members of its body over every spec that follows, until the next one. `GET /_journal?id=P`
tells of all requests whose id begins with P when they began, when the answer ended, and when the
peer was seen to leave, by the monotonic clock that all processes of a machine share. --replica makes
the tokens those of one of several upstreams. --journal appends a line for each stage of an answer to a
file, which stays when this process is killed. With --responses `/v1/responses` is there, too. What must
never come from the proxy is kept as `stray` in `GET /_stats`.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import socket
import struct
import time
import urllib.parse

import machine
import spec as specs
import upstream_wire as wire

REMEMBERED = 50_000


class Book:
    """What is known across connections."""

    def __init__(self, replica=0, journal=None, responses=False):
        self.replica = replica
        self.responses = responses
        self.journal = journal and os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.entries = collections.OrderedDict()
        self.mode = {}
        self.running = 0
        self.peak = 0
        self.connections = 0
        self.requests = 0
        self.stray = []

    def begin(self, spec):
        entry = self.entries.setdefault(spec["id"], {"begin": [], "end": [], "gone": []})
        entry["begin"].append(time.monotonic())
        while len(self.entries) > REMEMBERED:
            self.entries.popitem(last=False)
        self.running += 1
        self.requests += 1
        self.peak = max(self.peak, self.running)
        return entry

    def note(self, stage, spec):
        """`began`, `started` before the head, `ended` behind the last byte."""
        if self.journal is not None:
            os.write(self.journal, f"{stage} {spec['id']}\n".encode())

    def stats(self):
        members = ("running", "peak", "connections", "requests", "stray", "mode")
        return {name: getattr(self, name) for name in members}


class Connection(asyncio.Protocol):
    """One connection; requests are answered one after the other."""

    def __init__(self, book):
        self.book = book
        self.buffer = bytearray()
        self.task = None
        self.entry = None
        self.poisoned = False
        self.room = asyncio.Event()
        self.room.set()

    def connection_made(self, transport):
        self.transport = transport
        self.book.connections += 1
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self):
        self.room.clear()

    def resume_writing(self):
        self.room.set()

    def eof_received(self):
        self.left()
        return False

    def connection_lost(self, _error):
        self.book.connections -= 1
        self.room.set()
        self.left()

    def left(self):
        """The peer closed: what it asked for is not wanted any more."""
        if self.entry is not None:
            self.entry["gone"].append(time.monotonic())
            self.entry = None
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data):
        self.buffer += data
        if self.task is None:
            self.next_request()

    def next_request(self):
        try:
            request = wire.take_request(self.buffer)
            if request is not None and request.has_client_key:
                self.book.stray.append(f"the key of a client: {request.target}")
        except ValueError as error:
            self.book.stray.append(f"nonsense from the proxy: {error}")
            self.transport.abort()
            return
        if request is None or self.transport.is_closing():
            return
        if self.poisoned:
            # The connection was already closed.
            self.reset()
            return
        self.task = asyncio.ensure_future(self.serve(request.method, request.target, request.body))
        self.task.add_done_callback(self.served)

    def served(self, task):
        self.task = None
        if not task.cancelled() and task.exception() is not None:
            self.book.stray.append(repr(task.exception()))
            self.transport.abort()
            return
        if not self.transport.is_closing() and not task.cancelled():
            self.next_request()

    async def serve(self, method, target, body):
        path, _, query = target.partition("?")
        if path.startswith("/_"):
            self.control(path, urllib.parse.parse_qs(query), body)
            return
        mode = self.book.mode
        if method == "GET":
            if mode.get("models") is False:
                self.transport.close()
            else:
                self.transport.write(wire.models() if path.endswith("/models") else wire.missing())
            return
        if path.endswith("/responses") and not self.book.responses:
            self.transport.write(wire.missing())
            return
        request = json.loads(body)
        spec = {**specs.parse(wire.prompt_of(request)), **mode}
        spec = specs.at_replica(spec, self.book.replica)
        if "upload" in spec and specs.checksum(wire.filler_of(request)) != spec["upload"]:
            self.book.stray.append(f"an altered upload: {spec['id']} {path}")
        self.book.note("began", spec)
        self.entry = entry = self.book.begin(spec)
        try:
            await self.answer(path, request, spec, len(entry["begin"]))
        finally:
            self.book.running -= 1
            self.entry = None
            entry["end"].append(time.monotonic())

    def control(self, path, query, body):
        if path == "/_mode":
            self.book.mode = json.loads(body)
            found = {}
        elif path == "/_journal":
            prefix = query.get("id", [""])[0]
            entries = self.book.entries.items()
            found = {name: entry for name, entry in entries if name.startswith(prefix)}
        elif path == "/_peak":
            self.book.peak = self.book.running
            found = {}
        else:
            found = self.book.stats()
        self.transport.write(wire.whole(json.dumps(found).encode()))

    async def answer(self, path, request, spec, attempt):
        """Answers after `wait` seconds, with `gap` seconds between events, and with the `fault`:

        - `close`, `reset`: the connection ends before the answer, by FIN or RST;
        - `hang`: no answer at all;  `halfhead`: a byte of the head each half second, for ever;
        - `status`: an error with this `status` and, if given, `retry_after`;
        - `garbage`: bytes that are no HTTP;
        - `cut`, `cutreset`: FIN or RST after the first `at` bytes of head and body;
        - `stall`: silence after `at` events.

        With `times` only the first attempts of an id meet it. `frame` is how the body is
        delimited (chunked, length, close), `split` cuts the writes at random byte positions, and
        `after` is what becomes of the connection: `close`, or `poison`, which resets it when the
        next request comes.
        """
        await asyncio.sleep(spec.get("wait", 0))
        fault = spec.get("fault")
        if "times" in spec and attempt > spec["times"]:
            fault = None
        if fault == "close":
            self.transport.close()
        elif fault == "reset":
            self.reset()
        elif fault == "hang":
            await asyncio.sleep(3600)
        elif fault == "halfhead":
            while True:
                for byte in b"HTTP/1.1 200 OK\r\nX-Long: ":
                    self.transport.write(bytes([byte]))
                    await asyncio.sleep(0.5)
        elif fault == "garbage":
            self.transport.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            self.transport.close()
        elif fault == "status":
            self.transport.write(wire.refusal(spec["status"], spec.get("retry_after")))
        else:
            self.book.note("started", spec)
            if await self.send(wire.pieces(path, request, spec), spec, fault):
                self.book.note("ended", spec)
            self.finish(spec)

    async def send(self, pieces, spec, fault):
        """Whether all was sent."""
        if spec.get("split"):
            pieces = split(b"".join(pieces), random.Random(spec["seed"]))
        left = spec["at"] if fault in ("cut", "cutreset") else None
        for place, piece in enumerate(pieces):
            if fault == "stall" and place > spec["at"]:
                await asyncio.sleep(3600)
            if left is not None and len(piece) >= left:
                self.transport.write(piece[:left])
                self.reset() if fault == "cutreset" else self.transport.close()
                return False
            left = None if left is None else left - len(piece)
            self.transport.write(piece)
            await self.room.wait()
            if spec.get("gap") and place:
                await asyncio.sleep(spec["gap"])
        return True

    def finish(self, spec):
        if spec.get("after") == "poison":
            self.poisoned = True
        elif spec.get("after") == "close" or spec.get("frame") == "close":
            self.transport.close()

    def reset(self):
        linger = struct.pack("ii", 1, 0)
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


def split(data, random_source):
    """The same bytes, cut anywhere, also within a character."""
    pieces = []
    while data:
        length = random_source.choice((1, 2, 3, 5, 17, 60, 300))
        pieces.append(data[:length])
        data = data[length:]
    return pieces


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--replica", type=int, default=0)
    arguments.add_argument("--journal")
    arguments.add_argument("--responses", action="store_true")
    options = arguments.parse_args()
    machine.raise_nofile()
    machine.quiet()
    book = Book(options.replica, options.journal, options.responses)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(book), "127.0.0.1", options.port, backlog=4096, reuse_address=True
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
