"""Wrong client keys and large heads: what they cost the one thread that receives all requests."""

import asyncio
import os
import time

import wire
from bench import SERVED_WITHIN, kinds, scenario, worst

OWN = "own-key-0f-the-proxy"
LONG = 60_000
ROUNDS = 300
FLOODERS = 16
FLOOD_SECONDS = 5
# Microseconds of the receiving thread for one request, beyond those for a small one.
MOST_BEYOND = 100


def receiver(pid):
    """The thread that receives: the first one that has the name of an acceptor."""
    tasks = sorted(int(task) for task in os.listdir(f"/proc/{pid}/task"))
    for task in tasks:
        with open(f"/proc/{pid}/task/{task}/comm") as comm:
            if comm.read().startswith("accept-"):
                return task
    raise RuntimeError("no thread receives")


def cpu(pid, task):
    """Seconds that a thread has used."""
    try:
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            return int(stat.read().split()[0]) / 1e9
    except OSError:
        with open(f"/proc/{pid}/task/{task}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def heads():
    """Heads of requests by what is large in them, and the statuses that they may get."""
    key = ("x-api-key", OWN)
    many = [key] + [(f"x-{number}", "v" * 590) for number in range(98)]
    return {
        "small": (wire.request("GET", "/api/version", headers=[key], close=False), (200,)),
        "wrong key": (
            wire.request("GET", "/api/version", headers=[("x-api-key", "k" * LONG)], close=False),
            (401, 429),
        ),
        "wrong password": (
            wire.request(
                "GET", "/api/version", headers=[("Authorization", "Basic " + "a" * LONG)], close=False
            ),
            (401, 429),
        ),
        "100 headers": (wire.request("GET", "/api/version", headers=many, close=False), (200,)),
        "long target": (
            wire.request("GET", "/x/" + "y" * 15_000, headers=[key], close=False),
            (404,),
        ),
    }


async def send_all(addr, head, allowed, until):
    """Sends the same head until `until(count)`; gives the answers that are not `allowed`."""
    connection, count, wrong = None, 0, []
    while not until(count):
        if connection is None:
            connection = await wire.Wire.open(addr)
        try:
            await connection.send(head)
            answer = await connection.answer(10, "GET")
        except OSError as error:
            answer = wire.Answer()
            answer.error = type(error).__name__
        count += 1
        if answer.status not in allowed:
            wrong.append(str(answer))
        if answer.status is None or answer.headers.get("connection") == "close":
            connection.close()
            connection = None
    if connection is not None:
        connection.close()
    return count, wrong


async def measure(bench, count):
    """What each kind of head costs the receiving thread, in microseconds."""
    task, costs = receiver(bench.proxy.pid), {}
    for kind, (head, allowed) in heads().items():
        before = cpu(bench.proxy.pid, task)
        _, wrong = await send_all(bench.addr, head, allowed, lambda sent: sent >= ROUNDS)
        costs[kind] = (cpu(bench.proxy.pid, task) - before) / ROUNDS * 1e6
        bench.check(not wrong, f"{kind}: {wrong[:1]}")
    bench.figure(
        f"{count} keys, receiving thread per request: "
        + ", ".join(f"{kind} {cost:.0f} us" for kind, cost in costs.items())
    )
    for kind, cost in costs.items():
        beyond = cost - costs["small"]
        bench.check(beyond < MOST_BEYOND, f"{count} keys: {kind} costs {beyond:.0f} us more")


async def flood(bench):
    """A client with a key is served as ever while others send long wrong ones."""
    head, allowed = heads()["wrong key"]
    end = time.monotonic() + FLOOD_SECONDS
    is_over = lambda _: time.monotonic() >= end
    flooders = [
        asyncio.create_task(send_all(bench.addr, head, allowed, is_over)) for _ in range(FLOODERS)
    ]
    task, found = receiver(bench.proxy.pid), []
    before, began = cpu(bench.proxy.pid, task), time.monotonic()
    while not is_over(0):
        found.append(await bench.chat(headers=[("x-api-key", OWN)], timeout=5))
        await asyncio.sleep(0.05)
    share = (cpu(bench.proxy.pid, task) - before) / (time.monotonic() - began)
    sent = await asyncio.gather(*flooders)
    count, wrong = sum(each[0] for each in sent), [each for _, bad in sent for each in bad]
    bench.figure(
        f"{count} wrong keys of {LONG // 1000} KB in {FLOOD_SECONDS} s: receiving thread {share:.0%} "
        f"busy; meanwhile {kinds(found)}, worst {worst(found):.2f} s"
    )
    bench.check(not wrong, f"a wrong key was not refused: {wrong[:1]}")
    late = [each for each in found if each.kind != "exact"]
    bench.check(found and not late, f"the right key was not served: {late[:1]}")
    bench.check(worst(found) < SERVED_WITHIN, f"the right key waited {worst(found):.2f} s")
    # Each right key has ended the wait.
    for _ in range(11):
        refused = await wire.get(bench.addr, "/api/version", headers=[("x-api-key", "x" * 20)])
    bench.check(
        refused.status == 429 and refused.headers.get("retry-after"),
        f"an address with many wrong keys is not told to wait: {refused} {refused.headers}",
    )
    served = await wire.get(bench.addr, "/api/version", headers=[("x-api-key", OWN)])
    bench.check(served.status == 200, f"the right key has to wait, too: {served}")


@scenario(
    "wrong-keys",
    "neither long wrong keys nor large heads hold the receiving thread up, with 256 keys or 10,000",
    3,
    limit=120,
    witness=None,
)
async def wrong_keys(bench):
    for count in (256, 10_000):
        keys = [OWN] + [f"key-number-{number}" for number in range(1, count)]
        # Beside the proxy's own folder, which is not made yet.
        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"fault-keys-{os.getpid()}")
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write("\n".join(keys))
        try:
            bench.start(env={"PROXY_API_KEYS_FILE": path})
            await measure(bench, count)
            await flood(bench)
            bench.check(bench.proxy.alive, "the proxy died")
        finally:
            bench.proxy.stop()
            os.unlink(path)
