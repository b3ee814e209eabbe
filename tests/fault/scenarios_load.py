"""More requests than the proxy can handle."""

import asyncio
import time

import dialects
import wire
from bench import SERVED_WITHIN, kinds, outcome, scenario, worst
from crowd import Crowd

BUSY = "server busy, please try again.  maximum pending requests exceeded"
GREEDY = "127.0.0.3"


@scenario("burst-500", "three bursts of 500 requests at once are all answered exactly", 3)
async def burst_500(bench):
    for number in range(3):
        found = await bench.chats(500, n=8, timeout=30)
        bench.figure(f"burst {number + 1}: {kinds(found)}, worst {worst(found):.1f} s")
        bad = [each for each in found if each.kind != "exact"]
        bench.check(not bad, f"burst {number + 1}: {len(bad)} not exact: {bad[:1]}")


@scenario(
    "burst-overload",
    "500 at once for 8 workers and 16 places: those are served, all others get 503 at once",
    3,
    env={"PROXY_WORKERS": "8", "OLLAMA_MAX_QUEUE": "16"},
    witness=False,
)
async def burst_overload(bench):
    began = asyncio.create_task(bench.chats(500, n=5, wait=2.0))
    await asyncio.sleep(1.0)
    alive = await wire.get(bench.addr, "/health")
    fine = alive.status == 200 and alive.seconds < SERVED_WITHIN
    bench.check(fine, f"health in the middle: {alive}")
    found = await began
    exact = [each for each in found if each.kind == "exact"]
    busy = [each for each in found if each.kind == "busy"]
    bench.figure(f"{kinds(found)}; the slowest 503 after {worst(busy):.2f} s")
    bench.check(len(exact) + len(busy) == len(found), "answers of other kinds")
    bench.check(len(exact) >= 24, f"only {len(exact)} were served")
    bench.check(worst(busy) < 1.5, f"a 503 took {worst(busy):.2f} s")
    for each in busy:
        answer = each.answer
        right = answer.json().get("error") == BUSY and answer.headers.get("retry-after")
        if not bench.check(right, f"a 503 is not as it must be: {answer} {answer.headers}"):
            break
    await bench.check_served()


@scenario(
    "health-when-busy",
    "health routes answer within a second while every worker and every place is taken",
    3,
    lane="quiet",
    env={"PROXY_WORKERS": "2", "OLLAMA_MAX_QUEUE": "2"},
    witness=False,
)
async def health_when_busy(bench):
    stuck = []
    for _ in range(4):
        each = await wire.Wire.open(bench.addr)
        await each.send(bench.opening(bench.spec("stuck", fault="hang")))
        stuck.append(each)
        await asyncio.sleep(0.1)
    routes = ["/", "/health", "/openai/health", "/api/version", "/metrics"]
    slowest = 0.0
    for method, path in [("HEAD", "/"), *(("GET", path) for path in routes)]:
        for _ in range(3):
            answer = await wire.ask(bench.addr, method, path, timeout=4)
            slowest = max(slowest, answer.seconds)
            good = answer.status == 200 and answer.seconds < SERVED_WITHIN
            if not bench.check(good, f"{method} {path}: {answer}"):
                break
    bench.figure(f"the slowest answer after {slowest:.2f} s")
    more = await bench.chat(timeout=3)
    bench.check(more.kind == "busy", f"one more chat: {more.kind}")
    for each in stuck:
        each.reset()
    await bench.check_served(5, "all workers back after their clients left")


@scenario(
    "fair-share",
    "with MAX_PER_CLIENT one address cannot take all workers; another is served within a second",
    3,
    env={"PROXY_WORKERS": "8", "OLLAMA_MAX_QUEUE": "64", "MAX_PER_CLIENT": "4"},
)
async def fair_share(bench):
    await bench.upstream_peak(reset=True)
    found = []
    for _ in range(3):
        found += await bench.chats(40, source=GREEDY, timeout=30, prefix="greedy", wait=0.5)
    entries = (await bench.journal("greedy")).values()
    marks = sorted(
        [(at, 1) for entry in entries for at in entry["begin"]]
        + [(at, -1) for entry in entries for at in entry["end"]]
    )
    most = now = 0
    for _, step in marks:
        now += step
        most = max(most, now)
    bench.figure(f"120 greedy requests: {kinds(found)}, {most} at once at the upstream")
    bench.check(most <= 4, f"one address had {most} requests at once")
    bench.check(most >= 3, f"one address had only {most} of its 4")
    bad = [each for each in found if each.kind not in ("exact", "busy")]
    bench.check(not bad, f"{len(bad)} ended otherwise: {bad[:1]}")


@scenario(
    "keep-alive-burst",
    "200 keep-alive connections opened at once, each with 20 requests in a row, are all served",
    3,
)
async def keep_alive_burst(bench):
    async def client():
        each = await wire.Wire.open(bench.addr, timeout=30)
        found = []
        for _ in range(20):
            spec = bench.spec(n=4)
            await each.send(bench.opening(spec, close=False))
            found.append(outcome(dialects.CHAT, spec, await each.answer(30)))
            if found[-1].kind != "exact":
                break
        each.close()
        return found

    began = time.monotonic()
    found = sum(await asyncio.gather(*(client() for _ in range(200))), [])
    taken = time.monotonic() - began
    bench.figure(f"{len(found)} requests in {taken:.1f} s: {kinds(found)}")
    bench.check(len(found) == 4000, f"only {len(found)} of 4000 were made")
    bad = [each for each in found if each.kind != "exact"]
    bench.check(not bad, f"{len(bad)} not exact: {bad[:1]}")


@scenario(
    "crowd-around-streams",
    "60 streams are exact that begin behind 120 connections which are gone a moment later",
    3,
)
async def crowd_around_streams(bench):
    found = []
    for _ in range(60):
        # The stream's descriptor is left alone, far above all others.
        crowd = Crowd()
        await crowd.open(bench.addr, 120)
        spec = bench.spec(n=10, gap=0.02)
        stream = await wire.Wire.open(bench.addr)
        await stream.send(bench.opening(spec))
        crowd.close()
        found.append(outcome(dialects.CHAT, spec, await stream.answer(5)))
        stream.close()
    bench.figure(f"{kinds(found)}, worst {worst(found):.1f} s")
    bad = [each for each in found if each.kind != "exact"]
    bench.check(not bad, f"{len(bad)} not exact: {bad[:1]}")
