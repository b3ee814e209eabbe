"""A client of large requests and answers: sends in pieces, keeps only the end of what it reads, and says how
the exchange ended."""

import asyncio
import collections

MIB = 1024 * 1024
PIECE = 256 * 1024
TAIL = 4096

Ended = collections.namedtuple("Ended", "kind status tail bytes")

# What a stream that is complete ends with, on any route.
ENDS = (b'"done":true', b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")
TOLD = (b'"error"', b"event: error", b"response.failed")


class Reader:
    """Reads an answer; `kind` is what became of it:

    - `served`: a good status, and an end that says that all is there;
    - `refused`: 503 or 413; `told`: another error, by its status or in the stream;
    - `cut`: an end that no client takes for a whole answer;
    - `silent`: a stream that ends as if it was whole, without saying so: never right.
    """

    def __init__(self, reader, pause, progress):
        self.progress = progress
        self.reader = reader
        self.pause = pause
        self.tail = b""
        self.count = 0

    async def take(self, data):
        self.progress()
        self.tail = (self.tail + data)[-TAIL:]
        before, self.count = self.count, self.count + len(data)
        # Once for each piece, however small the reads are.
        if self.pause and before // PIECE != self.count // PIECE:
            await asyncio.sleep(self.pause)

    async def take_all(self, left):
        """Reads so many bytes; whether they all came."""
        while left:
            data = await self.reader.read(min(left, PIECE))
            if not data:
                return False
            left -= len(data)
            await self.take(data)
        return True

    async def read(self):
        status, headers = await self.head()
        try:
            whole = await self.body(headers)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            whole = False
        kind = self.kind(status, headers, whole)
        return Ended(kind, status, self.tail[-300:], self.count)

    async def head(self):
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *rest = head.decode("latin-1").split("\r\n")
            status = int(line.split(" ")[1])
            if status != 100:
                return status, dict(each.lower().split(": ", 1) for each in rest if ": " in each)

    async def body(self, headers):
        """Whether it came to its end."""
        if "content-length" in headers:
            return await self.take_all(int(headers["content-length"]))
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            if not await self.take_all(size):
                return False
            await self.reader.readexactly(2)
            if size == 0:
                return True

    def kind(self, status, headers, whole):
        if status in (503, 413):
            return "refused"
        if status != 200:
            return "told"
        if not whole:
            return "cut"
        kind = headers.get("content-type", "")
        is_stream = "event-stream" in kind or "ndjson" in kind
        if is_stream and any(mark in self.tail for mark in TOLD):
            return "told"
        if is_stream and not any(mark in self.tail for mark in ENDS):
            return "silent"
        return "served"


def head_of(path, length, kind="application/json", coding=None):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"Content-Encoding: {coding}"] if coding else []
    lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def send(writer, head, body, chunked, progress):
    writer.write(head)
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        await writer.drain()
        progress()
    if chunked:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def watched(work, limit, silence):
    """Awaits `work`, as long as `progress` is called within each `silence` seconds."""
    loop = asyncio.get_running_loop()
    last = [loop.time()]
    task = asyncio.ensure_future(work(lambda: last.__setitem__(0, loop.time())))
    until = loop.time() + limit
    try:
        while not task.done():
            await asyncio.wait([task], timeout=1)
            if not task.done() and (loop.time() > until or loop.time() - last[0] > silence):
                raise TimeoutError
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(addr, path, body, chunked=False, pause=0, timeout=400, silence=60, **head):
    """Sends a request and reads its answer; `hung` if nothing moves for so long, `reset` if the connection
    ended without an answer."""
    writer = None

    async def exchange(progress):
        nonlocal writer
        reader, writer = await asyncio.open_connection(*addr)
        opening = head_of(path, None if chunked else len(body), **head)
        sending = asyncio.ensure_future(send(writer, opening, body, chunked, progress))
        try:
            return await Reader(reader, pause, progress).read()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    try:
        return await watched(exchange, timeout, silence)
    except TimeoutError:
        return Ended("hung", None, b"", 0)
    except (OSError, asyncio.IncompleteReadError):
        return Ended("reset", None, b"", 0)
    finally:
        if writer is not None:
            writer.transport.abort()


def zstd_of(text, size):
    """A zstd frame that unfolds to `text` with an `@` in it replaced by `size` letters: blocks of one letter
    that is repeated (RFC 8878 section 3.1.1)."""
    before, after = text.split(b"@")
    out = bytearray(b"\x28\xb5\x2f\xfd\x00\x58")

    def block(kind, length, data, last=0):
        out.extend((length << 3 | kind << 1 | last).to_bytes(3, "little"))
        out.extend(data)

    block(0, len(before), before)
    while size > 0:
        block(1, min(size, 1 << 17), b"x")
        size -= 1 << 17
    block(0, len(after), after, 1)
    return bytes(out)


def form(model, size):
    """A multipart form with a file of this size."""
    edge = b"--edge\r\nContent-Disposition: form-data; name="
    file = edge + b'"file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + b"R" * size
    return edge + b'"model"\r\n\r\n' + model.encode() + b"\r\n" + file + b"\r\n--edge--\r\n"
