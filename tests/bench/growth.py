"""How it grows: tokens per second, first-token time and memory against the number of streams.

Drawn with matplotlib, which scripts/bench installs in an environment of its own.
"""

import json
import sys

import machine
import rows
import targets
from figures import NGINX, OURS

LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1500, 2000)
QUICK_LEVELS = (1, 10, 100)
RATE = 50  # Tokens a second of each stream.
COLOURS = {NGINX: "#8a6d3b", OURS: "#1f5fa8"}
NAMES = {NGINX: "nginx (copies)", OURS: "ours (translates)"}
BYTES = 150_000  # The picture is part of the repository.


def level(setting, target, streams):
    """What the panels show, of fresh programs."""
    load = rows.paced(streams, 3, 2 * RATE, 1.0)
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
    return point["tokens"] / point["seconds"]


def panel(axis, found, title, pick, style="-", note=""):
    """A curve for each target, named at its right end."""
    axis.set_title(title, fontsize=10, loc="left")
    for target, points in found.items():
        across, up = [it["streams"] for it in points], [pick(it) for it in points]
        colour = COLOURS[target]
        axis.plot(across, up, style, color=colour, marker="o", markersize=3, linewidth=1.4)
        yield target, across[-1], up[-1], note


def named(axis, ends, apart):
    """Writes the names beside the ends of the curves, from below upwards, never one over another;
    `apart` is the least distance as a share of the axis's height."""
    import math

    low, high = (math.log(it) for it in axis.get_ylim())
    last = -math.inf
    for target, across, up, note in sorted(ends, key=lambda it: it[2]):
        place = max((math.log(up) - low) / (high - low), last + apart)
        last = place
        axis.annotate(
            NAMES[target].split(" ")[0] + note,
            (1.02, place),
            xycoords="axes fraction",
            color=COLOURS[target],
            fontsize=8,
            va="center",
        )


def drawing(found, facts):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 3, figsize=(12.5, 4.0))
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("streams at once", fontsize=9)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    first, second, third = axes
    ends = list(panel(first, found, "tokens per second", tokens_per_second))
    across = [point["streams"] for point in found[OURS]]
    asked = [RATE * streams for streams in across]
    first.plot(across, asked, ":", color="#999999", linewidth=1)
    named(first, ends, 0.06)
    ends = list(panel(second, found, "first token, ms", lambda it: it["ttft_ms"]["p50"], note=" p50"))
    ends += panel(second, found, "first token, ms", lambda it: it["ttft_ms"]["p99"], "--", " p99")
    named(second, ends, 0.06)
    ends = list(panel(third, found, "peak memory, MiB", lambda it: it["peak_mib"]))
    named(third, ends, 0.06)
    for axis in axes:
        axis.xaxis.set_major_locator(ticker.FixedLocator([1, 10, 100, 1000, 2000]))
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.minorticks_off()
        axis.tick_params(labelsize=8)
        for label in axis.get_xticklabels()[-1:]:
            label.set_horizontalalignment("left")
    figure.suptitle(
        f"Streams of {RATE} tokens/s, {NAMES[OURS]} beside {NAMES[NGINX]}; "
        f"{facts['cores']} cores for load, upstream and proxy",
        fontsize=11,
    )
    figure.tight_layout()
    return figure


def drawn(setting, path, facts, json_path):
    """Measures, draws, and gives the exit status."""
    found = measured(setting)
    if json_path:
        with open(json_path, "w") as file:
            json.dump({"machine": facts, "levels": found}, file, indent=1)
    figure = drawing(found, facts)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    with open(path, "rb") as file:
        size = len(file.read())
    print(f"{path}: {size} bytes")
    for target, points in found.items():
        for it in points:
            print(
                f"{target:6} {it['streams']:5} streams: {tokens_per_second(it):9,.0f} tokens/s, first "
                f"{it['ttft_ms']['p50']:.2f} and {it['ttft_ms']['p99']:.2f} ms, "
                f"{it['peak_mib']:.1f} MiB, {it['lost']} lost, {it['late']} late"
            )
    for _, problem in setting.problems:
        print(f"wrong: {problem}")
    if size > BYTES:
        raise machine.Failure(f"the picture has more than {BYTES} bytes")
    return 1 if setting.problems else 0
