"""The rows: what load each one is, and the lines of the table that come of it.

The names are those of `--row`, which also takes their beginning (`crowd` for all that begin with
`crowd-`). The sizes of a quick run are smaller, and its titles say so.
"""

import dataclasses

from figures import PLAIN, Goal, Line

MANY = 200  # Streams above which the proxy gets more workers than it has by default.
SPARE = 64  # Workers and connections beyond the streams, for whoever asks besides.
IMAGE = 15_000_000  # Bytes of the request's body, nearly all of it base64.
RAMP = 1.0  # Seconds in which 2,000 streams begin, and those of the plot.
KEY = "bench-0123456789abcdef0123456789abcdef"
UPSTREAMS = 5  # Of the router.


@dataclasses.dataclass(frozen=True)
class Load:
    """The options of bench-load; either `seconds` or `requests`."""

    model: str
    connections: int = 1
    seconds: float | None = None
    requests: int | None = None
    stream: bool = False
    embed: int | None = None
    image_bytes: int | None = None
    ramp: float | None = None
    check: bool = False
    from_connect: bool = False
    conversations: int | None = None
    key: str | None = None

    def arguments(self):
        found = ["--model", self.model, "--connections", str(self.connections)]
        names = ("seconds", "requests", "embed", "image_bytes", "ramp", "conversations", "key")
        for name in names:
            value = getattr(self, name)
            if value is not None:
                found += [
                    "--" + name.replace("_", "-"),
                    f"{value:g}" if isinstance(value, float) else str(value),
                ]
        for name in ("stream", "check", "from_connect"):
            found += ["--" + name.replace("_", "-")] * getattr(self, name)
        return found

    def options(self):
        """The environment that our program needs for so many: nothing while its defaults do."""
        if self.connections <= MANY:
            return {}
        enough = str(self.connections + SPARE)
        return {"PROXY_WORKERS": enough, "MAX_CONNECTIONS": str(max(1024, int(enough)))}


@dataclasses.dataclass(frozen=True)
class Variant:
    """Another setup of our program: more environment, and files that it names. Values and files
    may hold {folder}, where the files are, and {upstream}, the upstream's port."""

    options: dict
    files: dict
    watched: bool = False  # Whether somebody asks for status and metrics all the time.


@dataclasses.dataclass(frozen=True)
class Row:
    """`kind` selects the measurement: see targets.py. With a variant, our program set up in that
    way is measured against our program with its defaults, and nobody else. LiteLLM is measured in
    rows for `gateways` only, which have what it may be able to do."""

    name: str
    kind: str
    lines: list
    load: Load | None = None
    warm_up: Load | None = None
    variant: Variant | None = None
    gateways: bool = False


def rps(measurement):
    return measurement["load"]["rps"]


def percentile(group, which):
    return lambda measurement: measurement["load"][group][which]


def counted(name):
    return lambda measurement: measurement["load"][name]


def peak(measurement):
    return measurement["peak_mib"]


def ratio(bound, least=False, every=False):
    return Goal("ratio", bound, least, every)


def tokens_per_second(ramp):
    """As many as while all streams run: every connection is busy for the same time, but the last
    one begins later than the first by the ramp (without the last step of it)."""

    def pick(measurement):
        load = measurement["load"]
        later = ramp * (load["connections"] - 1) / load["connections"]
        return load["tokens"] / (load["seconds"] - later)

    return pick


def most(bound, every=False):
    return Goal("ours", bound, every=every)


def throughput(name, title, goal, load, quick):
    """As many requests as go through; the warm-up checks every token."""
    load = dataclasses.replace(load, seconds=1.0 if quick else 2.5)
    warm_up = dataclasses.replace(load, seconds=0.2 if quick else 0.4, check=True)
    line = Line(title, rps, ratio(goal, least=True), cpu=True)
    return Row(name, "load", [line], load, warm_up)


def short(connections, goal, quick):
    title = f"short responses/s, {connections} connection{'s' * (connections > 1)}"
    return throughput(f"short-{connections}", title, goal, Load("short", connections), quick)


def streams(connections, goal, quick):
    """All tokens in as few writes as the socket takes."""
    title = f"streams of 256 tokens/s, {connections} connection{'s' * (connections > 1)}"
    load = Load("stream-256", connections, stream=True)
    return throughput(f"stream-{connections}", title, goal, load, quick)


def tokens(connections, goal, quick):
    """As servers send them: each token in its own write, here without a pause."""
    title = f"- one write per token, {connections} connection{'s' * (connections > 1)}"
    load = Load("paced-1000000000-256", connections, stream=True)
    return throughput(f"tokens-{connections}", title, goal, load, quick)


def embeddings(connections, quick):
    title = (
        f"embeddings of 256 x 1,536 numbers/s, {connections} connection{'s' * (connections > 1)}"
    )
    load = Load("embed-256x1536", connections, embed=256)
    return throughput(f"embed-{connections}", title, 0.7, load, quick)


def failed(measurement):
    """Lost tokens and answers that were none."""
    load = measurement["load"]
    return load["lost"] + sum(load["errors"].values())


def paced(connections, requests, ramp):
    """Each connection asks for so many streams of two seconds, one after the other."""
    return Load(
        "paced-50-100",
        connections,
        requests=connections * requests,
        stream=True,
        ramp=ramp,
        check=True,
    )


def memory(streams_at_once, goal):
    title = f"peak memory, {streams_at_once:,} live streams, MiB"
    return Line(title, peak, most(goal), digits=1)


def first_token(quick):
    connections = 20 if quick else 100
    load = paced(connections, 1, 0.2) if quick else paced(connections, 4, 1.0)
    what = f"{connections} streams of 50 tokens/s"
    lines = [
        Line(f"first token p50, {what}, ms", percentile("ttft_ms", "p50"), ratio(1.05), 2),
        Line(f"first token p99, {what}, ms", percentile("ttft_ms", "p99"), ratio(1.2), 2),
        Line("- in transit p50, ms", percentile("transit_ms", "p50"), digits=2),
        Line("- in transit p99, ms", percentile("transit_ms", "p99"), digits=2),
        memory(connections, 14),
    ]
    return Row("first-token", "load", lines, load)


def none_failed(title):
    return Line(f"{title}: lost or failed", failed, most(0, every=True), ratio=False)


def crowd(connections, goal, quick):
    size = 200 if quick else connections
    load = paced(size, 1, 0.5) if quick else paced(size, 3, 2.0)
    lines = [
        none_failed(f"{size:,} streams of 50 tokens/s"),
        Line("- over 100 ms late", counted("late"), most(0, every=True), ratio=False),
        Line("- gap p99, ms", percentile("gap_ms", "p99"), ratio(1.2, every=connections > 500), 2),
        Line("- in transit p99, ms", percentile("transit_ms", "p99"), digits=2),
        memory(size, goal),
    ]
    if connections >= 1000:
        token = Line("- CPU of a token, us", lambda it: it["cpu_us_per_token"], most(18), 1)
        lines.append(token)
    return Row(f"crowd-{connections}", "load", lines, load)


def pressure(connections, goal):
    """More streams than can be served in time: how many tokens come through all the same."""
    rate = Goal("ours", goal, least=True)
    lines = [
        none_failed(f"{connections:,} streams of 50 tokens/s"),
        Line("- tokens/s", tokens_per_second(RAMP), rate),
        Line("- gap p99, ms", percentile("gap_ms", "p99"), digits=2),
        Line("- in transit p99, ms", percentile("transit_ms", "p99"), digits=2),
        Line(f"peak memory, {connections:,} live streams, MiB", peak, digits=1),
    ]
    return Row(f"crowd-{connections}", "load", lines, paced(connections, 3, RAMP))


def burst(connections, quick):
    """All at once, to a program that has just started; from the opening of the connection."""
    size = 100 if quick else connections
    load = Load(
        "paced-50-50", size, requests=size, stream=True, check=True, ramp=0.0, from_connect=True
    )
    first = percentile("ttft_ms", "p99")
    lines = [
        none_failed(f"{size:,} streams that begin at once"),
        Line("- first token p99, ms", first, digits=1),
        Line("- beyond the ceiling's, ms", first, most(60), digits=1, ratio=False, beyond=True),
        Line(f"peak memory, {size:,} streams at once, MiB", peak, digits=1),
    ]
    return Row(f"burst-{connections}", "load", lines, load)


def compared(name, what, variant, load, quick):
    """Short responses and streams at 16 connections, against our program with its defaults."""
    found = []
    kinds = [("short", "short responses/s", "short", False)]
    if not quick:
        kinds.append(("stream", "streams of 256 tokens/s", "stream-256", True))
    for kind, title, model, stream in kinds:
        one = dataclasses.replace(load, model=model, stream=stream)
        row = throughput(f"{name}-{kind}", f"{title}, 16 connections, {what}", 0.97, one, quick)
        lines = [dataclasses.replace(line, base=PLAIN) for line in row.lines]
        found.append(dataclasses.replace(row, lines=lines, variant=variant))
    return found


def router(quick):
    """Five addresses of the one upstream. It hashes conversations, so there are several."""
    names = [f"u{number}" for number in range(1, UPSTREAMS + 1)]
    text = "".join(
        f'[[upstream]]\nname = "{name}"\nbase_url = "http://127.0.0.1:{{upstream}}/{name}/v1"\n\n'
        for name in names
    )
    for model in ("short", "stream-256"):
        use = ", ".join(f'"{name}/{model}"' for name in names)
        text += f'[[model]]\nname = "{model}"\nuse = [{use}]\nstrategy = "sticky"\n\n'
    variant = Variant({"PROXY_CONFIG": "{folder}/proxy.toml"}, {"proxy.toml": text})
    load = Load("", 16, conversations=64)
    return compared(f"router-{UPSTREAMS}", f"{UPSTREAMS} upstreams", variant, load, quick)


def behind_keys(quick):
    options = {"PROXY_API_KEYS_FILE": "{folder}/keys", "LOG_FORMAT": "json"}
    variant = Variant(options, {"keys": f"bench:{KEY}\n"}, watched=True)
    return compared("behind-keys", "keys, JSON log, status", variant, Load("", 16, key=KEY), quick)


def image():
    # bench-load takes the bytes of the image, of which base64 makes a third more.
    load = Load("short", requests=1, image_bytes=IMAGE * 3 // 4)
    line = Line(
        "extra memory for a 15 MB image, bodies",
        lambda it: it["extra_bodies"],
        most(2),
        2,
        ratio=False,
    )
    return Row("image", "image", [line], load, Load("short", requests=1))


def idle():
    line = Line("peak memory, idle, MiB", peak, most(6), digits=1)
    return Row("idle", "idle", [line], Load("short", requests=1))


def start():
    line = Line("start to first response, ms", lambda it: it["start_ms"], most(10), 1, ratio=False)
    return Row("start", "start", [line])


def size():
    lines = [
        Line("stripped static binary, MiB", lambda it: it["mib"], most(4.25), 2, ratio=False),
        Line("- its peak memory, idle, MiB", peak, most(6), digits=1, ratio=False),
    ]
    return Row("size", "size", lines, Load("short", requests=1))


GATEWAYS = ("short-1", "short-16", "stream-1", "stream-16", "first-token", "crowd-500", "idle")


def every(quick=False):
    """All rows, in the order of the table."""
    found = ordered(quick)
    return [dataclasses.replace(row, gateways=row.name in GATEWAYS) for row in found]


def models():
    """Those of the loads of the rows for gateways."""
    return sorted({row.load.model for row in every() + every(quick=True) if row.gateways})


def ordered(quick):
    crowds = [crowd(500, 40, quick)]
    if not quick:
        crowds += [crowd(1000, 48, quick), pressure(2000, 75_000)]
    return [
        short(1, 0.8, quick),
        short(16, 0.65, quick),
        *([] if quick else [short(64, 0.6, quick)]),
        *([] if quick else [streams(1, 0.95, quick)]),
        streams(16, 0.95, quick),
        *([] if quick else [tokens(1, 0.9, quick)]),
        tokens(16, 0.8, quick),
        first_token(quick),
        burst(1000, quick),
        *crowds,
        *router(quick),
        *behind_keys(quick),
        idle(),
        embeddings(1, quick),
        *([] if quick else [embeddings(4, quick)]),
        image(),
        start(),
        size(),
    ]
