"""The rows: what load each one is, and the lines of the table that come of it.

The names are those of `--row`. The sizes of a quick run are smaller, and its titles say so.
"""

import dataclasses

from figures import Goal, Line

MANY = 200  # Streams above which the proxy gets more workers than it has by default.
SPARE = 64  # Workers and connections beyond the streams, for whoever asks besides.
IMAGE = 15_000_000  # Bytes of the request's body, nearly all of it base64.


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

    def arguments(self):
        found = ["--model", self.model, "--connections", str(self.connections)]
        for name in ("seconds", "requests", "embed", "image_bytes", "ramp"):
            value = getattr(self, name)
            if value is not None:
                found += [
                    "--" + name.replace("_", "-"),
                    f"{value:g}" if isinstance(value, float) else str(value),
                ]
        return found + ["--stream"] * self.stream + ["--check"] * self.check

    def options(self):
        """The environment that our program needs for so many: nothing while its defaults do."""
        if self.connections <= MANY:
            return {}
        enough = str(self.connections + SPARE)
        return {"PROXY_WORKERS": enough, "MAX_CONNECTIONS": str(max(1024, int(enough)))}


@dataclasses.dataclass(frozen=True)
class Row:
    """`kind` selects the measurement: see targets.py."""

    name: str
    kind: str
    lines: list
    load: Load | None = None
    warm_up: Load | None = None


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


def crowd(connections, goal, quick):
    size = 200 if quick else connections
    load = paced(size, 1, 0.5) if quick else paced(size, 3, 2.0)
    lines = [
        Line(
            f"{size:,} streams of 50 tokens/s: lost or failed",
            failed,
            most(0, every=True),
            ratio=False,
        ),
        Line("- over 100 ms late", counted("late"), most(0, every=True), ratio=False),
        Line("- gap p99, ms", percentile("gap_ms", "p99"), ratio(1.2, every=connections > 500), 2),
        Line("- in transit p99, ms", percentile("transit_ms", "p99"), digits=2),
        memory(size, goal),
    ]
    return Row(f"crowd-{connections}", "load", lines, load)


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


def every(quick=False):
    """All rows, in the order of the table."""
    crowds = [crowd(500, 40, quick)] + ([] if quick else [crowd(1000, 48, quick)])
    return [
        short(1, 0.8, quick),
        short(16, 0.65, quick),
        *([] if quick else [short(64, 0.6, quick)]),
        *([] if quick else [streams(1, 0.95, quick)]),
        streams(16, 0.95, quick),
        *([] if quick else [tokens(1, 0.9, quick)]),
        tokens(16, 0.8, quick),
        first_token(quick),
        *crowds,
        idle(),
        embeddings(1, quick),
        *([] if quick else [embeddings(4, quick)]),
        image(),
        start(),
        size(),
    ]
