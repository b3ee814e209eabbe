"""Requests and answers that need far more memory than there is: some are refused, the others are served, and
the kernel never kills."""

import asyncio
import collections
import random
import time

import bulk
import bulk_client
import cgroup
import machine
from bench import scenario

MIB = 1024 * 1024
CLIENTS = 32
SECONDS = 120
SHORT_SECONDS = 10
UPLOADING = 60
# How long requests may still run that began before the end.
GRACE = 20
# The longest time in which no request at all was served.
QUIET = 15

ROUTES = ("/v1/chat/completions", "/api/chat", "/v1/messages")
UPLOADS = (
    *ROUTES, "/api/generate", "/v1/responses", "/v1/embeddings", "/api/embed", "/v1/completions"
)
TREES = ("numbers", "objects", "nested", "empty", "members", "messages")


class Mix:
    """Requests of all kinds by a seeded plan, and how they ended."""

    def __init__(self, bench, group):
        self.bench = bench
        self.group = group
        self.random = random.Random(bench.seed)
        self.ended = collections.Counter()
        self.wrong = []
        self.last_served = time.monotonic()
        self.longest_gap = 0
        # When the last request begins.
        self.until = float("inf")
        self.peak = 0
        self.bodies = {}

    def body(self, path, kind, size, **options):
        """A body, which is made once: making it takes longer than sending it."""
        key = (path, kind, size, *sorted(options.items()))
        if key not in self.bodies:
            while sum(map(len, self.bodies.values())) > 600 * MIB:
                self.bodies.pop(next(iter(self.bodies)))
            self.bodies[key] = bulk.request(path, kind, size, **options)
        return self.bodies[key]

    def plan(self):
        """The next request: what it is, and how it is sent."""
        pick = self.random.choice
        size = pick((MIB // 10, MIB, MIB, 4 * MIB, 16 * MIB))
        what = pick(("upload", "upload", "tree", "image", "zstd", "form", "whole", "whole", "stream", "embed"))
        if what == "upload":
            path, model = pick(UPLOADS), pick(("text", "slow"))
            kind, behind = pick(("text", "plain")), pick((True, False))
            options = {"chunked": pick((True, False, False))}
            return path, self.body(path, kind, size, model=model, behind=behind), options
        if what == "tree":
            path = pick((*ROUTES, "/api/generate", "/v1/responses"))
            return path, self.body(path, pick(TREES), min(size, 4 * MIB)), {}
        if what == "image":
            path = pick(("/api/chat", "/api/generate", "/v1/chat/completions"))
            return path, self.body(path, "image", size, model=pick(("text", "slow"))), {}
        if what == "zstd":
            path = pick(ROUTES[::2])
            text = self.body(path, "plain", 1).replace(bulk.PIECE, b"@")
            packed = bulk_client.zstd_of(text, pick((1, 8, 19)) * MIB)
            return path, packed, {"coding": "zstd"}
        if what == "form":
            body = bulk_client.form("slow", size)
            return "/v1/audio/transcriptions", body, {"kind": "multipart/form-data; boundary=edge"}
        # Answers, of which some readers are slow.
        options = {"pause": pick((0, 0, 0.02))}
        if what == "embed":
            path = pick(("/api/embed", "/v1/embeddings"))
            return path, self.body(path, "plain", 1, model=f"embed-{pick((1, 8, 20))}"), options
        path = pick((*ROUTES, "/v1/responses"))
        kind = "whole" if what == "whole" else pick(("event", "calls", "tokens"))
        model = kind if kind == "tokens" else f"{kind}-{pick((1, 8, 30, 60, 100))}"
        return path, self.body(path, "plain", 1, model=model, stream=what == "stream"), options

    async def one(self, path, body, options):
        found = await bulk_client.ask(self.bench.addr, path, body, **options)
        self.ended[found.kind] += 1
        if found.kind == "served":
            self.note_served()
        if found.kind in ("silent", "hung") or found.status == 504:
            self.wrong.append(f"{found.kind} {found.status} {path}: {found.tail[-120:]!r}")
        if found.kind in ("refused", "reset"):
            await asyncio.sleep(self.random.random() / 2)
        return found

    def note_served(self):
        now = min(time.monotonic(), self.until)
        self.longest_gap = max(self.longest_gap, now - self.last_served)
        self.last_served = now

    async def client(self, until):
        while time.monotonic() < until and self.bench.proxy.alive:
            await self.one(*self.plan())

    async def small(self, until):
        """A normal client all the while."""
        body = self.body("/api/chat", "plain", 1)
        while time.monotonic() < until and self.bench.proxy.alive:
            await self.one("/api/chat", body, {})
            await asyncio.sleep(0.2)

    async def watch(self, until):
        while time.monotonic() < until and self.bench.proxy.alive:
            self.peak = max(self.peak, self.group.used())
            await asyncio.sleep(0.02)

    async def run(self, seconds):
        self.last_served = time.monotonic()
        self.until = until = self.last_served + seconds
        work = [self.small(until), self.watch(until)]
        work += [self.client(until) for _ in range(CLIENTS)]
        done, left = await asyncio.wait(map(asyncio.ensure_future, work), timeout=seconds + GRACE)
        for task in left:
            task.cancel()
        await asyncio.gather(*done, *left, return_exceptions=True)
        self.ended["unfinished"] += len(left)
        for task in done:
            task.result()
        self.note_served()


async def in_group(bench, mib, work):
    """Runs `work` with a mix in a group of this many MiB, and checks what holds for all."""
    bench.upstream = bench.upstream or machine.Upstream(program="bulk_upstream.py")
    with cgroup.memory_group(mib * MIB) as group:
        bench.start(prepare=group.join)
        try:
            mix = Mix(bench, group)
            await work(mix)
            name = f"{mib} MiB (version {group.version})"
            counts = ", ".join(f"{count} {kind}" for kind, count in mix.ended.most_common())
            bench.figure(
                f"{name}: {counts}; peak {mix.peak / MIB:.0f} MiB, "
                f"at most {mix.longest_gap:.1f} s without a served request"
            )
            kills = group.kills()
            bench.check(kills == 0, f"{name}: the kernel killed {kills} times for memory")
            if not bench.check(bench.proxy.alive, f"{name}: the proxy died"):
                return
            bench.check(not mix.wrong, f"{name}: {len(mix.wrong)} wrong ends: {mix.wrong[:3]}")
            bench.check(mix.ended["served"] > 0, f"{name}: nothing was served")
            bench.check(mix.longest_gap < QUIET, f"{name}: {mix.longest_gap:.1f} s without service")
            panics = [line for line in bench.proxy.log().splitlines() if "panicked" in line]
            bench.check(not panics, f"{name}: {len(panics)} panics: {panics[:1]}")
            # Afterwards everything is served again.
            again = await bulk_client.ask(
                bench.addr, "/api/chat", mix.body("/api/chat", "plain", 1 * MIB)
            )
            bench.check(again.kind == "served", f"{name}: 1 MiB afterwards: {again}")
        finally:
            bench.proxy.stop()


def in_groups(name, told, limit):
    """A scenario in memory groups, for which it makes its own proxies and its own witness."""
    return scenario(name, told, 3, limit=limit, witness=None, needs=cgroup.missing_memory)


@in_groups(
    "memory-uploads",
    "48 uploads of 16 MB at once to three routes, upstream slow, in 192 MiB: none is killed",
    limit=200,
)
async def memory_uploads(bench):
    async def burst(mix):
        bodies = [
            mix.body(path, "text", 16_000_000, model="slow", behind=True) for path in ROUTES
        ]

        until = time.monotonic() + UPLOADING

        async def insist(at):
            """Sends an upload until it is served."""
            await asyncio.sleep(mix.random.random() / 2)
            while time.monotonic() < until and mix.bench.proxy.alive:
                if (await mix.one(ROUTES[at % 3], bodies[at % 3], {})).kind == "served":
                    return 1
            return 0

        task = asyncio.ensure_future(asyncio.gather(*(insist(at) for at in range(48))))
        while not task.done():
            mix.peak = max(mix.peak, mix.group.used())
            await asyncio.wait([task], timeout=0.02)
        bench.figure(f"{sum(task.result())} of 48 served within {UPLOADING} s")

    await in_group(bench, 192, burst)


def mixed(mib):
    @in_groups(
        f"memory-{mib}",
        f"two minutes of uploads, whole answers and streams, mixed, in {mib} MiB: never killed",
        limit=SECONDS + 100,
    )
    async def run(bench):
        await in_group(bench, mib, lambda mix: mix.run(SECONDS))


for each in (64, 96, 192, 512):
    mixed(each)


@in_groups(
    "memory-short",
    "the same for some seconds each in 64 and 192 MiB",
    limit=120,
)
async def memory_short(bench):
    for mib in (64, 192):
        await in_group(bench, mib, lambda mix: mix.run(SHORT_SECONDS))
