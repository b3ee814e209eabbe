"""Uploads, and clients that close the connection or only stop sending."""

import asyncio
import os
import subprocess
import sys
import time

import crowd
import dialects
import machine
import wire
from bench import kinds, outcome, scenario

MIB = 1024 * 1024
READ_AWAY = 272 * MIB  # Of a refused body, so that its sender hears the answer; and the buffers.
CUT_WITHIN = 60  # A stalled upload, whatever the floor and the deadline are exactly.
GONE_WITHIN = 1.0


@scenario(
    "stalled-uploads",
    "200 stalled or trickling uploads hold no worker of 8, and are cut; an honest slow one not",
    1,
    lane="quiet",
    limit=130,
    env={"PROXY_WORKERS": "8"},
)
async def stalled_uploads(bench):
    stalled, trickling = crowd.Crowd(20), crowd.Crowd(21)
    head = (
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000\r\n\r\n" + b'{"model":"scripted","messages":[' + b" " * 1200
    )

    async def honest():
        """300 KiB at 60 KiB a second."""
        each = await wire.Wire.open(bench.addr)
        spec = bench.spec(n=6)
        body = dialects.CHAT.build(spec)
        body["messages"].insert(0, {"role": "system", "content": "x" * 300 * 1024})
        data = wire.request("POST", "/api/chat", body)
        for start in range(0, len(data), 15 * 1024):
            await each.send(data[start : start + 15 * 1024])
            await asyncio.sleep(0.25)
        found = outcome(dialects.CHAT, spec, await each.answer())
        each.close()
        return found

    try:
        await stalled.open(bench.addr, 150, head)
        await trickling.open(bench.addr, 50, head)
        slow = asyncio.create_task(honest())
        await asyncio.sleep(1)
        found = await bench.chats(8, timeout=10, n=10)
        bench.figure(f"8 chats beside them: {kinds(found)}")
        bench.check(all(each.kind == "exact" for each in found), "chats beside them")
        await asyncio.gather(trickling.drip(CUT_WITHIN, b"x"), stalled.wait(CUT_WITHIN))
        for name, people in (("stalled", stalled), ("trickling", trickling)):
            times = sorted(people.closed.values())
            last = f", the last after {times[-1]:.0f} s" if times else ""
            bench.figure(f"{len(times)} of {len(people)} {name} cut{last}")
            left = len(people.held)
            bench.check(left == 0, f"{left} {name} uploads live longer than {CUT_WITHIN} s")
        found = await slow
        bench.check(found.kind == "exact", f"an honest slow upload: {found.kind} {found.answer}")
    finally:
        stalled.close()
        trickling.close()


@scenario(
    "body-flood",
    "bodies beyond the limit, claimed, chunked without end, or many at once: 413, cut, no growth",
    1,
    limit=120,
    env={"MAX_BODY_BYTES": "1MiB", "PROXY_WORKERS": "16"},
)
async def body_flood(bench):
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    claim = b"Content-Length: %d\r\n\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    ways = [
        ("10 MiB claimed", head + claim % (10 * MIB), b" " * 65536, 10 * MIB),
        ("a petabyte claimed", head + claim % (1 << 50), b" " * 65536, 1024 * MIB),
        ("chunks without end", chunked, chunk, 1024 * MIB),
    ]
    for name, opening, block, most in ways:
        work = asyncio.to_thread(crowd.flood, bench.addr, opening, block, most, 15, patience=15)
        (sent, taken, closed, said), peak = await bench.peak(work)
        grown = peak.rss - bench.before.rss
        bench.figure(f"{name}: {sent / MIB:.1f} MiB taken in {taken:.1f} s, +{grown:.0f} MiB")
        # A client that goes on sending may lose the answer to the reset of the close.
        good = b"HTTP/1.1 413 " in said or not said
        bench.check(good, f"{name}: the answer is {said[:40]!r}")
        bench.check(closed, f"{name}: the connection was not closed")
        bench.check(sent <= READ_AWAY, f"{name}: {sent / MIB:.0f} MiB were taken")
        bench.check(grown < 48, f"{name}: the memory grew by {grown:.0f} MiB")
    for name, opening, _, _ in ways[:2]:
        each = await wire.Wire.open(bench.addr)
        await each.send(opening + b" " * 2000)
        answer = await each.answer(5)
        bench.check(answer.status == 413, f"{name}, and a patient client: {answer}")
        bench.check(await each.ends(10), f"{name}: its connection stays open")
        each.close()
    many = [
        asyncio.to_thread(
            crowd.flood, bench.addr, *ways[place % 2 * 2][1:3], 32 * MIB, 15, patience=15
        )
        for place in range(100)
    ]
    results, peak = await bench.peak(asyncio.gather(*many))
    grown = peak.rss - bench.before.rss
    left = sum(not closed for _, _, closed, _ in results)
    bench.figure(f"100 at once: {left} not closed, +{grown:.0f} MiB")
    bench.check(left == 0, f"100 at once: {left} connections were not closed")
    bench.check(grown < 128, f"100 at once: the memory grew by {grown:.0f} MiB")


async def killed(bench, data):
    """Has another process ask, and kills that; gives when."""
    process = subprocess.Popen(
        [sys.executable, os.path.join(machine.HERE, "leaver.py"), str(bench.addr[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=machine.tied(),
    )
    process.stdin.write(data)
    process.stdin.close()
    await asyncio.to_thread(process.stdout.readline)
    await asyncio.sleep(0.4)
    left = time.monotonic()
    process.kill()
    process.wait()
    process.stdout.close()
    return left


async def left_by(bench, how, data):
    """Asks, waits until the request must be upstream, and leaves; gives when."""
    if how == "kill -9":
        return await killed(bench, data)
    each = await wire.Wire.open(bench.addr)
    await each.send(data)
    await asyncio.sleep(0.5)
    left = time.monotonic()
    each.reset() if how == "RST" else each.close()
    return left


@scenario(
    "client-gone",
    "a client that leaves (FIN, RST, kill -9), also before the first byte: upstream ends in 1 s",
    1,
    lane="quiet",
    env={"PROXY_WORKERS": "48"},
)
async def client_gone(bench):
    stages = {
        "before the head": {"fault": "hang"},
        "before the first token": {"fault": "stall", "at": 0},
        "midway": {"fault": "stall", "at": 4},
    }
    ways = [dialects.CHAT, dialects.CHAT_WHOLE, dialects.V1, dialects.MESSAGES]

    async def leave(how, stage, members, dialect):
        name = f"{dialect.name} by {how} {stage}"
        spec = bench.spec("leaver", n=8, **members)
        left = await left_by(bench, how, bench.opening(spec, dialect))
        await asyncio.sleep(GONE_WITHIN + 0.5)
        entry = (await bench.journal(spec["id"])).get(spec["id"])
        if not bench.check(entry, f"{name}: the upstream never saw it"):
            return None
        if not bench.check(entry["gone"], f"{name}: the upstream call goes on"):
            return None
        delay = entry["gone"][0] - left
        bench.check(0 <= delay <= GONE_WITHIN, f"{name}: cancelled after {delay:.2f} s")
        return delay

    delays = []
    for how in ("FIN", "RST", "kill -9"):
        found = await asyncio.gather(
            *(
                leave(how, stage, members, dialect)
                for stage, members in stages.items()
                for dialect in ways
                # A whole answer is one piece behind its head.
                if (stage, dialect) != ("midway", dialects.CHAT_WHOLE)
            )
        )
        seen = [delay for delay in found if delay is not None]
        delays.append(f"{how} {len(seen)} of {len(found)}")
        if seen:
            delays[-1] += f" within {max(seen):.2f} s"
    bench.figure("cancelled: " + ", ".join(delays))
    found = await bench.chats(48, timeout=5, wait=0.5)
    bench.check(
        all(each.kind == "exact" for each in found), f"48 workers after it: {kinds(found)}"
    )


@scenario(
    "half-closed",
    "a client that closes its sending side and goes on reading gets its whole answer",
    1,
    lane="quiet",
)
async def half_closed(bench):
    async def half(dialect, **members):
        spec = bench.spec("half", n=20, **members)
        each = await wire.Wire.open(bench.addr)
        await each.send(bench.opening(spec, dialect))
        each.half_close()
        found = outcome(dialect, spec, await each.answer(20))
        each.close()
        what = f"{dialect.name} {members}: {found.kind} {found.answer}"
        bench.check(found.kind == "exact", what)
        return found

    found = await asyncio.gather(
        *(
            half(dialect, **members)
            for dialect in dialects.ALL
            for members in ({}, {"wait": 3}, {"gap": 0.1})
        )
    )
    bench.figure(kinds(found))
