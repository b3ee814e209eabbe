#!/usr/bin/env python3
"""Runs real servers and applications together with the proxy; see scripts/real.

For each name: the packages are installed with the network, then this program starts itself again in a
network namespace that holds the loopback interface only, and runs the checks there.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import applications
import coding_agents
import refusals
import replicas
import servers
from environments import Environments, NotInstalled, missing
from harness import Context, Failure, Report
from run import Programs, in_namespace, with_us

SUBJECTS = {
    **servers.SUBJECTS,
    **refusals.SUBJECTS,
    **replicas.SUBJECTS,
    **applications.SUBJECTS,
    **coding_agents.SUBJECTS,
}
LINE = re.compile(r"^(ok|FAIL) ")
HOUR = 3600


def install(name, environments):
    """The folders of a subject's environments by name."""
    subject = SUBJECTS[name]
    lacking = missing(subject.programs)
    if lacking:
        raise NotInstalled(f"{', '.join(lacking)} must be installed first")
    folders = {each: environments.python(each) for each in subject.python}
    folders.update({each: environments.npm(each) for each in subject.npm})
    return folders


def run_isolated(name, folders, options):
    """Run the checks of one subject in a namespace; how many passed and failed."""
    command = [sys.executable, __file__, "--inside", name, "--binary", str(options.binary)]
    command += ["--cache", str(options.cache)]
    for each, folder in folders.items():
        command += ["--environment", f"{each}={folder}"]
    program = subprocess.Popen(
        in_namespace(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=with_us,
    )
    passed = failed = 0
    for line in program.stdout:
        print(line, end="", flush=True)
        found = LINE.match(line)
        passed += bool(found) and found[1] == "ok"
        failed += bool(found) and found[1] == "FAIL"
    status = program.wait()
    if passed + failed == 0 or (status != 0 and failed == 0):
        print(f"FAIL {name} runs: its checks ended with status {status}", flush=True)
        failed += 1
    return passed, failed


def run_all(options):
    """Install and run each subject; the totals."""
    environments = Environments(options.cache, options.uv)
    options.cache.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    for name in options.names or SUBJECTS:
        try:
            folders = install(name, environments)
        except NotInstalled as reason:
            print(f"FAIL {name} is installed: {reason}", flush=True)
            failed += 1
            continue
        good, bad = run_isolated(name, folders, options)
        passed += good
        failed += bad
    return passed, failed


def run_inside(options):
    """Run the checks of one subject, here."""
    name = options.inside
    shutil.rmtree(options.cache / "logs" / name, ignore_errors=True)
    report = Report(name)
    folders = dict(pair.split("=", 1) for pair in options.environment)
    folders = {each: Path(folder) for each, folder in folders.items()}
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"{name} takes more than an hour"))
    signal.alarm(HOUR)
    with Programs() as programs:
        context = Context(name, options.binary, options.cache, folders, programs, report)
        try:
            SUBJECTS[name].run(context)
        except Failure as reason:
            report.fail("starts", reason)
    return report.failed


def expanded(names):
    """The names, with `agents` alone as all coding agents; before other names it says nothing new."""
    others = [name for name in names if name != "agents"]
    return others or [name for name in coding_agents.SUBJECTS if "agents" in names]


def arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--binary", type=Path, help="the binary under test")
    parser.add_argument("--cache", type=Path, help="where the packages are kept")
    parser.add_argument("--uv", type=Path, help="the program uv, which installs them")
    parser.add_argument("--inside", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--environment", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.names = expanded(options.names)
    for name in options.names:
        if name not in SUBJECTS:
            parser.error(f"unknown name {name}; these are known: {' '.join(SUBJECTS)}")
    return options


def main():
    """Do what the command line says; exit status 1 if anything failed."""
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if options.list:
        for name, subject in SUBJECTS.items():
            print(f"{name:<18} {subject.what}")
        return
    options.binary = options.binary.resolve()
    if options.inside:
        sys.exit(1 if run_inside(options) else 0)
    passed, failed = run_all(options)
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
