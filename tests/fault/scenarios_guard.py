"""The connection guard: which connections it closes, and which it keeps. Uploads have their own file."""

import asyncio
import time

import crowd
import dialects
import wire
from bench import kinds, scenario

IDLE_LIMIT = 75
HEAD_LIMIT = 10
HEAD_BYTES = 64 * 1024
DEFAULT_CONNECTIONS = 1024
IN_FLIGHT = 16 * 1024 * 1024  # What the kernel's buffers may take before anybody reads.
MIB = 1024 * 1024


@scenario(
    "idle-10k-held",
    "10,000 idle connections are tried with room for all; a normal client notices nothing",
    1,
    env={"MAX_CONNECTIONS": "20000"},
    grow=160,
)
async def idle_10k_held(bench):
    people = crowd.Crowd()
    try:
        _, most = await bench.peak(people.open(bench.addr, 10_000))
        await asyncio.sleep(4)
        people.look()
        peak = bench.proxy.read()
        bench.figure(
            f"tried 10000, held {len(people.held)}, refused {people.refused}, "
            f"at the peak {max(peak.rss, most.rss):.0f} MiB and {peak.fds} fds"
        )
        bench.check(len(people.held) > DEFAULT_CONNECTIONS, "fewer held than the default limit")
        bench.check((await bench.chat()).kind == "exact", "a chat beside them")
    finally:
        people.close()
    await bench.check_served()


@scenario(
    "idle-10k-limited",
    "of 10,000 idle connections the default limit keeps the newest 1,024",
    1,
    # What the allocator keeps after a crowd; a second crowd adds nothing to it (measured).
    grow=48,
)
async def idle_10k_limited(bench):
    people = crowd.Crowd()
    try:
        _, most = await bench.peak(people.open(bench.addr, 10_000))
        few = await people.wait(5, DEFAULT_CONNECTIONS)
        held = people.held
        bench.figure(f"held {len(held)}, refused {people.refused}, peak {most.rss:.0f} MiB")
        bench.check(few, f"{len(held)} connections are held, the limit is {DEFAULT_CONNECTIONS}")
        bench.check(len(held) > DEFAULT_CONNECTIONS * 3 // 4, "far fewer are held than may be")
        # Which one goes while hundreds come each millisecond is a matter of chance; the order as
        # such is not.
        late = sum(place >= len(people) - 2 * DEFAULT_CONNECTIONS for place in held)
        bench.check(late == len(held), f"{len(held) - late} old ones outlived newer ones")
    finally:
        people.close()
    await bench.check_served()


@scenario(
    "idle-keepalive",
    "idle connections end at the keep-alive limit of 75 s, not before; one in use does not",
    1,
    lane="quiet",
    limit=140,
)
async def idle_keepalive(bench):
    began = time.monotonic()
    used = [await wire.Wire.open(bench.addr) for _ in range(10)]
    for each in used:
        await each.send(bench.opening(bench.spec(), close=False))
        bench.check((await each.answer()).whole, "an answer before the rest")
    silent = [await wire.Wire.open(bench.addr) for _ in range(5)]
    stream = asyncio.create_task(bench.chat(bench.spec(n=86, gap=1.0), timeout=120))

    async def lasts(each):
        ended = await each.ends(IDLE_LIMIT + 15)
        return time.monotonic() - began if ended else None

    idle, never = await asyncio.gather(
        asyncio.gather(*map(lasts, used)), asyncio.gather(*map(lasts, silent))
    )
    kept = [taken for taken in idle if taken is None]
    bench.check(not kept, f"{len(kept)} of {len(idle)} idle connections are still open")
    early = [taken for taken in idle if taken and taken < IDLE_LIMIT - 5]
    bench.check(not early, f"{len(early)} idle connections ended early: {early[:3]}")
    bench.check(None not in never, "connections that never said anything are still open")
    found = await stream
    bench.check(found.kind == "exact", f"the connection in use: {found.kind} {found.answer}")
    ends = [taken for taken in idle if taken]
    if ends:
        bench.figure(f"idle ones ended after {min(ends):.0f} to {max(ends):.0f} s")
    for each in used + silent:
        each.close()


@scenario(
    "slow-loris",
    "1,000 clients that send their head byte by byte are cut after 10 s; an honest one is not",
    1,
    lane="quiet",
)
async def slow_loris(bench):
    people = crowd.Crowd()

    async def honest():
        """A head in six pieces over five seconds."""
        each = await wire.Wire.open(bench.addr)
        spec = bench.spec()
        data = bench.opening(spec)
        for start in range(0, 60, 10):
            await each.send(data[start : start + 10])
            await asyncio.sleep(0.8)
        await each.send(data[60:])
        answer = await each.answer()
        each.close()
        return answer.whole and dialects.CHAT.read(answer.body).done

    slow = asyncio.create_task(honest())
    try:
        opening = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
        await people.open(bench.addr, 1000, opening)
        await people.drip(HEAD_LIMIT + 6, b"a")
        closed = sorted(people.closed.values())
        bench.figure(f"{len(closed)} of {len(people)} cut")
        if closed:
            bench.figure(f"after {closed[0]:.1f} to {closed[-1]:.1f} s")
        limit = HEAD_LIMIT + 3
        late = len(people) - sum(taken <= limit for taken in closed)
        bench.check(late == 0, f"{late} slow heads lived longer than {limit} s")
        early = sum(taken < HEAD_LIMIT - 1 for taken in closed)
        bench.check(early == 0, f"{early} were cut before {HEAD_LIMIT} s")
        bench.check(await slow, "an honest slow client was not served")
    finally:
        people.close()


@scenario(
    "header-flood",
    "a head without an end (up to 1 GiB) is cut after 64 KiB and costs no memory",
    1,
    limit=120,
)
async def header_flood(bench):
    begin = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    line = b"X-Flood: " + b"f" * 1000 + b"\r\n"
    block = line * 64
    ways = [
        ("lines without end", begin, block, 1024 * MIB, 25),
        ("one line without end", begin + b"X-Long: ", b"f" * len(block), 64 * MIB, 8),
        ("a request line without end", b"GET /", b"a" * len(block), 64 * MIB, 8),
        ("blanks before the request", b"", b"\r\n" * (len(block) // 2), 64 * MIB, 8),
    ]
    for name, opening, data, most, seconds in ways:
        start = bench.proxy.read()
        work = asyncio.to_thread(crowd.flood, bench.addr, opening, data, most, seconds)
        (sent, taken, closed, _), peak = await bench.peak(work)
        grown = peak.rss - start.rss
        bench.figure(f"{name}: {sent / MIB:.1f} MiB taken in {taken:.1f} s, +{grown:.0f} MiB")
        bench.check(closed, f"{name}: the connection was not closed")
        bench.check(sent <= IN_FLIGHT, f"{name}: {sent / MIB:.0f} MiB were taken")
        bench.check(grown < 64, f"{name}: the memory grew by {grown:.0f} MiB")
    many = [
        asyncio.to_thread(crowd.flood, bench.addr, begin, block, 8 * MIB, 10) for _ in range(32)
    ]
    start = bench.proxy.read()
    results, peak = await bench.peak(asyncio.gather(*many))
    grown = peak.rss - start.rss
    bench.figure(f"32 at once: +{grown:.0f} MiB")
    bench.check(all(closed for _, _, closed, _ in results), "32 at once: some were not closed")
    bench.check(grown < 96, f"32 at once: the memory grew by {grown:.0f} MiB")


@scenario(
    "connection-limit",
    "at MAX_CONNECTIONS the oldest idle connection goes, and never one that has a request in hand",
    1,
    lane="quiet",
    env={"MAX_CONNECTIONS": "64"},
)
async def connection_limit(bench):
    busy = [
        asyncio.create_task(bench.chat(bench.spec(n=40, gap=0.2), timeout=60)) for _ in range(16)
    ]
    await asyncio.sleep(0.5)
    people = crowd.Crowd()
    question = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        # Slowly enough for the order to be certain.
        await people.open(bench.addr, 140, question, pace=0.02)
        await people.wait(3, 64 - 16)
        served = sum(answer.startswith(b"HTTP/1.1 200") for answer in people.received.values())
        held = people.held
        bench.figure(f"16 busy, 140 more: {served} served, {len(held)} held")
        bench.check(len(held) <= 64 - 16, f"{len(held)} are held beside 16 busy ones")
        bench.check(len(held) >= 24, "far fewer are held than may be")
        wrong = [place for place in people.closed if held and place > min(held)]
        bench.check(len(wrong) <= 2, f"{len(wrong)} went before older ones: {wrong[:5]}")
        bench.check(served == len(people), f"only {served} of {len(people)} were served")
        found = await asyncio.gather(*busy)
        bench.figure(f"the busy ones: {kinds(found)}")
        bench.check(all(each.kind == "exact" for each in found), "a busy connection was harmed")
    finally:
        people.close()
