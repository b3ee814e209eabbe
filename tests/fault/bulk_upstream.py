#!/usr/bin/env python3
"""An upstream that reads requests of any size and answers with much: bulk_upstream.py [--port N].

The first line of output is the port. The model names what is answered (`MODELS` in bulk.py): the kind,
and MiB or, for `slow`, nothing. A body is not parsed: only the model's name is searched in it.
"""

import argparse
import asyncio
import re

import bulk
import machine
import upstream_wire as wire

NAME = re.compile(rb'"model"\s*:\s*"([\w.-]+)"|name="model"\r\n\r\n([\w.-]+)')
SLOW_BYTES = 256 * 1024
SLOW_PAUSE = 0.05


class Connection:
    """One connection; requests are answered one after the other."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def serve(self):
        try:
            while await self.one():
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            self.writer.close()

    async def one(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = dict(each.lower().split(": ", 1) for each in rest if ": " in each)
        model, stream = await self.read_body(headers)
        if method == "GET":
            self.writer.write(bulk.model_list() if path.endswith("/models") else wire.missing())
        else:
            await self.answer(path, model, stream)
        await self.writer.drain()
        return True

    async def read_body(self, headers):
        """Reads a body; gives the model's name and whether a stream is asked for. One for a slow model
        is read slowly."""
        chunked = "chunked" in headers.get("transfer-encoding", "")
        left = int(headers.get("content-length", 0))
        kept, model, stream = bytearray(), None, False
        while left or chunked:
            if chunked:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                data = (await self.reader.readexactly(size + 2))[:size]
                if size == 0:
                    break
            else:
                data = await self.reader.read(min(left, SLOW_BYTES))
                if not data:
                    raise ValueError("a body that is cut")
                left -= len(data)
            kept += data
            stream = stream or b'"stream":true' in kept
            found = None if model else NAME.search(kept)
            model = model or (found and (found[1] or found[2]).decode())
            del kept[:-256]
            if model == "slow":
                await asyncio.sleep(SLOW_PAUSE)
        return model or "text", stream

    async def answer(self, path, model, stream):
        kind, _, size = model.partition("-")
        size = int(size or 0) * bulk.MIB
        if kind == "slow":
            await asyncio.sleep(0.5)
        if "embeddings" in path:
            await self.whole(bulk.embeddings(size))
        elif kind in ("event", "calls", "tokens") or stream and kind != "whole":
            await self.stream(bulk.events(kind, size))
        else:
            await self.whole(bulk.completion(size))

    async def whole(self, pieces):
        """The pieces of a body, with their length before them."""
        length = sum(map(len, pieces))
        self.writer.write(wire.head(200, "application/json", [("Content-Length", length)]))
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def stream(self, events):
        headers = [("Transfer-Encoding", "chunked")]
        self.writer.write(wire.head(200, "text/event-stream", headers))
        for pause, pieces in events:
            for piece in pieces:
                self.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await self.writer.drain()
            if pause:
                await asyncio.sleep(pause)
        self.writer.write(b"0\r\n\r\n")


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    options = arguments.parse_args()
    machine.raise_nofile()
    machine.quiet()

    async def serve(reader, writer):
        await Connection(reader, writer).serve()

    server = await asyncio.start_server(serve, "127.0.0.1", options.port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
