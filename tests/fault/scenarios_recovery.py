"""An upstream that stops and restarts, and what the proxy remembers of it."""

import asyncio
import random
import time

import dialects
import wire
from bench import SERVED_WITHIN, kinds, scenario, worst

RECOVERED_WITHIN = 45  # However long an open circuit waits before it tries again.
SHORT = {"REQUEST_TIMEOUT": "5", "RETRY_MAX": "2", "RETRY_INITIAL_MS": "100"}


async def check_workers(bench, count):
    """Whether so many requests can be worked on at once."""
    await bench.upstream_peak(reset=True)
    found = await bench.chats(count, wait=1.0)
    peak = await bench.upstream_peak()
    bench.check(all(each.kind == "exact" for each in found), f"{count} at once: {kinds(found)}")
    bench.check(peak >= count, f"only {peak} of {count} workers came back")


@scenario(
    "upstream-restart",
    "killed and restarted 20 times under 64 streams: each is complete and exact, or an error",
    4,
    limit=150,
    env={**SHORT, "PROXY_WORKERS": "64"},
    witness=False,
)
async def upstream_restart(bench):
    found = []
    going = True

    async def client(number):
        dialect = dialects.ALL[number % len(dialects.ALL)]
        while going:
            found.append(await bench.chat(bench.spec(n=40, gap=0.01), dialect, timeout=40))
            if found[-1].kind != "exact":
                await asyncio.sleep(0.1)

    clients = [asyncio.create_task(client(number)) for number in range(64)]
    for _ in range(20):
        await asyncio.sleep(0.7)
        await asyncio.to_thread(bench.upstream.kill)
        await asyncio.sleep(0.15)
        await asyncio.to_thread(bench.upstream.start)
    await asyncio.sleep(0.5)
    going = False
    await asyncio.gather(*clients)
    bench.figure(f"{len(found)} streams: {kinds(found)}, worst {worst(found):.1f} s")
    # Without its counts: killed behind the reason to finish, before the usage.
    well = ("exact", "uncounted", "error", "busy")
    bad = [each for each in found if each.kind not in well]
    bench.check(not bad, f"{len(bad)} ended otherwise: {bad[:1]}")
    bench.check(sum(each.kind == "exact" for each in found) >= 64, "hardly any was exact")
    taken = await bench.check_served(RECOVERED_WITHIN)
    if taken is not None:
        bench.figure(f"served {taken:.1f} s after the last restart")
        await check_workers(bench, 64)


@scenario(
    "upstream-flapping",
    "an upstream that changes between well, resetting, closing and 503: every request ends",
    4,
    env={**SHORT, "PROXY_WORKERS": "32"},
    witness=False,
)
async def upstream_flapping(bench):
    found = []
    going = True
    source = random.Random(4)
    moods = [
        {},
        {"fault": "reset"},
        {"fault": "close"},
        {"fault": "status", "status": 503},
        {"fault": "stall", "at": 2},
        {"models": False, "fault": "reset"},
    ]

    async def client(number):
        dialect = dialects.ALL[number % len(dialects.ALL)]
        while going:
            found.append(await bench.chat(bench.spec(n=10), dialect, timeout=40))
            if found[-1].kind != "exact":
                await asyncio.sleep(0.05)

    clients = [asyncio.create_task(client(number)) for number in range(32)]
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        await bench.mode(**source.choice(moods))
        await asyncio.sleep(0.3)
    await bench.mode()
    going = False
    await asyncio.gather(*clients)
    bench.figure(f"{len(found)} requests: {kinds(found)}, worst {worst(found):.1f} s")
    bad = [each for each in found if each.kind not in ("exact", "error", "busy")]
    bench.check(not bad, f"{len(bad)} ended otherwise: {bad[:1]}")
    taken = await bench.check_served(RECOVERED_WITHIN)
    if taken is not None:
        bench.figure(f"served {taken:.1f} s after it was well")
        await check_workers(bench, 32)


@scenario(
    "stale-pool",
    "pooled connections that have died are not handed out: no client notices",
    4,
    lane="quiet",
    # A retry would show by its wait, and more than one is not allowed.
    env={"RETRY_MAX": "1", "RETRY_INITIAL_MS": "4000", "PROXY_WORKERS": "16"},
)
async def stale_pool(bench):
    async def after(name, **members):
        """Eight pooled connections that will not serve again, then three requests."""
        await bench.chats(8, wait=0.3, **members)
        await asyncio.sleep(0.1)
        for place in range(3):
            found = await bench.chat(bench.spec("after"), timeout=15)
            seconds = found.answer.seconds
            good = found.kind == "exact" and seconds < SERVED_WITHIN
            bench.check(good, f"{name}, request {place + 1}: {found.kind} {found.answer}")

    await after("closed while idle", after="close")
    await after("reset at the next request", after="poison")
    # Enough for the workers all at once.
    await bench.chats(8, wait=0.3, after="poison")
    found = await bench.chats(8)
    good = all(each.kind == "exact" for each in found) and worst(found) < SERVED_WITHIN
    bench.check(good, f"8 at once on 8 dead connections: {kinds(found)}, {worst(found):.1f} s")
    bench.figure(f"8 at once: worst {worst(found):.2f} s")


@scenario(
    "circuit",
    "the circuit opens on a dead upstream, refuses at once, tries again and closes; all visible",
    4,
    lane="quiet",
    env={**SHORT, "RETRY_MAX": "0", "PROXY_WORKERS": "16"},
    witness=False,
)
async def circuit(bench):
    async def state():
        return (await wire.get(bench.addr, "/openai/health")).json().get("circuit")

    async def is_closed():
        return await state() == "closed"

    first = await state()
    bench.check(first == "closed", f"circuit of a well upstream: {first}")
    bench.upstream.kill()
    seen = set()
    limit = time.monotonic() + 15
    while time.monotonic() < limit and "open" not in seen:
        await bench.chat(timeout=10)
        seen.add(await state())
    bench.check("open" in seen, f"a dead upstream, and the circuit was only {seen}")
    found = [await bench.chat(timeout=10) for _ in range(20)]
    bench.figure(f"open: {kinds(found)}, worst {worst(found):.3f} s")
    bench.check(worst(found) < 0.5, f"refused only after {worst(found):.2f} s")
    status = {each.answer.status for each in found}
    bench.check(status <= {502, 503}, f"refused with {status}")
    metrics = await wire.get(bench.addr, "/metrics")
    shown = [line for line in metrics.body.split(b"\n") if b"circuit" in line]
    bench.check(shown, "no metric tells of the circuit")
    bench.upstream.start()
    taken = await bench.until(is_closed, RECOVERED_WITHIN)
    served = await bench.check_served(RECOVERED_WITHIN)
    if taken is None:
        # Perhaps only a request closes it.
        taken = await bench.until(is_closed, 5)
    bench.check(taken is not None, f"the circuit is {await state()} although the upstream is well")
    if served is not None and taken is not None:
        bench.figure(f"closed {taken:.1f} s after the upstream's return")
