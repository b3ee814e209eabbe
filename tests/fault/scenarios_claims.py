"""Requests whose bodies cannot be held or read, and connections that are reset: in any number they cut
nothing, restart nothing, and leave nothing behind."""

import asyncio
import socket
import struct
import time

import crowd
import wire
from bench import scenario

PETABYTE = 1 << 50
RESET_SECONDS = 3


def claims():
    """Each way to claim a body of an impossible length, with a few bytes of it."""

    def claim(length=PETABYTE, lines="", path="/api/chat", version="1.1", method="POST", sent="{"):
        head = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n{lines}"
        return f"{head}Content-Length: {length}\r\n\r\n{sent}".encode()

    lengths = (1 << 33, 1 << 40, (1 << 47) - 1, 1 << 47, PETABYTE, (1 << 63) - 1, (1 << 64) - 1)
    yield from (claim(length) for length in lengths)
    yield claim(lines="Expect: 100-continue\r\n")
    yield claim(lines="Connection: close\r\n")
    yield claim(lines="Connection: upgrade\r\nUpgrade: h2c\r\n")
    yield claim(version="1.0")
    yield claim(sent="x" * 3000)
    yield claim(lines="Host: twice\r\n")
    yield claim(method="GET", path="/")
    yield claim(path="/nowhere")
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/audio/transcriptions", "/api/blobs/x"):
        yield claim(path=path)
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + claim()


class Stream:
    """A response that lasts as long as the scenario."""

    def __init__(self, bench, seconds):
        self.bench = bench
        self.spec = bench.spec("long", n=seconds * 20, gap=0.05)

    async def run(self):
        found = await self.bench.chat(self.spec, timeout=90)
        self.bench.check(found.kind == "exact", f"the stream beside them: {found.kind}")


async def claimed(bench, count, sources, seconds):
    """Many claims at once beside a stream; the witness is served all the while."""
    response = Stream(bench, seconds)
    stream = asyncio.create_task(response.run())
    bench.check(await bench.seen(response.spec) is not None, "the stream did not begin")
    pid, ways = bench.proxy.pid, list(claims())
    people = [crowd.Crowd(20 + number) for number in range(sources)]
    try:
        for place in range(count):
            opening = ways[place % len(ways)]
            await people[place % sources].open(bench.addr, 1, opening)
            if place % 20 == 19:
                await asyncio.sleep(0)
        most = bench.proxy.read()
        done = [await each.wait(30) for each in people]
        refused = sum(each.refused for each in people)
        told = sum(b"HTTP/1.1 4" in said for each in people for said in each.received.values())
        bench.figure(f"{count} claims from {sources} addresses: {told} told so; meanwhile {most}")
        bench.check(all(done), "connections stay open")
        bench.check(refused == 0, f"{refused} connections were refused")
        bench.check(told >= count * 0.95, f"only {told} of {count} were told")
    finally:
        for each in people:
            each.close()
    await stream
    bench.check(bench.proxy.alive and bench.proxy.pid == pid, "the process ended")
    log = bench.proxy.log()
    bench.check(log.count("listening on") == 1, "the program restarted")
    bench.check("cannot be read or dropped" not in log, "a thread was lost")
    await bench.check_served()


@scenario(
    "claims",
    "600 claims of a petabyte in all forms beside a stream: nothing cut, no restart, all given back",
    1,
    limit=120,
    env={"SHUTDOWN_GRACE": "2"},
)
async def some(bench):
    await claimed(bench, 600, 1, 20)


@scenario(
    "claims-many",
    "3,000 claims of a petabyte from 30 addresses: nothing cut, no restart, all given back",
    1,
    limit=180,
    env={"SHUTDOWN_GRACE": "2", "MAX_CONNECTIONS": "4000"},
)
async def many(bench):
    await claimed(bench, 3000, 30, 40)


@scenario(
    "claims-broken-off",
    "uploads that claim gigabytes and stop, are reset or half-closed midway: no allocation, no loss",
    1,
    limit=120,
)
async def broken_off(bench):
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000000\r\n\r\n"

    async def upload(place):
        each = await wire.Wire.open(bench.addr)
        await each.send(head + b"x" * (1500 + 700 * place))
        if place % 3 == 0:
            each.half_close()
            answer = await each.answer(10)
            bench.check(answer.status in (400, 404), f"half-closed: {answer}")
            each.close()
        elif place % 3 == 1:
            each.reset()
        else:
            each.close()

    _, peak = await bench.peak(asyncio.gather(*(upload(place) for place in range(90))))
    bench.figure(f"at most {peak}")
    await bench.check_served()


def reset_again_and_again(addr, until):
    """Sends a request and resets the connection, until that moment; gives how often."""
    count = 0
    while time.monotonic() < until:
        try:
            with socket.create_connection(addr, 5) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            count += 1
        except OSError:
            pass
    return count


@scenario(
    "resets",
    "a client that sends requests and resets their connections: counted, no line at ERROR, no loss",
    6,
    limit=90,
)
async def resets(bench):
    until = time.monotonic() + RESET_SECONDS
    count = await asyncio.to_thread(reset_again_and_again, bench.addr, until)
    metrics = (await wire.get(bench.addr, "/metrics")).body.decode()
    name = "ollama_proxy_connections_reset_total "
    counted = [line for line in metrics.splitlines() if line.startswith(name)]
    bench.check(counted, "the metric is missing")
    counted = int(counted[0].split()[1]) if counted else 0
    log = bench.proxy.log()
    errors = [line for line in log.splitlines() if "[ERROR]" in line]
    bench.figure(f"{count} resets in {RESET_SECONDS} s, {counted} counted, {len(errors)} errors")
    bench.check(counted > 0, "no reset was counted")
    bench.check(not errors, f"errors in the log: {errors[:1]}")
    await bench.check_served()
