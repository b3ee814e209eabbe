"""How it grows: tokens per second, first-token time and memory against the number of streams.

Drawn with matplotlib, which scripts/bench installs in an environment of its own.
"""

import json
import math
import os
import sys

import machine
import rows
import targets
from figures import NGINX, OURS

LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1500, 2000)
QUICK_LEVELS = (1, 10, 100)
RATE = 50  # Tokens a second of each stream.
BEFORE = "before"  # Our program in an earlier measurement.
COLOURS = {NGINX: "#8a6d3b", OURS: "#1f5fa8", BEFORE: "#8fbce6"}
GREY = "#888888"
APART = 0.06  # The least distance of two names, as a share of the height.
BYTES = 150_000  # The picture is part of the repository.


def level(setting, target, streams):
    """What the panels show, of fresh programs."""
    load = rows.paced(streams, 3, rows.RAMP)
    row = rows.Row(f"{streams} streams", "load", [], load)
    found = targets.measure(setting, target, row)
    return {"streams": streams, "peak_mib": found["peak_mib"], **found["load"]}


def measured(setting):
    levels = QUICK_LEVELS if setting.quick else LEVELS
    found = {NGINX: [], OURS: []}
    for number, streams in enumerate(levels):
        print(f"plot: {streams} streams", file=sys.stderr, flush=True)
        for target in list(found)[:: 1 if number % 2 else -1]:
            found[target].append(level(setting, target, streams))
    return found


def tokens_per_second(point):
    return rows.tokens_per_second(rows.RAMP)({"load": point})


def outward(low, high):
    """Limits of a logarithmic axis: the next 1, 2 or 5 times a power of ten on both sides."""
    steps = [factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5)]
    below = max(step for step in steps if step < low)
    return below, min(step for step in steps if step > high)


def curves(axis, found, pick, style="-", note=""):
    """One for each target; gives where they end, and their names."""
    ends = []
    for target, points in found.items():
        across, up = [it["streams"] for it in points], [pick(it) for it in points]
        axis.plot(
            across, up, style, color=COLOURS[target], marker="o", markersize=3, linewidth=1.4
        )
        ends.append((up[-1], target + note, COLOURS[target]))
    return ends


def panel(axis, title, ends, ideal=None):
    """Title, limits, and the names beside the curves' ends, never one over another. `ideal` is a
    dotted curve: what there would be without a proxy."""
    axis.set_title(title, fontsize=10, loc="left")
    if ideal:
        axis.plot(*ideal, ":", color=GREY, linewidth=1.2)
        ends = [*ends, (ideal[1][-1], "ideal", GREY)]
    ups = [up for line in axis.get_lines() for up in line.get_ydata()]
    low, high = outward(min(ups), max(ups))
    axis.set_ylim(low, high)
    last = -1.0
    for up, name, colour in sorted(ends):
        last = max(math.log(up / low) / math.log(high / low), last + APART)
        axis.annotate(
            name, (1.02, last), xycoords="axes fraction", color=colour, fontsize=8, va="center"
        )


def styled(axis, ticker):
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("streams at once", fontsize=9)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.yaxis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5), numticks=20))
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.minorticks_off()
    axis.tick_params(labelsize=8)


def earlier(path):
    """Our curve of an earlier measurement, which `--json` of a plot has kept."""
    try:
        with open(path) as file:
            return json.load(file)["levels"][OURS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise machine.Failure(f"{path} is no measurement of a plot ({reason})") from None


def drawing(found, facts):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, (first, second, third) = pyplot.subplots(1, 3, figsize=(12.5, 4.2))
    for axis in (first, second, third):
        styled(axis, ticker)
    across = [point["streams"] for point in found[OURS]]
    ends = curves(first, found, tokens_per_second)
    panel(first, "tokens per second", ends, (across, [RATE * streams for streams in across]))
    first.yaxis.set_major_locator(ticker.LogLocator(10))
    first.minorticks_off()
    ends = curves(second, found, lambda it: it["ttft_ms"]["p50"], note=" p50")
    ends += curves(second, found, lambda it: it["ttft_ms"]["p99"], "--", " p99")
    panel(second, "first token, ms", ends, (across, [1000 / RATE] * len(across)))
    ends = curves(third, found, lambda it: it["peak_mib"])
    panel(third, "peak memory, MiB", ends)
    figure.suptitle(
        f"1 to {max(across):,} streams of {RATE} tokens/s: ours (translates) beside nginx (copies)"
        f", {facts['cores']} cores for load, upstream and proxy",
        fontsize=11,
    )
    figure.tight_layout()
    return figure


def told(target, point):
    first = point["ttft_ms"]
    return (
        f"{target:6} {point['streams']:5} streams: {tokens_per_second(point):9,.0f} tokens/s, "
        f"first {first['p50']:.2f} and {first['p99']:.2f} ms, {point['peak_mib']:.1f} MiB, "
        f"{point['lost']} lost, {point['late']} late"
    )


def drawn(setting, path, facts, json_path, before_path):
    """Measures, draws, and gives the exit status."""
    before = {BEFORE: earlier(before_path)} if before_path else {}
    found = measured(setting)
    if json_path:
        with open(json_path, "w") as file:
            json.dump({"machine": facts, "levels": found}, file, indent=1)
    figure = drawing({**before, **found}, facts)  # The earlier curve below the others.
    figure.savefig(path, dpi=90, metadata={"Software": None})
    size = os.path.getsize(path)
    print(f"{path}: {size} bytes")
    for target, points in found.items():
        for point in points:
            print(told(target, point))
    for _, problem in setting.problems:
        print(f"wrong: {problem}")
    if size > BYTES:
        raise machine.Failure(f"the picture has more than {BYTES} bytes")
    return 1 if setting.problems else 0
