"""From measurements to the table: medians, ratios, goals. Pure: nothing is run or read here.

A round is a dict from a target's name to what was measured there. A ratio is always taken within
one round, where everybody had the same machine; the median is taken of the ratios.
"""

import dataclasses
import statistics
from collections.abc import Callable

CEILING, NGINX, OURS = "ceiling", "nginx", "ours"
PLAIN = "plain"  # Our program with its defaults, where `ours` is another setup of it.
FIXED = (CEILING, NGINX, OURS)
HEAD = ["what", *FIXED, "ours / nginx", "goal", "", "CPU nginx, ours"]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound for the ratio of ours to the line's base, or for our own value."""

    of: str  # "ratio" or "ours"
    bound: float
    least: bool = False  # Whether the bound is the least that will do, not the most.
    every: bool = False  # Whether each single round must meet it, not the median.

    def met(self, number):
        return number >= self.bound if self.least else number <= self.bound

    def judged(self, spread):
        """The number of several rounds that counts, of a spread as a dict."""
        if not self.every:
            return spread["middle"]
        return spread["low" if self.least else "high"]

    def __str__(self):
        if self.bound == 0:
            return "none"
        text = f"at {'least' if self.least else 'most'} {self.bound:,.10g}"
        text += " x" * (self.of == "ratio")
        return text + " in every round" * self.every


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: how to find its number in a measurement, and what it should be."""

    title: str
    pick: Callable
    goal: Goal | None = None
    digits: int = 0
    cpu: bool = False  # Whether CPU time per request says something here.
    ratio: bool = True
    base: str = NGINX  # What ratios are taken to.
    beyond: bool = False  # Whether the ceiling's of the same round is taken away.


@dataclasses.dataclass
class Spread:
    """A number for several rounds."""

    middle: float
    low: float
    high: float


def spread(numbers):
    """None if there are no numbers."""
    if not numbers:
        return None
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def picked(pick, measurement):
    """The number, or None where this target has none."""
    try:
        return pick(measurement)
    except (KeyError, TypeError):
        return None


def values(pick, rounds, target, beyond=None):
    """Of each round that has one; with `beyond`, less that target's value of the same round."""
    found = []
    for each in rounds:
        number, less = picked(pick, each.get(target)), 0
        if beyond:
            less = picked(pick, each.get(beyond))
        if number is not None and less is not None:
            found.append(number - less)
    return found


def ratios(pick, rounds, target, base):
    """Target to base, of each round that has both."""
    found = []
    for each in rounds:
        over, under = picked(pick, each.get(target)), picked(pick, each.get(base))
        if over is not None and under:
            found.append(over / under)
    return found


def cpu_per_request(measurement):
    return measurement["cpu_us_per_request"]


def summary(line, rounds, targets):
    """All figures of a table row, as JSON."""
    found = {"title": line.title, "goal": str(line.goal) if line.goal else None, "values": {}}
    beyond = CEILING if line.beyond else None
    for target in targets:
        number = None
        if target != beyond:
            number = spread(values(line.pick, rounds, target, beyond))
        found["values"][target] = number and dataclasses.asdict(number)
    found["ratios"] = {}
    for target in targets:
        if line.ratio and target not in (CEILING, NGINX, line.base):
            number = spread(ratios(line.pick, rounds, target, line.base))
            found["ratios"][target] = number and dataclasses.asdict(number)
    found["cpu"] = {}
    if line.cpu:
        for target in targets:
            number = spread(values(cpu_per_request, rounds, target))
            found["cpu"][target] = number and number.middle
    found["failed"] = {}
    for target in targets:
        count = sum("failed" in each.get(target, ()) for each in rounds)
        if count:
            found["failed"][target] = f"{count} of {len(rounds)} failed"
    found["verdict"] = verdict(line.goal, found)
    return found


def verdict(goal, found):
    """`met`, `missed`, `not measured`, or None without a goal."""
    if goal is None:
        return None
    number = (found["ratios"] if goal.of == "ratio" else found["values"]).get(OURS)
    if number is None:
        return "not measured"
    return "met" if goal.met(goal.judged(number)) else "missed"


def number_text(number, digits):
    return "-" if number is None else f"{number:,.{digits}f}"


def value_text(line, found, target):
    """The median, or of a value of which every round counts the worst."""
    value = found["values"].get(target)
    counts = line.goal and line.goal.of == "ours"
    number = value and (line.goal.judged(value) if counts else value["middle"])
    return number_text(number, line.digits)


def ratio_text(value):
    """The median with the least and the greatest, where there were several."""
    if value is None:
        return "-"
    text = f"{value['middle']:.2f}"
    if value["low"] != value["high"]:
        text += f" [{value['low']:.2f} .. {value['high']:.2f}]"
    return text


def cells(line, found, others, judging):
    row = [line.title, *(value_text(line, found, target) for target in FIXED)]
    text = ratio_text(found["ratios"].get(OURS))
    row.append(text if line.base == NGINX else f"{text} of {value_text(line, found, line.base)}")
    row.append(found["goal"] or "")
    row.append((found["verdict"] or "") if judging else "")
    cpu = [found["cpu"].get(target) for target in (line.base, OURS)]
    row.append(", ".join(number_text(each, 0) for each in cpu) + " us" if any(cpu) else "")
    return row + [other_text(line, found, other) for other in others]


def other_text(line, found, other):
    """Another proxy's value, ratio to nginx, CPU, and how often it failed."""
    text = value_text(line, found, other)
    if ratio := found["ratios"].get(other):
        middle = ratio["middle"]
        text += f" ({middle:.2f})" if middle >= 0.1 else f" ({middle:.2g})"
    if cpu := found["cpu"].get(other):
        text += f", {cpu:,.0f} us"
    if other in found["failed"]:
        text += f"; {found['failed'][other]}"
    return text


def table(lines, summaries, others=(), judging=True):
    """The Markdown, with columns of one width so that it reads in a terminal, too."""
    rows = [HEAD + [f"{other} (to nginx)" for other in others]]
    for line, found in zip(lines, summaries):
        rows.append(cells(line, found, others, judging))
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    right = range(1, 4)
    rule = [
        "-" * (width - 1) + ":" if column in right else "-" * width
        for column, width in enumerate(widths)
    ]
    text = []
    for row in [rows[0], rule, *rows[1:]]:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        text.append("| " + " | ".join(padded) + " |")
    return "\n".join(text)
