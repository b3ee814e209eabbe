#!/usr/bin/env python3
"""Runs the tests against a random sample of mutants: run.py --seed N --count N [--minutes N] [--folder F].

A mutant is the program with one small change, as `cargo mutants` makes them (an operator exchanged, a
function's value replaced). A test must fail on it, or the change is one that nobody can notice.

Each mutant is built in a copy of the committed sources, with a target folder of its own that stays, so that
only what the change touches is compiled anew. The tests of the library come first, since they take seconds;
the integration tests run only on what those let through, up to the first test that fails twice. Every result
is a line of a file at once, and the next call goes on behind the last one.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
EQUIVALENT = os.path.join(HERE, "equivalent.txt")
BUILD_LIMIT = 1800
# Of a run of tests; a mutant that hangs is caught by that.
LIBRARY_LIMIT = 300
WHOLE_LIMIT = 1200
FAILED = re.compile(r"^test (\S+) \.\.\. FAILED")
# Rules about the text of the sources see the change itself.
SKIPPED = ["house::"]
ENV = {
    "CARGO_INCREMENTAL": "1",
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "CARGO_PROFILE_TEST_DEBUG": "0",
    "CARGO_TERM_COLOR": "never",
    "RUST_BACKTRACE": "0",
}

CAUGHT = ("library", "integration", "timeout")


class Job:
    """A command in a process group of its own, whose output is watched."""

    def __init__(self, command, folder, env, limit, stop_at=None):
        self.lines = []
        self.stopped_by = None
        self.timed_out = False
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        timer = threading.Timer(limit, self.give_up, [process])
        timer.start()
        try:
            for line in process.stdout:
                self.lines.append(line.rstrip())
                found = stop_at and stop_at.match(line)
                if found:
                    self.stopped_by = found.group(1)
                    break
        finally:
            timer.cancel()
            self.kill(process)
        self.status = process.wait()

    def give_up(self, process):
        self.timed_out = True
        self.kill(process)

    @staticmethod
    def kill(process):
        """Ends what is left of it: tests start programs."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    @property
    def passed(self):
        return self.status == 0 and self.stopped_by is None and not self.timed_out


class Bench:
    """The copy of the sources, and its target folder."""

    def __init__(self, folder):
        self.tree = os.path.join(folder, "tree")
        self.env = {**os.environ, **ENV, "CARGO_TARGET_DIR": os.path.join(folder, "target")}

    def refresh(self):
        """The committed sources; files that are the same keep their times, so that little is built."""
        os.makedirs(self.tree, exist_ok=True)
        with tempfile.TemporaryDirectory() as new:
            archive = subprocess.run(
                ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", new], input=archive.stdout, check=True)
            wanted = set(files_below(new))
            for name in set(files_below(self.tree)) - wanted:
                os.remove(os.path.join(self.tree, name))
            for name in wanted:
                copy_if_different(os.path.join(new, name), os.path.join(self.tree, name))

    def mutants(self):
        """All mutants that cargo-mutants knows of the sources, in the order of their names."""
        command = ["cargo", "mutants", "--list", "--json", "--diff", "--no-config"]
        found = subprocess.run(
            command, cwd=self.tree, env=self.env, check=True, capture_output=True, text=True
        )
        listed = json.loads(found.stdout)
        return sorted(listed, key=lambda it: (it["name"], json.dumps(it["span"])))

    def test(self, mutant):
        """What becomes of a mutant, and which test caught it."""
        path = os.path.join(self.tree, mutant["file"])
        with open(path, "rb") as file:
            before = file.read()
        try:
            done = subprocess.run(
                ["patch", "--batch", "--silent", path],
                input=mutant["diff"],
                text=True,
                capture_output=True,
            )
            if done.returncode != 0:
                raise RuntimeError(f"{mutant['name']}: {done.stdout}{done.stderr}")
            return self.verdict()
        finally:
            with open(path, "wb") as file:
                file.write(before)

    def verdict(self):
        for result, target, limit in (
            ("library", ["--lib"], LIBRARY_LIMIT),
            ("integration", ["--test", "it"], WHOLE_LIMIT),
        ):
            if not self.cargo(target, BUILD_LIMIT, build_only=True).passed:
                return "unviable", None
            found = self.first_failure(target, limit)
            if found is not None:
                return ("timeout", None) if found == "" else (result, found)
        return "missed", None

    def first_failure(self, target, limit):
        """The first test that fails twice; "" for a run that does not end; None if there is none."""
        skipped = list(SKIPPED)
        while True:
            job = self.cargo(target, limit, skipped)
            if job.passed:
                return None
            name = job.stopped_by
            if name is None:
                # It ended without the name of a test: it hung, or the process died.
                return "" if job.timed_out else "the process of the tests"
            again = self.cargo(target, limit, only=name)
            if not again.passed:
                return name
            print(f"  {name} failed once of twice", flush=True)
            skipped.append(name)

    def cargo(self, target, limit, skipped=(), only=None, build_only=False):
        command = ["cargo", "test", "--quiet", "--locked", *target]
        if build_only:
            return Job([*command, "--no-run"], self.tree, self.env, limit)
        command.remove("--quiet")
        command.append("--")
        if only is not None:
            command += ["--exact", only]
        for name in skipped:
            command += ["--skip", name]
        return Job(command, self.tree, self.env, limit, FAILED)


def files_below(folder):
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "mutants.out"]
        for name in names:
            yield os.path.relpath(os.path.join(place, name), folder)


def copy_if_different(source, target):
    with open(source, "rb") as file:
        data = file.read()
    try:
        with open(target, "rb") as file:
            if file.read() == data:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(data)
    shutil.copymode(source, target)


def without_place(name):
    """The name of a mutant without line and column, which move."""
    return re.sub(r":\d+:\d+:", ":", name)


def equivalents():
    """Changes that nobody can notice: the name without its place, and the reason."""
    found = {}
    with open(EQUIVALENT) as file:
        for line in file:
            name, _, reason = line.strip().partition(" | ")
            if name and not name.startswith("#"):
                found[name] = reason
    return found


def commit():
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def read_results(path):
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        return {entry["name"]: entry for entry in map(json.loads, file)}


def report(results, wanted):
    """The table of what was missed, and the totals."""
    known = equivalents()
    counts = collections.Counter(entry["result"] for entry in results)
    missed = [entry for entry in results if entry["result"] == "missed"]
    equivalent = [it for it in missed if without_place(it["name"]) in known]
    open_ones = [it for it in missed if without_place(it["name"]) not in known]
    for entry in open_ones:
        print(f"MISSED {entry['name']}")
    for entry in equivalent:
        print(f"equivalent {entry['name']}: {known[without_place(entry['name'])]}")
    caught = sum(counts[kind] for kind in CAUGHT)
    viable = len(results) - counts["unviable"]
    share = 100 * caught / viable if viable else 0.0
    print(
        f"{len(results)} of {wanted} mutants done, {counts['unviable']} do not compile; of {viable}"
        f" {caught} caught ({share:.1f} %: " + ", ".join(f"{counts[it]} {it}" for it in CAUGHT)
        + f"), {len(equivalent)} equivalent, {len(open_ones)} missed"
    )
    return 1 if open_ones else 0


def main():
    arguments = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--count", type=int, default=200)
    arguments.add_argument("--minutes", type=float, default=None)
    arguments.add_argument("--only", default="", help="only mutants whose name holds this text")
    arguments.add_argument("--report", action="store_true", help="run nothing")
    arguments.add_argument("--folder", required=True)
    options = arguments.parse_args()
    folder = os.path.abspath(options.folder)
    os.makedirs(folder, exist_ok=True)
    bench = Bench(folder)
    bench.refresh()
    listed = [it for it in bench.mutants() if options.only in it["name"]]
    sample = random.Random(options.seed).sample(listed, min(options.count, len(listed)))
    path = os.path.join(folder, f"results-{commit()}-{options.seed}.jsonl")
    done = read_results(path)
    print(f"{len(listed)} mutants, {len(sample)} in the sample; results in {path}", flush=True)
    limit = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    for place, mutant in enumerate(sample, 1):
        if options.report or (limit is not None and time.monotonic() >= limit):
            break
        if mutant["name"] in done:
            continue
        began = time.monotonic()
        result, by = bench.test(mutant)
        entry = {"name": mutant["name"], "result": result, "by": by}
        entry["seconds"] = round(time.monotonic() - began, 1)
        done[mutant["name"]] = entry
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")
        told = f" by {by}" if by else ""
        print(f"{place} {result}{told} ({entry['seconds']} s): {mutant['name']}", flush=True)
    return report([done[it["name"]] for it in sample if it["name"] in done], len(sample))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
