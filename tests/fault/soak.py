#!/usr/bin/env python3
"""Runs the proxy under mixed clients and mixed faults: soak.py MINUTES --binary PATH [--seed N].

Every answer is compared with what the upstream sent for it. The seed decides what the clients do
and what goes wrong; only the order in which they come to it is the machine's own.
"""

import argparse
import asyncio
import collections
import itertools
import os
import random
import sys
import time

import dialects
import machine
import spec as specs
from soak_clients import Client

CLIENTS = 24
GROWTH = 32
SLACK = 8
SAMPLES = 8
SERVED_WITHIN = 1.0
ENV = {
    "PROXY_WORKERS": "64",
    "RETRY_MAX": "2",
    "RETRY_INITIAL_MS": "50",
    "REQUEST_TIMEOUT": "3",
}


class Ledger:
    """What was done and what came of it."""

    def __init__(self):
        self.requests = 0
        self.tokens = 0
        self.damage = specs.NONE
        self.acts = collections.Counter()
        self.kinds = collections.Counter()
        self.errors = collections.Counter()
        self.unexpected = []
        self.wrong = 0

    def enter(self, deed):
        self.requests += 1
        act = deed.name if deed.spec is None else deed.name.rsplit(" ", 1)[0]
        self.acts[act] += 1
        self.kinds[deed.kind] += 1
        found = deed.outcome
        if deed.spec is not None and found is not None and found.reading is not None:
            self.compare(deed, found.reading)
        if deed.kind in ("error", "busy"):
            self.errors[f"{found.answer.status} {found.answer.error or 'told'}"] += 1
        if deed.kind not in deed.expected:
            self.wrong += 1
            if len(self.unexpected) < SAMPLES:
                what = found.answer if found else ""
                self.unexpected.append(f"{deed.name}: {deed.kind} {what} {deed.spec}")

    def compare(self, deed, reading):
        dialect = next(it for it in dialects.ALL if deed.name.endswith(" " + it.name))
        found = dialects.judge(dialect, deed.spec, reading)
        self.damage = specs.Damage(*map(sum, zip(self.damage, found)))
        if dialect is not dialects.EMBED:
            self.tokens += len(specs.MARK.findall(reading.text))


async def client_loop(client, ledger, until):
    while time.monotonic() < until:
        try:
            ledger.enter(await client.act())
        except (OSError, TimeoutError) as error:
            ledger.wrong += 1
            client.drop()
            if len(ledger.unexpected) < SAMPLES:
                ledger.unexpected.append(f"a client: {type(error).__name__} {error}")
    client.drop()


async def watch(proxy, ledger, began, until, mark):
    """A line each minute; takes the reading at `mark`, against which growth is measured."""
    reading = None
    minute = 1
    while (now := time.monotonic()) < until and proxy.alive:
        if reading is None and now >= mark:
            reading = proxy.read()
        if now - began >= 60 * minute:
            print(f"minute {minute}: {ledger.requests} requests, {proxy.read()}", flush=True)
            minute += 1
        await asyncio.sleep(min(0.25, max(0.01, until - now)))
    return reading


async def settled(proxy, before, seconds=25):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        now = proxy.read()
        if now.fds <= before.fds + SLACK and now.others <= before.others + SLACK:
            break
        await asyncio.sleep(0.5)
    return proxy.read()


def tell(ledger, before, mark, after, witness, panics):
    """Prints the figures and gives what is not as it must be."""
    wrong = []
    lost, duplicated, altered = ledger.damage
    print(f"requests: {ledger.requests}; tokens compared: {ledger.tokens}")
    for title, counter in (
        ("what clients did", ledger.acts),
        ("outcomes", ledger.kinds),
        ("errors", ledger.errors),
    ):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counter.most_common()))
    print(f"tokens lost: {lost}, duplicated: {duplicated}, altered: {altered}")
    if lost or duplicated or altered:
        wrong.append("tokens were lost, duplicated or altered")
    if ledger.kinds["damaged"] or ledger.kinds["truncated"]:
        wrong.append("answers that look whole and are not")
    if ledger.wrong:
        wrong.append(f"{ledger.wrong} outcomes that were not expected")
        wrong += ledger.unexpected
    print(f"start: {before}; early: {mark}; end: {after}; kept upstream: {after.pooled}")
    print(f"workers: {before.workers} at the start, {after.workers} at the end")
    if after.workers < before.workers:
        wrong.append("workers were lost")
    if after.fds > before.fds + SLACK:
        wrong.append(f"{after.fds - before.fds} descriptors stayed behind")
    if after.others > before.others + SLACK:
        wrong.append(f"{after.others - before.others} threads stayed behind")
    if mark is not None and after.rss > mark.rss + GROWTH:
        wrong.append(f"the memory grew by {after.rss - mark.rss:.0f} MiB")
    print(
        f"witness: {witness['served']} served, worst {witness['worst']:.2f} s, "
        f"middle {witness['middle'] * 1000:.0f} ms, machine {witness['late']:.2f} s late at worst"
    )
    if witness["failed"] or not witness["served"]:
        wrong.append(f"the witness failed {witness['failed']} times: {witness['wrong']}")
    if witness["worst"] >= SERVED_WITHIN:
        wrong.append(f"the witness waited {witness['worst']:.2f} s")
    if panics:
        wrong.append(f"{panics} panics")
    return wrong


async def soak(binary, minutes, seed):
    upstream = machine.Upstream()
    proxy = machine.Proxy(binary, f"http://127.0.0.1:{upstream.port}/v1", ENV)
    proxy.upstream_ports = (upstream.port,)
    witness = None
    try:
        ledger = Ledger()
        number = itertools.count(1)
        clients = [
            Client(proxy.addr, random.Random(f"{seed}-{place}"), number, f"127.0.0.{20 + place}")
            for place in range(CLIENTS)
        ]
        # The first threads and buffers of everything are no growth.
        await asyncio.gather(*(client.plain() for client in clients))
        for client in clients:
            client.drop()
        await asyncio.sleep(1)
        before = proxy.read()
        witness = machine.Witness(proxy.addr)
        began = time.monotonic()
        until = began + minutes * 60
        mark = began + min(60, minutes * 60 / 4)
        watching = asyncio.create_task(watch(proxy, ledger, began, until, mark))
        await asyncio.gather(*(client_loop(client, ledger, until) for client in clients))
        reading = await watching
        seen = await asyncio.to_thread(witness.end)
        if not proxy.alive:
            print(f"the proxy ended with {proxy.process.returncode}")
            return ["the proxy died"]
        after = await settled(proxy, before)
        return tell(ledger, before, reading, after, seen, proxy.log().count("panicked"))
    finally:
        if witness is not None:
            witness.kill()
        proxy.stop()
        upstream.kill()


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
