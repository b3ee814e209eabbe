#!/usr/bin/env python3
"""Runs the scenarios: run.py --binary PATH [--only NAME] [--seed N] [--list].

Each scenario is a process of its own, so that the load of one does not falsify the times of
another. The heavy ones run one after the other; the quiet ones, which mostly wait, beside them.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback

import cgroup
import machine
from bench import SCENARIOS, Bench

import scenarios_chaos  # noqa: F401
import scenarios_claims  # noqa: F401
import scenarios_framing  # noqa: F401
import scenarios_guard  # noqa: F401
import scenarios_keys  # noqa: F401
import scenarios_limits  # noqa: F401
import scenarios_load  # noqa: F401
import scenarios_memory  # noqa: F401
import scenarios_recovery  # noqa: F401
import scenarios_rest  # noqa: F401
import scenarios_self  # noqa: F401
import scenarios_upload  # noqa: F401
import scenarios_upstream  # noqa: F401

QUIET_AT_ONCE = 4
LANES = {"quiet": QUIET_AT_ONCE, "heavy": 1}


def one(name, binary, seed):
    """A single scenario in this process; its result is the last line of output."""
    machine.raise_nofile()
    machine.quiet()
    bench = Bench(SCENARIOS[name], binary, seed)
    print(json.dumps(asyncio.run(bench.run())), flush=True)


async def child(name, binary, seed):
    """Runs a single scenario in its own process."""
    scenario = SCENARIOS[name]
    folder = tempfile.mkdtemp(prefix="fault-")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        os.path.abspath(__file__),
        "--binary",
        binary,
        "--one",
        name,
        "--seed",
        str(seed),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": folder},
        start_new_session=True,
        preexec_fn=machine.tied(),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), scenario.limit)
        return json.loads(output.splitlines()[-1])
    except TimeoutError:
        why = f"not done within {scenario.limit} s"
    except (ValueError, IndexError):
        why = f"ended with status {process.returncode} and without a result"
    finally:
        # Removes the control groups that the process left behind.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await process.wait()
        cgroup.sweep(process.pid)
        shutil.rmtree(folder, ignore_errors=True)
    return {"name": name, "failures": [why], "figures": [], "seconds": scenario.limit}


def report(result):
    scenario = SCENARIOS[result["name"]]
    verdict = "FAIL" if result["failures"] else "PASS"
    figures = "; ".join(result["figures"])
    print(f"{verdict} {result['name']} ({result['seconds']} s): {scenario.proves}", flush=True)
    if figures:
        print(f"     {figures}", flush=True)
    for failure in result["failures"]:
        print(f"     - {failure}", flush=True)


async def everything(names, binary, seed):
    """Runs the scenarios in their lanes and gives how many failed and were left out."""
    rooms = {lane: asyncio.Semaphore(count) for lane, count in LANES.items()}
    failed, skipped = [], []

    async def run(name):
        scenario = SCENARIOS[name]
        async with rooms[scenario.lane]:
            reason = scenario.needs() if scenario.needs else None
            if reason:
                skipped.append(name)
                print(f"SKIP {name}: {reason}", flush=True)
                return
            result = await child(name, binary, seed)
            report(result)
            if result["failures"]:
                failed.append(name)

    # The longest first, so that they end with the others.
    await asyncio.gather(
        *(run(name) for name in sorted(names, key=lambda it: -SCENARIOS[it].limit))
    )
    passed = len(names) - len(failed) - len(skipped)
    if skipped:
        print(f"\nleft out: {', '.join(skipped)}")
    if failed:
        print(f"\nfailed: {', '.join(sorted(failed))}")
    print(f"\n{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def main():
    arguments = argparse.ArgumentParser(prog="scripts/fault", description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", help="the program to test")
    arguments.add_argument("--only", action="append", help="this scenario (may be repeated)")
    arguments.add_argument("--seed", type=int, default=1, help="of plans that are random")
    arguments.add_argument("--list", action="store_true", help="name the scenarios")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.list:
        for scenario in sorted(SCENARIOS.values(), key=lambda it: (it.item, it.name)):
            print(f"{scenario.item} {scenario.name:20} {scenario.proves}")
        return 0
    if not options.binary:
        arguments.error("--binary is needed")
    binary = os.path.abspath(options.binary)
    if options.one:
        one(options.one, binary, options.seed)
        return 0
    unknown = [name for name in options.only or [] if name not in SCENARIOS]
    if unknown:
        arguments.error(f"no such scenario: {', '.join(unknown)} (see --list)")
    return asyncio.run(everything(options.only or list(SCENARIOS), binary, options.seed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
