"""Three upstreams behind one proxy: what each of them is, when it failed, and their configuration file.

Each answers with tokens of its own and keeps a journal in a file, so that it shows who answered what, and
how often, whatever became of the process.
"""

import bisect
import collections
import os
import time

import machine
import spec as specs
import wire

NAMES = ("a", "b", "c")
# A model of the configuration for each strategy, and the model that all three list.
MODELS = ("order", "least-busy", "sticky", specs.MODEL)


class Replica:
    """An upstream, its journal, and when it was killed."""

    def __init__(self, number, folder, *options):
        self.name = NAMES[number]
        self.number = number + 1
        self.journal = os.path.join(folder, self.name)
        options += ("--replica", str(self.number), "--journal", self.journal)
        self.upstream = machine.Upstream(*options)
        self.kills = []
        self.windows = []
        self.offset = 0

    def stages(self, offset=0):
        """The lines of the journal: stage and id."""
        with open(self.journal) as file:
            file.seek(offset)
            return [line.split() for line in file]

    async def has_waiting(self):
        """Whether a stream waits for its first byte here."""
        waiting = set()
        for stage, name in self.stages(self.offset):
            waiting.add(name) if stage == "began" else waiting.discard(name)
        return bool(waiting)

    def kill(self):
        self.kills.append(time.monotonic())
        self.upstream.kill()

    def restart(self):
        self.offset = os.path.getsize(self.journal)
        self.upstream.start()

    def was_killed(self, answer):
        """Whether it was killed while this answer ran."""
        at = bisect.bisect_left(self.kills, answer.began)
        return at < len(self.kills) and self.kills[at] <= answer.ended

    async def set_mode(self, **members):
        """Lays these members over the spec of each request from now on."""
        answer = await wire.ask(self.upstream.addr, "POST", "/_mode", members)
        return answer.status == 200

    async def stray(self):
        """What has come from the proxy that must not."""
        return (await wire.get(self.upstream.addr, "/_stats")).json().get("stray", [])

    def begin_failing(self, breaks):
        """Fails from now on; `breaks` where it may also break an answer that has begun."""
        self.windows.append([time.monotonic(), float("inf"), breaks])

    def end_failing(self):
        self.windows[-1][1] = time.monotonic()

    def failed_during(self, answer, only_breaks=True):
        """Whether it failed on purpose at some moment of this answer."""
        for began, ended, breaks in reversed(self.windows):
            if ended < answer.began:
                break
            if began <= answer.ended and (breaks or not only_breaks):
                return True
        return False


def endings(replicas):
    """How often an answer was ended by an upstream, for each id."""
    found = collections.Counter()
    for replica in replicas:
        found.update(name for stage, name in replica.stages() if stage == "ended")
    return found


def configuration(replicas, server=(), settings=None, models=()):
    """The configuration file; `server` are lines of its section, `settings` are lines of each upstream
    by its name, and `models` is more text at its end."""
    lines = ["[server]", *server, ""] if server else []
    for replica in replicas:
        url = f"http://127.0.0.1:{replica.upstream.port}/v1"
        lines += ["[[upstream]]", f'name = "{replica.name}"', f'base_url = "{url}"']
        lines += ['profile = "generic"', *(settings or {}).get(replica.name, ()), ""]
    use = ", ".join(f'"{replica.name}/{specs.MODEL}"' for replica in replicas)
    for strategy in MODELS[:3]:
        lines += ["[[model]]", f'name = "{strategy}"', f"use = [{use}]"]
        lines += [f'strategy = "{strategy}"', ""]
    return "\n".join([*lines, *models])
