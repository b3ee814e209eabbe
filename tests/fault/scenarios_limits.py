"""Descriptors, threads and memory run out: new requests are refused, running ones continue, and
afterwards the proxy recovers by itself."""

import asyncio

import cgroup
import crowd
import wire
from bench import kinds, scenario

MIB = 1024 * 1024


async def old_work(bench, count=4, seconds=8):
    """Streams that are under way before anything runs out."""
    specs = [bench.spec("old", n=seconds * 5, gap=0.2) for _ in range(count)]
    tasks = [asyncio.create_task(bench.chat(spec, timeout=60)) for spec in specs]
    for spec in specs:
        await bench.seen(spec)
    return tasks


async def check_old_work(bench, tasks):
    found = await asyncio.gather(*tasks)
    bench.figure(f"old work: {kinds(found)}")
    harmed = [each for each in found if each.kind != "exact"]
    bench.check(not harmed, f"old work was harmed: {harmed[:1]}")


async def probe(bench, count=10):
    """A normal client in the midst of it; how often it was served."""
    served = 0
    for _ in range(count):
        served += (await bench.chat(timeout=2)).kind == "exact"
        await asyncio.sleep(0.2)
    return served


@scenario(
    "emfile",
    "at `ulimit -n 64` 200 connections do no harm: old work is kept, new refused, and it recovers",
    3,
    env={"PROXY_WORKERS": "16"},
    nofile=(64, 64),
    witness=False,
)
async def emfile(bench):
    tasks = await old_work(bench)
    people = crowd.Crowd()
    try:
        await people.open(bench.addr, 200)
        await asyncio.sleep(2)
        served = await probe(bench)
        people.look()
        bench.figure(f"200 idle: {len(people.held)} held, {served} of 10 chats served meanwhile")
        bench.check(bench.proxy.alive, "the proxy died")
        # The other way to use descriptors up: requests, each of which needs one upstream.
        found = await bench.chats(60, timeout=10, n=4, wait=0.5)
        bench.figure(f"60 at once: {kinds(found)}")
        bad = [each for each in found if each.kind in ("damaged", "truncated")]
        bench.check(not bad, f"answers that are wrong: {bad[:1]}")
    finally:
        people.close()
    await check_old_work(bench, tasks)
    await bench.check_served(5)


@scenario(
    "nofile-raised",
    "the soft limit of descriptors is raised to the hard one at the start",
    3,
    lane="quiet",
    nofile=(256, 4096),
    witness=False,
)
async def nofile_raised(bench):
    with open(f"/proc/{bench.proxy.pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max open files"))
    bench.figure(" ".join(line.split()))
    bench.check(line.split()[3] == "4096", f"the soft limit is {line.split()[3]}")


@scenario(
    "pids-max",
    "when no more threads may be made, old work is kept, new refused, and it recovers",
    3,
    env={"PROXY_WORKERS": "16"},
    witness=None,
    needs=lambda: cgroup.missing("pids"),
)
async def pids_max(bench):
    with cgroup.group("pids") as group:
        bench.start(prepare=group.join)
        try:
            await bench.warm_up()
            tasks = await old_work(bench)
            group.write("pids.max", bench.proxy.read().threads + 4)
            people = crowd.Crowd()
            try:
                await people.open(bench.addr, 200)
                await asyncio.sleep(2)
                served = await probe(bench)
                people.look()
                refused = group.read("pids.events").split()[-1]
                bench.figure(
                    f"200 idle: {len(people.held)} held, {refused} threads refused, "
                    f"{served} of 10 chats served meanwhile"
                )
                bench.check(bench.proxy.alive, "the proxy died")
            finally:
                people.close()
            await check_old_work(bench, tasks)
            await bench.check_served(10, "served again, the limit still on")
            group.write("pids.max", "max")
            await bench.finish()
            bench.before = None
        finally:
            bench.proxy.stop()


@scenario(
    "memory-limit",
    "bodies that would need far more than the container's memory: some refused, nothing killed",
    3,
    limit=120,
    env={"PROXY_WORKERS": "64"},
    witness=None,
    grow=96,
    needs=lambda: cgroup.missing("memory"),
)
async def memory_limit(bench):
    limit = 192 * MIB
    with cgroup.group("memory") as group:
        group.write("memory.limit_in_bytes", limit)
        bench.start(prepare=group.join)
        try:
            await bench.warm_up()
            tasks = await old_work(bench, seconds=10)
            # 48 bodies of 16 MiB each, whose last byte never comes: four times the limit.
            head = wire.request("POST", "/api/chat", b"", close=False)
            head = head.replace(b"Content-Length: 0", b"Content-Length: %d" % (16 * MIB))
            block = b" " * 65536
            most = 16 * MIB - len(block)
            uploads = [
                asyncio.to_thread(crowd.flood, bench.addr, head, block, most, 20, patience=6)
                for _ in range(48)
            ]
            results, peak = await bench.peak(asyncio.gather(*uploads))
            # An unread body's refusal comes behind an interim answer.
            heads = [said.split(b"\r\n\r\n") for _, _, _, said in results if said]
            finals = [[head for head in each if b" 100 " not in head[:16]] for each in heads]
            answers = [each[0].split(b"\r\n")[0] for each in finals if each]
            kill = "oom_kill 0" not in group.read("memory.oom_control")
            bench.figure(
                f"48 uploads of 16 MiB at a limit of {limit // MIB} MiB: {len(answers)} refused, "
                f"peak {peak.rss:.0f} MiB"
            )
            bench.check(not kill, "the kernel killed for memory")
            if not bench.check(bench.proxy.alive, "the proxy died"):
                for task in tasks:
                    task.cancel()
                return
            right = [a for a in answers if b" 503 " in a or b" 413 " in a or b" 408 " in a]
            bench.check(right, f"none was refused: {answers[:3]}")
            await check_old_work(bench, tasks)
            await bench.check_served(10)
            await bench.finish()
            bench.before = None
        finally:
            bench.proxy.stop()
