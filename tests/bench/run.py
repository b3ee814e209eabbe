#!/usr/bin/env python3
"""Measures all rows in alternation and prints the table; scripts/bench builds and calls it."""

import argparse
import json
import os
import signal
import sys
import traceback

import figures
import gateway
import machine
import rows
import targets

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUSY = 1.0  # A load average from which on the figures are worth little.
NOTES = """\
Medians of {rounds} in alternation. A ratio is computed within each round; in brackets its least and
greatest, of which the worse one is judged where the goal says "in every round". Only ratios are
meaningful: load, upstream and proxies share the cores. `ceiling` is the load generator against the
upstream itself. CPU is microseconds per request, of all processes of the proxy.
Above {many} streams the proxy has as many workers and connections as there are streams
(`PROXY_WORKERS`, `MAX_CONNECTIONS`); else its defaults. A ratio "of" a number is one to our program
with its defaults, in the same rounds; then its CPU is in the place of that of nginx."""


def options():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--programs", help="the folder of bench-upstream and bench-load")
    parser.add_argument("--binary", help="the program to measure")
    parser.add_argument("--kind", default="given", help="what the binary is, in a word")
    parser.add_argument("--static-binary", help="whose size is told")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    parser.add_argument("--before")
    parser.add_argument("--against", action="append", default=[])
    parser.add_argument("--litellm", help="the virtual environment of --against litellm")
    parser.add_argument("--upstream-port", type=int, default=0)
    return parser.parse_args()


def chosen(names, quick):
    every = rows.every(quick)

    def is_named(row, name):
        return row.name == name or row.name.startswith(name + "-")

    unknown = [name for name in names if not any(is_named(row, name) for row in every)]
    if unknown:
        raise machine.Failure(f"no such row: {', '.join(sorted(unknown))} (see --list)")
    return [row for row in every if not names or any(is_named(row, name) for name in names)]


def rotated(found, by):
    by %= len(found)
    return found[by:] + found[:by]


def measured(setting, wanted, rounds):
    """A list of rounds for each row's name; another target begins in each round."""
    found = {row.name: [] for row in wanted}
    for number in range(rounds):
        for row in wanted:
            print(f"round {number + 1} of {rounds}: {row.name}", file=sys.stderr, flush=True)
            order = rotated(setting.targets(row), number)
            found[row.name].append(one_round(setting, row, order))
    return found


def one_round(setting, row, order):
    """The measured rows; a row that fails does not stop the others."""
    found = {}
    for target in order:
        before = len(setting.problems)
        try:
            one = targets.measure(setting, target, row)
        except machine.Failure as failure:
            setting.problems.append((target, f"{row.name}, {target}: {failure}"))
            one = None
        if wrong := [problem for _, problem in setting.problems[before:]]:
            one = {**(one or {}), "failed": wrong}
        if one is not None:
            found[target] = one
    return found


def summarised(wanted, found, setting):
    """The lines with at least one figure, and their summaries."""
    lines, summaries = [], []
    for row in wanted:
        for line in row.lines:
            summary = figures.summary(line, found[row.name], setting.targets(row))
            if any(summary["values"].values()):
                lines.append(line)
                summaries.append({"row": row.name, **summary})
    return lines, summaries


def machine_text(facts):
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB; "
        f"Linux {facts['kernel']}, nginx {facts['nginx']}, {facts['rustc']}"
        f"{', LiteLLM ' + facts['litellm'] if facts.get('litellm') else ''}; "
        f"commit {facts['commit']}, {facts['binary']} binary of {facts['binary_bytes']:,} bytes."
    )


def reported(lines, summaries, others, asked, facts):
    rounds = "one round" if asked.rounds == 1 else f"{asked.rounds} rounds"
    print()
    print(figures.table(lines, summaries, others, judging=not asked.quick))
    print()
    print(machine_text(facts))
    print(NOTES.format(rounds=rounds, many=rows.MANY), flush=True)
    if facts["load_average"] > BUSY:
        print(f"The machine was busy at the start (load {facts['load_average']}): measure again.")
    if asked.quick:
        print("A quick run at reduced size: it checks that everything works and judges no goals.")


def ended(setting, summaries, asked):
    """Print the failures, and return the exit status."""
    serious = False
    for target, problem in setting.problems:
        print(f"wrong: {problem}")
        serious = serious or target in (*figures.FIXED, figures.PLAIN)
    verdicts = [summary["verdict"] for summary in summaries]
    if not asked.quick:
        print(f"{verdicts.count('met')} met, {verdicts.count('missed')} missed")
    return 1 if serious or (asked.judge and "missed" in verdicts) else 0


def checked(asked):
    """Refuses what makes no sense, and completes the rest."""
    if asked.quick:
        asked.rounds = 1
    if asked.before and not asked.plot:
        raise machine.Failure("--before needs --plot")
    if asked.rounds < 1:
        raise machine.Failure("--rounds must be 1 or more")
    if gateway.NAME in asked.against and not asked.litellm:
        raise machine.Failure("--against litellm needs --litellm, which scripts/bench gives")
    for name in ("programs", "binary", "static_binary"):
        if getattr(asked, name):
            setattr(asked, name, os.path.abspath(getattr(asked, name)))


def keep(asked, facts, summaries, found):
    if asked.json:
        kept = {"machine": facts, "rounds": asked.rounds, "lines": summaries, "rows": found}
        with open(asked.json, "w") as file:
            json.dump(kept, file, indent=1)


def everything(asked):
    wanted = chosen(asked.row, asked.quick)
    if asked.list:
        for row in wanted:
            print(f"{row.name:18} {'; '.join(line.title for line in row.lines)}")
        return 0
    checked(asked)
    machine.raise_nofile()
    facts = machine.describe(ROOT, asked.binary, asked.kind)
    facts["litellm"] = gateway.version(asked.litellm) if asked.litellm else None
    against = targets.others(asked.against)
    upstream = machine.Upstream(
        os.path.join(asked.programs, "bench-upstream"), asked.upstream_port
    )
    with upstream:
        binaries = (asked.programs, asked.binary, asked.static_binary)
        setting = targets.Setting(*binaries, upstream, against, asked.quick, asked.litellm)
        if asked.plot:
            import growth

            return growth.drawn(setting, asked.plot, facts, asked.json, asked.before)
        found = measured(setting, wanted, asked.rounds)
    lines, summaries = summarised(wanted, found, setting)
    others = [*against, gateway.NAME] if asked.litellm else list(against)
    reported(lines, summaries, others, asked, facts)
    keep(asked, facts, summaries, found)
    return ended(setting, summaries, asked)


def told_to_stop(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, told_to_stop)
    signal.signal(signal.SIGHUP, told_to_stop)
    try:
        return everything(options())
    except KeyboardInterrupt:
        return 130
    except machine.Failure as failure:
        print(f"scripts/bench: {failure}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main())
