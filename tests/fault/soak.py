#!/usr/bin/env python3
"""Runs the proxy under mixed clients and mixed faults: soak.py MINUTES --binary PATH [--seed N].

Three upstreams, of which one at a time fails; clients with keys, on all routes; large uploads; reloads of
the configuration each minute. Every answer is compared with what the upstream sent for it. Descriptors,
threads and memory are read in a pause after the first minute, and again in a pause at the end. The seed
decides what the clients do and what goes wrong; only the order in which they come to it is the machine's
own.
"""

import argparse
import asyncio
import collections
import itertools
import os
import random
import shutil
import sys
import tempfile
import time

import dialects
import machine
import soak_uploads
import spec as specs
from replicas import NAMES, Replica, endings
from soak_clients import EITHER, FAILS, Client, Stage
from soak_plan import Plan

CLIENTS = 24
GROWTH = 32
SLACK = 8
SAMPLES = 8
SERVED_WITHIN = 1.0
# A machine with other work is late now and then: one in so many chats, and not longer than this.
LATE_ONES = 200
LATE_WITHIN = 5.0
# Longer than an upstream of the test needs for the largest upload on a machine with other work.
REQUEST_TIMEOUT = 6
# In a pause, threads and connections of the load end; their number is read when it stands still.
STILL = 3
PAUSE = 30
ENV = {
    "PROXY_WORKERS": "64",
    "RETRY_MAX": "2",
    "RETRY_INITIAL_MS": "50",
    "REQUEST_TIMEOUT": str(REQUEST_TIMEOUT),
}


class Ledger:
    """What was done and what came of it."""

    def __init__(self, replicas):
        self.replicas = replicas
        self.requests = 0
        self.tokens = 0
        self.damage = specs.NONE
        self.acts = collections.Counter()
        self.kinds = collections.Counter()
        self.routes = collections.Counter()
        self.errors = collections.Counter()
        self.unexpected = []
        self.wrong = 0
        # What each id was sent for.
        self.names = {}

    def enter(self, deed):
        self.requests += 1
        self.acts[deed.name] += 1
        self.kinds[deed.kind] += 1
        found = deed.outcome
        if deed.spec is not None and found.reading is not None:
            self.compare(deed, found.reading)
        if deed.dialect is not None:
            if deed.spec is not None:
                taken = found.answer.seconds
                self.names[deed.spec["id"]] = (f"{deed.name} {deed.dialect.name}: {deed.kind}", taken)
            self.routes[deed.dialect.path] += 1
        if deed.kind in ("error", "busy"):
            self.errors[f"{found.answer.status} {found.answer.error or 'told'}"] += 1
        if deed.kind not in deed.expected and not self.is_excused(deed):
            self.note(f"{deed.name} {deed.dialect and deed.dialect.name}: {deed.kind}", deed)

    def note(self, what, deed=None):
        self.wrong += 1
        if len(self.unexpected) < SAMPLES:
            found = deed and deed.outcome
            told = f" {found.answer} {dict(found.answer.headers)} {deed.spec}" if found else ""
            self.unexpected.append(what + told)

    def is_excused(self, deed):
        """Whether the upstream failed: the one that had begun this answer, or for what can be sent
        once only, any."""
        if deed.outcome is None or deed.dialect is None:
            return False
        answer = deed.outcome.answer
        if deed.once and deed.kind in FAILS:
            return any(each.failed_during(answer, False) for each in self.replicas)
        begun = deed.replica is not None and deed.replica.failed_during(answer)
        return begun and deed.kind in EITHER

    def compare(self, deed, reading):
        found = dialects.judge(deed.dialect, deed.spec, reading)
        self.damage = specs.Damage(*map(sum, zip(self.damage, found)))
        if deed.dialect not in dialects.EMBEDDINGS:
            self.tokens += len(specs.MARK.findall(reading.text))


class Soak:
    """The processes, the clients, and the plan of one run."""

    def __init__(self, binary, minutes, seed):
        self.seconds = minutes * 60
        self.seed = seed
        self.folder = tempfile.mkdtemp(prefix="soak-")
        self.replicas = []
        self.proxy = self.witness = None
        self.open = asyncio.Event()
        self.open.set()
        self.busy = 0
        try:
            for number in range(len(NAMES)):
                # The last one has responses of its own; for the others they are translated.
                options = ("--responses",) if number == len(NAMES) - 1 else ()
                self.replicas.append(Replica(number, self.folder, *options))
            pace = min(4.0, self.seconds / 12)
            self.plan = Plan(self.folder, self.replicas, seed, pace)
            configuration = self.plan.configuration()
            self.proxy = machine.Proxy(binary, env=ENV, config=configuration)
            self.proxy.upstream_ports = [each.upstream.port for each in self.replicas]
        except BaseException:
            self.stop()
            raise
        self.ledger = Ledger(self.replicas)
        self.stage = Stage(self.proxy.addr, self.plan, itertools.count(1), soak_uploads.fillers(seed))

    def stop(self):
        if self.witness is not None:
            self.witness.kill()
        if self.proxy is not None:
            self.proxy.stop()
        for replica in self.replicas:
            replica.upstream.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_log(self):
        """The log, which stays behind for whoever looks for a reason."""
        file, path = tempfile.mkstemp(prefix=f"soak-{self.seed}-", suffix=".log")
        with open(file, "w") as out:
            out.write(self.proxy.log())
        return path

    def client(self, place):
        keys = self.plan.keys
        dice = random.Random(f"{self.seed}-{place}")
        return Client(self.stage, dice, f"127.0.0.{20 + place}", keys[place % len(keys)])

    async def client_loop(self, client, until):
        while time.monotonic() < until:
            if not self.open.is_set():
                client.drop()
                await self.open.wait()
                continue
            self.busy += 1
            try:
                self.ledger.enter(await client.act())
            except (OSError, TimeoutError) as error:
                client.drop()
                self.ledger.note(f"a client: {type(error).__name__} {error}")
            finally:
                self.busy -= 1
        client.drop()

    async def pause(self):
        """A reading while no client asks for anything but the witness."""
        self.open.clear()
        try:
            limit = time.monotonic() + PAUSE
            while self.busy and time.monotonic() < limit:
                await asyncio.sleep(0.1)
            return await self.still(min(PAUSE, self.seconds / 4))
        finally:
            self.open.set()

    async def still(self, seconds, goal=None):
        """A reading when threads and descriptors stand still, or are those of the goal."""
        limit, last, since = time.monotonic() + seconds, None, time.monotonic()
        while (now := time.monotonic()) < limit:
            reading = self.proxy.read()
            if goal is not None and not growth(goal, reading):
                return reading
            count = (reading.fds, reading.threads)
            if count != last:
                last, since = count, now
            elif goal is None and now - since >= STILL:
                return reading
            await asyncio.sleep(0.25)
        return self.proxy.read()

    async def watch(self, began, until):
        """A line each minute; gives the reading of the pause after the first one."""
        await asyncio.sleep(min(60, self.seconds / 4))
        early = await self.pause()
        minute = 1
        while (now := time.monotonic()) < until and self.proxy.alive:
            if now - began >= 60 * minute:
                done = f"{self.ledger.requests} requests, {self.ledger.wrong} wrong"
                print(f"minute {minute}: {done}, {self.proxy.read()}", flush=True)
                minute += 1
            await asyncio.sleep(min(0.25, max(0.01, until - now)))
        return early

    async def run(self):
        """The whole run; gives what is not as it must be."""
        clients = [self.client(place) for place in range(CLIENTS)]
        # The first threads and buffers of everything are no growth.
        await asyncio.gather(*(client.plain() for client in clients))
        for client in clients:
            client.drop()
        start = await self.still(5)
        self.witness = machine.Witness(self.proxy.addr, key=self.plan.keys[0], upstreams=len(NAMES))
        began = time.monotonic()
        until = began + self.seconds
        failing = asyncio.create_task(self.plan.fail_in_turn())
        reloads = self.plan.reload_in_turn(self.proxy, min(60, self.seconds / 3))
        reloading = asyncio.create_task(reloads)
        watching = asyncio.create_task(self.watch(began, until))
        await asyncio.gather(*(self.client_loop(client, until) for client in clients))
        early = await watching
        self.plan.going = False
        await failing
        reloading.cancel()
        seen = await asyncio.to_thread(self.witness.end)
        if not self.proxy.alive:
            print(f"the proxy ended with {self.proxy.process.returncode}")
            return ["the proxy died"]
        end = await self.still(PAUSE * 2, early)
        wrong = tell_answers(self.ledger, self.plan, self.stage)
        wrong += tell_readings(start, early, end)
        wrong += tell_witness(seen, self.replicas)
        wrong += await self.plan.end()
        wrong += self.check_journals()
        wrong += await self.check_workers()
        panics = [line for line in self.proxy.log().splitlines() if "panicked" in line]
        return wrong + ([f"{len(panics)} panics: {panics[:2]}"] if panics else [])

    def check_journals(self):
        """No request was answered to its end by two upstreams, and none with a wrong key by any."""
        counted = endings(self.replicas)
        known = self.ledger.names
        twice = [(name, *known[name]) for name, count in counted.items() if count > 1 and name in known]
        # An upstream that was given up by its timeout may end its answer later, for nobody.
        early = [each for each in twice if each[2] < REQUEST_TIMEOUT]
        print(f"given up by timeout, and answered late: {len(twice) - len(early)}")
        wrong = [f"{len(early)} requests were answered twice: {early[:3]}"] if early else []
        if any(name == "nobody" for each in self.replicas for _, name in each.stages()):
            wrong.append("a request with a wrong key went upstream")
        return wrong

    async def check_workers(self):
        """As many requests as there are workers are served at the same time."""
        count = int(ENV["PROXY_WORKERS"])
        client = self.client(0)

        async def one():
            spec = client.spec(n=2, wait=1.0, gap=0, split=False)
            data = client.request(dialects.CHAT, spec)
            return self.stage.judged(dialects.CHAT, spec, await client.ask_once(data))[0].kind

        kinds = await asyncio.gather(*(one() for _ in range(count)))
        exact = kinds.count("exact")
        print(f"at the end {exact} of {count} requests at once are exact")
        return [] if exact == count else [f"{exact} of {count} requests at once are exact"]


def growth(before, after):
    """What is more than before, beyond the slack."""
    wrong = []
    if after.fds > before.fds + SLACK:
        wrong.append(f"{after.fds - before.fds} descriptors stayed behind")
    if after.threads > before.threads + SLACK:
        wrong.append(f"{after.threads - before.threads} threads stayed behind")
    if after.rss > before.rss + GROWTH:
        wrong.append(f"the memory grew by {after.rss - before.rss:.0f} MiB")
    return wrong


def tell_answers(ledger, plan, stage):
    wrong = []
    lost, duplicated, altered = ledger.damage
    mib = stage.uploaded / soak_uploads.MIB
    print(f"requests: {ledger.requests}; tokens compared: {ledger.tokens}; uploads: {mib:.0f} MiB")
    for title, counter in (
        ("what clients did", ledger.acts),
        ("routes", ledger.routes),
        ("outcomes", ledger.kinds),
        ("errors", ledger.errors),
        ("failures of upstreams", plan.failures),
    ):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counter.most_common()))
    print(f"reloads: {plan.reloads}")
    print(f"tokens lost: {lost}, duplicated: {duplicated}, altered: {altered}")
    if lost or duplicated or altered:
        wrong.append("tokens were lost, duplicated or altered")
    if ledger.kinds["damaged"] or ledger.kinds["truncated"]:
        wrong.append("answers that look whole and are not")
    if ledger.wrong:
        wrong.append(f"{ledger.wrong} outcomes that were not expected")
        wrong += ledger.unexpected
    return wrong


def tell_readings(start, early, end):
    """The end is compared with the pause after the first minute."""
    print(f"at the start: {start}; after the first minute: {early}; at the end: {end}")
    print(f"workers: {early.workers} after the first minute, {end.workers} at the end")
    print(f"connections kept to upstreams: {early.pooled} and {end.pooled}")
    return growth(early, end)


def tell_witness(seen, replicas):
    """The witness is served at once, but for answers whose upstream failed in their middle, and where an
    upstream that keeps silent had to be waited for."""
    failed, late = [], []
    for began, taken, problem in seen["slow"]:
        answer = argparse.Namespace(began=began, ended=began + taken)
        is_excused = any(each.failed_during(answer, False) for each in replicas)
        if problem and not is_excused:
            failed.append(f"{problem} after {taken:.2f} s")
        elif taken > SERVED_WITHIN + (REQUEST_TIMEOUT if is_excused else 0):
            late.append(round(taken, 2))
    print(
        f"witness: {seen['served']} served, {seen['failed']} broken off by their upstreams, worst "
        f"{seen['worst']:.2f} s, middle {seen['middle'] * 1000:.0f} ms, machine {seen['late']:.2f} s"
        " late at worst"
    )
    wrong = [] if seen["served"] else ["the witness was never served"]
    if failed or len(late) > 1 + seen["served"] // LATE_ONES or max(late, default=0) > LATE_WITHIN:
        wrong.append(f"the witness: {failed[:3]}, late {len(late)} times: {late[:3]}")
    return wrong


async def soak(binary, minutes, seed):
    run = Soak(binary, minutes, seed)
    try:
        wrong = await run.run()
        if wrong:
            print(f"the log of the proxy: {run.keep_log()}")
        return wrong
    finally:
        run.stop()


def main():
    arguments = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--seed", type=int, default=None)
    options = arguments.parse_args()
    if not 0 < options.minutes <= 24 * 60:
        arguments.error("MINUTES must be above 0 and at most a day")
    machine.raise_nofile()
    machine.quiet()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes, {CLIENTS} clients", flush=True)
    wrong = asyncio.run(soak(os.path.abspath(options.binary), options.minutes, seed))
    for line in wrong:
        print(f"- {line}")
    print("FAIL soak" if wrong else "PASS soak")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
