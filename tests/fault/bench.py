"""The bench of a scenario: its own proxy, upstream and witness, its checks and figures.

`scenario` registers a function that gets a `Bench`; it calls `check` for each requirement and
`figure` for each number to report. Around it the bench warms the proxy up, reads memory,
descriptors and threads, runs the witness, and waits until the readings are back at their start.
"""

import asyncio
import collections
import concurrent.futures
import itertools
import json
import time

import dialects
import machine
import spec as specs
import wire

SERVED_WITHIN = 1.0
SETTLE = 25
SLACK = 8
THREADS = 128
KEPT_WORKERS = 4  # Others end when they are idle.

SCENARIOS = {}

Scenario = collections.namedtuple(
    "Scenario", "name proves item lane limit run env witness grow nofile needs"
)
Outcome = collections.namedtuple("Outcome", "kind answer reading")


def scenario(
    name,
    proves,
    item,
    lane="heavy",
    limit=90,
    env=None,
    witness=True,
    grow=32,
    nofile=None,
    needs=None,
):
    """Registers a scenario. Heavy ones run alone in their lane, quiet ones beside others; `limit`
    is the time it may take, `grow` the MiB that may stay behind, `nofile` the soft and hard limit
    of the proxy's descriptors, and `needs` tells why it cannot run here. `witness` is None where
    the scenario starts the proxy itself."""

    def register(run):
        SCENARIOS[name] = Scenario(
            name, proves, item, lane, limit, run, env or {}, witness, grow, nofile, needs
        )
        return run

    return register


def outcome(dialect, spec, answer):
    """What an answer is:

    - `exact`, or `uncounted`: exact, but without the counts;
    - `busy`: 503;
    - `error`: told, or broken off so that nobody takes it for whole;
    - `none`: no whole answer in time;
    - `truncated`: an end that looks like success;
    - `damaged`: tokens or counts are not those of the upstream.
    """
    if answer.status is None:
        return Outcome("none" if answer.error == "timeout" else "error", answer, None)
    if answer.status != 200:
        return Outcome("busy" if answer.status == 503 else "error", answer, None)
    reading = dialect.read(answer.body)
    if dialects.judge(dialect, spec, reading) != specs.NONE:
        return Outcome("damaged", answer, reading)
    if reading.done and answer.whole:
        if reading.counts == dialects.expected_counts(dialect, spec):
            return Outcome("exact", answer, reading)
        # The proxy estimates the prompt's count where the upstream ended before telling it.
        uncounted = reading.counts is None or reading.counts[1] == 0
        return Outcome("uncounted" if uncounted else "damaged", answer, reading)
    if answer.error == "timeout":
        return Outcome("none", answer, reading)
    told = reading.error or answer.error
    return Outcome("error" if told else "truncated", answer, reading)


class Bench:
    def __init__(self, scenario, binary, seed=1):
        self.scenario = scenario
        self.binary = binary
        self.seed = seed
        self.failures = []
        self.figures = []
        self.numbers = itertools.count(1)
        self.upstream = None
        self.proxy = None
        self.witness = None
        self.before = None

    def check(self, good, what):
        if not good:
            self.failures.append(what)
        return good

    def figure(self, text):
        self.figures.append(text)

    def start(self, base_url=None, **options):
        """Starts the upstream, and the proxy before it; `options` are the proxy's."""
        if self.upstream is None:
            self.upstream = machine.Upstream()
        base_url = base_url or f"http://127.0.0.1:{self.upstream.port}/v1"
        env = {**self.scenario.env, **options.pop("env", {})}
        options.setdefault("nofile", self.scenario.nofile)
        self.proxy = machine.Proxy(self.binary, base_url, env=env, **options)
        self.proxy.upstream_ports = (self.upstream.port,)
        return self.proxy

    @property
    def addr(self):
        return self.proxy.addr

    def stop(self):
        if self.witness is not None:
            self.witness.kill()
        if self.proxy is not None:
            self.proxy.stop()
        if self.upstream is not None:
            self.upstream.kill()

    def spec(self, prefix="r", n=5, **members):
        number = next(self.numbers)
        return {"id": f"{prefix}-{number}", "seed": number, "n": n, **members}

    async def chat(self, spec=None, dialect=dialects.CHAT, **options):
        """Sends one request on its own connection and returns the outcome."""
        spec = spec or self.spec()
        body = dialect.build(spec)
        answer = await wire.ask(self.addr, "POST", dialect.path, body, **options)
        return outcome(dialect, spec, answer)

    async def chats(self, count, dialect=dialects.CHAT, source=None, timeout=20, **members):
        """Many at once; gives their outcomes."""
        wanted = [self.spec(**members) for _ in range(count)]
        return await asyncio.gather(
            *(self.chat(spec, dialect, source=source, timeout=timeout) for spec in wanted)
        )

    def opening(self, spec, dialect=dialects.CHAT, close=True):
        """The bytes of a request, for a scenario that sends them by itself."""
        return wire.request("POST", dialect.path, dialect.build(spec), close=close)

    async def journal(self, prefix):
        return (await wire.get(self.upstream.addr, f"/_journal?id={prefix}")).json()

    async def mode(self, **members):
        """Lays these members over every spec of the upstream from now on."""
        await wire.ask(self.upstream.addr, "POST", "/_mode", members)

    async def upstream_peak(self, reset=False):
        """The most requests that the upstream worked on at once."""
        answer = await wire.get(self.upstream.addr, "/_stats")
        if reset:
            await wire.get(self.upstream.addr, "/_peak")
        return answer.json().get("peak")

    async def seen(self, spec, seconds=5):
        """Waits until the upstream has a request."""
        return await self.until(lambda: self._has(spec), seconds)

    async def _has(self, spec):
        return spec["id"] in await self.journal(spec["id"])

    async def until(self, holds, seconds):
        """Waits until `holds()` is true; gives the seconds it took, or None."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if await holds():
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        return None

    async def recovers(self, seconds=10, **options):
        """Waits until a chat is exact again; gives the seconds it took, or None."""

        async def served():
            found = await self.chat(timeout=seconds, **options)
            return found.kind == "exact" and found.answer.seconds < SERVED_WITHIN

        return await self.until(served, seconds)

    async def check_served(self, seconds=10, what="served again afterwards"):
        taken = await self.recovers(seconds)
        self.check(taken is not None, f"not {what} within {seconds} s")
        return taken

    async def peak(self, work):
        """Awaits `work` and gives its result with the largest reading of memory meanwhile."""
        most = self.proxy.read()
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait([task], timeout=0.1)
            if not self.proxy.alive:
                self.check(False, "the proxy died")
                return await task, most
            now = self.proxy.read()
            most.rss = max(most.rss, now.rss)
            most.threads = max(most.threads, now.threads)
            most.fds = max(most.fds, now.fds)
        return task.result(), most

    async def warm_up(self):
        for _ in range(2):
            found = await self.chats(12)
            if not all(each.kind == "exact" for each in found):
                await asyncio.sleep(0.5)
        await self.settled(None, 6)
        self.before = self.proxy.read()

    async def settled(self, before, seconds):
        """Waits until the readings are those of before, or stand still."""
        limit = time.monotonic() + seconds
        last = None
        while time.monotonic() < limit:
            now = self.proxy.read()
            if before is None:
                if last is not None and (now.fds, now.threads) == (last.fds, last.threads):
                    return now
            elif self.grown(before, now) is None:
                return now
            last = now
            await asyncio.sleep(0.5)
        return self.proxy.read()

    def grown(self, before, now):
        """What is more than before, beyond the slack."""
        if now.fds > before.fds + SLACK:
            return f"{now.fds - before.fds} descriptors stayed behind"
        if now.others > before.others + SLACK:
            return f"{now.others - before.others} threads stayed behind"
        if now.workers < min(before.workers, KEPT_WORKERS):
            return f"{before.workers - now.workers} workers were lost"
        if now.workers > self.proxy.most_workers:
            return f"{now.workers} workers instead of {self.proxy.most_workers}"
        if now.rss > before.rss + self.scenario.grow:
            return f"{now.rss - before.rss:.0f} MiB stayed behind"
        return None

    async def finish(self):
        """The checks that every scenario has in common."""
        if self.witness is not None:
            seen = await asyncio.to_thread(self.witness.end)
            late = f", machine {seen['late']:.2f} s late" if seen["late"] > 0.2 else ""
            self.figure(
                f"witness {seen['served']} served, worst {seen['worst']:.2f} s"
                + (f", {seen['failed']} failed" if seen["failed"] else "")
                + late
            )
            self.check(seen["served"] > 0, "the witness was never served")
            wrong = f"the witness failed {seen['failed']} times: {seen['wrong']}"
            self.check(seen["failed"] == 0, wrong)
            slow = f"the witness waited {seen['worst']:.2f} s"
            self.check(seen["worst"] < SERVED_WITHIN, slow)
        if self.proxy is None or self.before is None:
            return
        if not self.proxy.alive:
            end = self.proxy.log().strip().splitlines()[-1:]
            self.check(False, f"the proxy ended with {self.proxy.process.returncode}: {end}")
            return
        after = await self.settled(self.before, SETTLE)
        grown = self.grown(self.before, after)
        self.check(grown is None, grown)
        self.figure(f"before {self.before}, after {after}")
        # An accept thread that dies of want is replaced; a handler must never panic.
        panics = [line for line in self.proxy.log().splitlines() if "panicked" in line]
        if panics:
            self.figure(f"{len(panics)} panics in the log")
        ours = [line for line in panics if "worker-" in line or "a request handler panicked" in line]
        self.check(not ours, f"{len(ours)} workers panicked: {ours[:1]}")

    async def run(self):
        """The whole scenario; gives its result as JSON can hold it."""
        began = time.monotonic()
        scenario = self.scenario
        pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        asyncio.get_running_loop().set_default_executor(pool)
        try:
            if scenario.witness is not None:
                self.start()
                await self.warm_up()
                if scenario.witness:
                    self.witness = machine.Witness(self.addr)
                    await asyncio.sleep(0.5)
            await scenario.run(self)
            await self.finish()
        except Exception as error:  # A scenario that breaks has failed.
            self.check(False, f"{type(error).__name__}: {error}")
            if self.proxy is not None and not self.proxy.alive:
                end = self.proxy.log().strip().splitlines()[-1:]
                self.check(False, f"the proxy ended with {self.proxy.process.returncode}: {end}")
        finally:
            self.stop()
        return {
            "name": scenario.name,
            "failures": self.failures,
            "figures": self.figures,
            "seconds": round(time.monotonic() - began, 1),
        }


def kinds(outcomes):
    """How many of each kind, in one phrase."""
    found = collections.Counter(each.kind for each in outcomes)
    return ", ".join(f"{count} {kind}" for kind, count in found.most_common())


def worst(outcomes):
    return max((each.answer.seconds for each in outcomes), default=0.0)


def brief(value):
    return json.dumps(value)[:200]
