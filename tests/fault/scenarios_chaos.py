"""Three upstreams behind one proxy, killed and restarted in turn under streams.

Each upstream answers with tokens of its own and keeps a journal in a file, so that it shows who answered
what, and how often, whatever became of the process. At a kill at least one stream waits for its first byte
there. At most one upstream is down at a time. The long form wants a machine with nothing else to do: its
clients and upstreams take most of two cores, and their own delays count as waits of the streams.
"""

import asyncio
import collections
import random
import shutil
import tempfile
import time

import dialects
import machine
import spec as specs
import wire
from bench import kinds, outcome, scenario
from replicas import MODELS, NAMES, Replica, configuration

DIALECTS = (dialects.CHAT, dialects.V1, dialects.MESSAGES)
FIRST_BYTE_WITHIN = 2.0
WAIT = 0.3  # The longest time of an upstream before its head.
RECOVERED_WITHIN = 45
SAMPLES = 3

Stream = collections.namedtuple("Stream", "id model dialect replica outcome")


class Chaos:
    """The streams, and the plan of kills, which the seed decides."""

    def __init__(self, bench, replicas, streams, lengths, gaps):
        self.bench = bench
        self.replicas = replicas
        self.source = random.Random(bench.seed)
        self.streams = streams
        self.lengths = lengths
        self.gaps = gaps
        self.going = True
        self.found = []
        self.late = 0.0

    async def stream(self):
        """One stream."""
        source, number = self.source, next(self.bench.numbers)
        model = MODELS[number % len(MODELS)]
        dialect = DIALECTS[number // len(MODELS) % len(DIALECTS)]
        spec = {"id": f"chaos-{number}", "seed": number, "n": source.randint(*self.lengths)}
        spec.update(gap=source.uniform(*self.gaps), wait=source.uniform(0, WAIT))
        body = {**dialect.build(spec), "model": model}
        answer = await wire.ask(self.bench.addr, "POST", dialect.path, body)
        name = answer.headers.get("x-upstream")
        replica = next((each for each in self.replicas if each.name == name), None)
        sent = specs.at_replica(spec, replica.number if replica else 0)
        found = Stream(spec["id"], model, dialect, replica, outcome(dialect, sent, answer))
        self.found.append(found)
        return found

    async def client(self):
        """Streams, one after the other, until there were enough."""
        while self.going and (self.streams is None or self.streams > 0):
            if self.streams is not None:
                self.streams -= 1
            await self.stream()

    async def kill_in_turn(self, pauses, downs):
        while True:
            for replica in self.source.sample(self.replicas, len(self.replicas)):
                pause, down = self.source.uniform(*pauses), self.source.uniform(*downs)
                await asyncio.sleep(pause)
                await self.bench.until(replica.has_waiting, 5)
                if not self.going:
                    return
                await asyncio.to_thread(replica.kill)
                await asyncio.sleep(down)
                await asyncio.to_thread(replica.restart)

    async def watch_clock(self):
        """How late this machine wakes us, which the clients wait in vain for, too."""
        while self.going:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.late = max(self.late, time.monotonic() - before - 0.05)

    async def run(self, clients, pauses, downs, seconds=None):
        kills = asyncio.ensure_future(self.kill_in_turn(pauses, downs))
        clock = asyncio.ensure_future(self.watch_clock())
        work = [asyncio.ensure_future(self.client()) for _ in range(clients)]
        await asyncio.wait(work, timeout=seconds)
        self.going = False
        await asyncio.gather(*work, kills, clock)


def wrong(stream, late):
    """What must not be about a stream by itself, on a machine that is so late; None if nothing is."""
    answer = stream.outcome.answer
    if answer.status != 200:
        return "was not answered, although an upstream was well"
    if stream.replica is None:
        return "does not name its upstream"
    kind = stream.outcome.kind
    if kind == "exact":
        waited = answer.first_data - answer.began
        slow = waited > FIRST_BYTE_WITHIN + late
        return f"waited {waited:.2f} s for its first byte" if slow else None
    if kind not in ("error", "uncounted"):
        return f"is {kind}"
    if not stream.replica.was_killed(answer):
        return f"is {kind}, although its upstream lived"
    if kind == "error" and is_only_error(stream):
        return "had no byte of its answer, and did not go elsewhere"
    return None


def is_only_error(stream):
    """Whether no part of an answer was before the error."""
    body = stream.outcome.answer.body
    is_lines = stream.dialect is dialects.CHAT
    parts = dialects.lines(body) if is_lines else dialects.events(body)[0]
    return all("error" in part for part in parts)


def judge(bench, chaos):
    """Checks all streams, each by itself and against the journals."""
    began, ended = collections.defaultdict(set), collections.defaultdict(list)
    for replica in chaos.replicas:
        for stage, name in replica.stages():
            if stage == "began":
                began[name].add(replica.name)
            elif stage == "ended":
                ended[name].append(replica.name)
    problems = collections.defaultdict(list)
    for stream in chaos.found:
        why = wrong(stream, chaos.late)
        by = stream.replica.name if stream.replica else None
        completed = ended[stream.id]
        if why is None and len(completed) > 1:
            why = "was answered twice"
        if why is None and completed and completed != [by]:
            why = "was answered by another upstream than the client's"
        if why is None and stream.outcome.kind == "error" and completed:
            why = "was cut although its upstream ended it"
        if why is not None:
            problems[why].append(stream)
    for why, streams in problems.items():
        shown = [
            f"{it.model} {it.dialect.name} {it.id} at {it.replica and it.replica.name}, began at"
            f" {sorted(began[it.id])}: {it.outcome.answer}"
            for it in streams[:SAMPLES]
        ]
        bench.check(False, f"{len(streams)} streams: {why}: {shown}")
    return sum(len(names) > 1 for names in began.values())


async def check_all_back(bench):
    """Whether each upstream is asked again by its name, and is told to be well."""
    for name in NAMES:
        body = {**dialects.CHAT.build(bench.spec("back")), "model": f"{name}/{specs.MODEL}"}

        async def is_served():
            answer = await wire.ask(bench.addr, "POST", "/api/chat", body)
            return answer.status == 200 and answer.headers.get("x-upstream") == name

        taken = await bench.until(is_served, RECOVERED_WITHIN)
        bench.check(taken is not None, f"{name} is not asked again within {RECOVERED_WITHIN} s")

    async def is_well():
        health = (await wire.get(bench.addr, "/openai/health")).json()
        return [each["circuit"] for each in health["upstreams"]] == ["closed"] * len(NAMES)

    taken = await bench.until(is_well, RECOVERED_WITHIN)
    bench.check(taken is not None, "a circuit stays open although its upstream is well")


async def chaos(bench, clients, streams, seconds, lengths, gaps, pauses, downs):
    folder = tempfile.mkdtemp(prefix="fault-")
    replicas = []
    try:
        for number in range(len(NAMES)):
            replicas.append(Replica(number, folder))
        bench.proxy = machine.Proxy(
            bench.binary, env=bench.scenario.env, config=configuration(replicas)
        )
        bench.proxy.upstream_ports = [each.upstream.port for each in replicas]
        warm = Chaos(bench, replicas, 48, (2, 5), (0, 0))
        await asyncio.gather(*(warm.client() for _ in range(12)))
        first = [each for each in warm.found if each.outcome.kind != "exact"]
        bench.check(not first, f"before all kills: {[str(it.outcome.answer) for it in first[:1]]}")
        bench.before = await bench.settled(None, 6)
        run = Chaos(bench, replicas, streams, lengths, gaps)
        await run.run(clients, pauses, downs, seconds)
        moved = judge(bench, run)
        outcomes = [each.outcome for each in run.found]
        waits = [it.answer.first_data - it.answer.began for it in outcomes if it.answer.first_data]
        kills = sum(len(each.kills) for each in replicas)
        bench.figure(
            f"seed {bench.seed}: {len(outcomes)} streams, {kinds(outcomes)}; {kills} kills, {moved}"
            f" moved on; first byte after {max(waits, default=0):.2f} s at most, machine"
            f" {run.late:.2f} s late"
        )
        bench.check(kills >= len(NAMES), f"only {kills} kills")
        bench.check(moved > 0, "no stream had to move on")
        await check_all_back(bench)
        await bench.finish()
    finally:
        bench.before = None
        bench.stop()
        for replica in replicas:
            replica.upstream.kill()
        shutil.rmtree(folder, ignore_errors=True)


PROVES = "three upstreams, killed in turn: what has no byte yet goes elsewhere, once, within 2 s"


@scenario("upstream-chaos", f"a minute, 200 streams at once; {PROVES}", 4, limit=200, witness=None)
async def upstream_chaos(bench):
    await chaos(
        bench,
        clients=200,
        streams=None,
        seconds=60,
        lengths=(5, 20),
        gaps=(0.05, 0.3),
        pauses=(0.0, 0.8),
        # Long enough that a circuit stays open when its upstream is back.
        downs=(0.2, 7.0),
    )


@scenario("upstream-chaos-short", f"200 streams; {PROVES}", 4, limit=90, witness=None)
async def upstream_chaos_short(bench):
    await chaos(
        bench,
        clients=32,
        streams=200,
        seconds=60,
        lengths=(5, 15),
        gaps=(0.02, 0.08),
        pauses=(0.1, 0.3),
        downs=(0.2, 0.6),
    )
