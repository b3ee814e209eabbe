"""What the proxy costs when nothing happens, and what of a burst stays behind."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time

import crowd
import machine
import sandbox
import wire
from bench import kinds, scenario

MIB = 1024 * 1024
WAKE_UPS = 15  # A second.
SYSTEM_CALLS = 50  # A second.
MEASURED = 10
IN_FLIGHT = 16 * MIB  # What the kernel's buffers may take before anybody reads.
QUESTION = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
# tiny_http's threads end after 5 s without a connection.
REST = 6


async def cost(pid, seconds=MEASURED):
    """Wake-ups a second of a process, and its system calls or None."""
    before = machine.wake_ups(pid)
    await asyncio.sleep(seconds)
    wake_ups = (machine.wake_ups(pid) - before) / seconds
    calls = await asyncio.to_thread(machine.system_calls, pid, seconds)
    return wake_ups, calls and calls / seconds


def check_cost(bench, name, found):
    wake_ups, calls = found
    told = "not counted" if calls is None else f"{calls:.0f}"
    bench.figure(f"{name}: {wake_ups:.1f} wake-ups and {told} system calls a second")
    bench.check(wake_ups <= WAKE_UPS, f"{name}: {wake_ups:.1f} wake-ups a second")
    bench.check((calls or 0) <= SYSTEM_CALLS, f"{name}: {told} system calls a second")


async def keep_alive(addr, count):
    """Connections that are opened at once, and have had one answer each; the longest wait."""
    began = time.monotonic()
    wires = await asyncio.gather(*(wire.Wire.open(addr) for _ in range(count)))
    await asyncio.gather(*(each.send(QUESTION) for each in wires))
    answers = await asyncio.gather(*(each.answer(timeout=10, method="GET") for each in wires))
    bad = [str(each) for each in answers if not each.whole]
    return wires, time.monotonic() - began, bad


@scenario(
    "idle-cost",
    "without requests at most 15 wake-ups and 50 system calls a second, also with three upstreams",
    3,
    lane="quiet",
    witness=None,
    limit=140,
)
async def idle_cost(bench):
    upstreams = [machine.Upstream() for _ in range(3)]
    lines = []
    for number, upstream in enumerate(upstreams):
        lines += ["[[upstream]]", f'name = "u{number}"', 'profile = "generic"']
        lines += [f'base_url = "http://127.0.0.1:{upstream.port}/v1"', ""]
    try:
        bench.proxy = machine.Proxy(bench.binary, config="\n".join(lines))
        await asyncio.sleep(2)
        check_cost(bench, "after the start", await cost(bench.proxy.pid))
        found = await bench.chats(40)
        bench.figure(kinds(found))
        wires, _, bad = await keep_alive(bench.addr, 2)
        bench.check(not bad, f"not answered: {bad}")
        await asyncio.sleep(REST)
        check_cost(bench, "two idle connections", await cost(bench.proxy.pid))
        for each in wires:
            await each.send(QUESTION)
            answer = await each.answer(method="GET")
            bench.check(answer.whole, f"an idle connection is dead: {answer}")
            each.close()
        await asyncio.sleep(REST)
        check_cost(bench, "after traffic", await cost(bench.proxy.pid))
    finally:
        for upstream in upstreams:
            upstream.kill()


@scenario(
    "quiet-flood",
    "a head without an end that comes into the quiet is cut, on a new connection and a known one",
    1,
    witness=False,
    limit=90,
)
async def quiet_flood(bench):
    block = (b"X-Flood: " + b"f" * 1000 + b"\r\n") * 64
    opening = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    for name in ("new", "known") * 3:
        known = crowd.connect(bench.addr, "127.0.0.9")
        if name == "known":
            known.settimeout(5)
            known.sendall(QUESTION)
            bench.check(known.recv(4096).startswith(b"HTTP/1.1 200"), "no answer before it")
        else:
            known.close()
            known = None
        await asyncio.sleep(2)
        start = bench.proxy.read()
        sock = known or crowd.connect(bench.addr, "127.0.0.9")
        work = asyncio.to_thread(crowd.flood_on, sock, opening, block, 1024 * MIB, 8)
        (sent, taken, closed, _), peak = await bench.peak(work)
        grown = peak.rss - start.rss
        bench.figure(f"{name}: {sent / MIB:.1f} MiB in {taken:.3f} s, +{grown:.0f} MiB")
        bench.check(closed, f"{name}: the connection was not closed")
        bench.check(sent <= IN_FLIGHT, f"{name}: {sent / MIB:.0f} MiB were taken")
        bench.check(grown < 64, f"{name}: the memory grew by {grown:.0f} MiB")


@scenario(
    "quiet-slow-head",
    "a head that comes slowly into the quiet, on a known connection, is cut within 13 s",
    1,
    lane="quiet",
    witness=False,
)
async def quiet_slow_head(bench):
    wires, _, bad = await keep_alive(bench.addr, 5)
    bench.check(not bad, f"not answered: {bad}")
    await asyncio.sleep(2)
    began = time.monotonic()

    async def drip(each):
        with contextlib.suppress(OSError):
            for byte in QUESTION[:20]:
                await each.send(bytes([byte]))
                if await each.ends(1):
                    break
        return time.monotonic() - began

    ended = sorted(await asyncio.gather(*map(drip, wires)))
    bench.figure(f"cut after {ended[0]:.1f} to {ended[-1]:.1f} s")
    bench.check(9 <= ended[0] and ended[-1] <= 13, f"cut after {ended}")


@scenario(
    "thousand-streams-once",
    "a thousand streams once: a minute later their threads, descriptors and memory are gone",
    3,
    env={"PROXY_WORKERS": "1000", "MAX_CONNECTIONS": "1200"},
    witness=False,
    grow=24,
    limit=180,
)
async def thousand_streams_once(bench):
    before = bench.proxy.read()
    work = bench.chats(1000, n=12, gap=0.5, timeout=60)
    found, most = await bench.peak(work)
    bench.figure(kinds(found))
    bad = [each for each in found if each.kind != "exact"]
    bench.check(not bad, f"not exact: {bad[:1]}")
    bench.check(most.threads > 1000, f"only {most.threads} threads at the peak")
    began = time.monotonic()

    async def is_back():
        now = bench.proxy.read()
        return now.threads <= before.threads + 8 and now.fds <= before.fds + 8

    taken = await bench.until(is_back, 60)
    await asyncio.sleep(max(0, 60 - (time.monotonic() - began)))
    after = bench.proxy.read()
    bench.figure(f"before {before}; at the peak {most}; a minute later {after}, {after.pooled} pooled")
    bench.check(taken is not None, f"a minute later there are {after}")
    if taken is not None:
        bench.figure(f"threads and descriptors back after {taken:.0f} s")
    grown = after.rss - before.rss
    bench.check(grown <= 24, f"{grown:.0f} MiB stayed behind")


@scenario(
    "proc-silent",
    "six connections at once are answered, and rest costs little, whatever /proc says or does not",
    3,
    witness=None,
    limit=120,
    needs=sandbox.missing,
)
async def proc_silent(bench):
    bench.upstream = machine.Upstream()
    folder = tempfile.mkdtemp(prefix="fault-")
    # Another user has to reach the program.
    for path in (folder, os.path.dirname(folder)):
        if path != "/tmp":
            os.chmod(path, 0o711)
    binary = shutil.copy(bench.binary, os.path.join(folder, "proxy"))
    load = os.path.join(folder, "loadavg")
    with open(load, "w") as file:
        file.write(sandbox.CONSTANT)
    surroundings = {
        "as it is": None,
        "no /proc": sandbox.no_proc,
        "constant /proc": sandbox.constant_proc,
        "threads without files": sandbox.bare_threads,
        "cached load": sandbox.cached_load(load),
        "another user": sandbox.another_user,
        "hidepid": sandbox.hidden_processes,
    }
    proxies = {}
    refresh = asyncio.create_task(refresh_load(load))
    try:
        for name, prepare in surroundings.items():
            url = f"http://127.0.0.1:{bench.upstream.port}/v1"
            proxies[name] = machine.Proxy(binary, url, prepare=prepare)
        worst = await asyncio.gather(*(bursts(bench, *each) for each in proxies.items()))
        with sandbox.busy_process_ids():
            busy = await bursts(bench, "busy process ids", proxies["as it is"])
        bench.figure(f"longest wait {max(*worst, busy):.2f} s")
        await asyncio.sleep(REST)
        costs = await asyncio.gather(*(cost(each.pid, 5) for each in proxies.values()))
        for name, found in zip(proxies, costs):
            check_cost(bench, name, found)
    finally:
        refresh.cancel()
        for each in proxies.values():
            each.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def refresh_load(path):
    """What a daemon does that keeps the load: another number every now and then."""
    number = 4242
    while True:
        await asyncio.sleep(0.3)
        number += 1
        with open(path, "r+") as file:
            file.write(f"0.00 0.00 0.00 1/100 {number}\n")


async def bursts(bench, name, proxy):
    """Bursts on an idle server, and on top of each other; the longest wait."""
    worst = 0
    kept = []
    for count in (6, 6, 6, 64, 6, 6, 20, 6):
        await asyncio.sleep(0.3)
        wires, taken, bad = await keep_alive(proxy.addr, count)
        bench.check(not bad, f"{name}: of {count} at once not answered: {bad[:1]}")
        bench.check(taken < 2, f"{name}: {count} at once waited {taken:.2f} s")
        worst = max(worst, taken)
        kept += wires
        if len(kept) > 80:
            for each in kept:
                each.close()
            kept = []
    for each in kept:
        each.close()
    return worst
