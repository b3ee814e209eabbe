"""What happens to the upstreams and to the configuration while the soak test runs, by its seed.

One upstream at a time fails, in one of the ways of `FAILURES`; the others are well. Each reload changes the
settings of one upstream, the order of all, a model, and one of the keys.
"""

import asyncio
import collections
import os
import random
import signal

import spec as specs
from replicas import configuration

# How an upstream fails, and whether that may break an answer that has begun.
FAILURES = [
    ("kill", None, True),
    ("kill", None, True),
    ("503", {"fault": "status", "status": 503}, False),
    ("429", {"fault": "status", "status": 429, "retry_after": "1"}, False),
    ("reset", {"fault": "reset"}, False),
    ("close", {"fault": "close"}, False),
    ("garbage", {"fault": "garbage"}, False),
    ("no head", {"fault": "hang"}, False),
    ("half a head", {"fault": "halfhead"}, False),
    ("cut", {"fault": "cut"}, True),
    ("cut, reset", {"fault": "cutreset"}, True),
    ("stall", {"fault": "stall", "at": 2}, True),
    ("late heads", {"wait": 0.7}, False),
    ("no connection kept", {"after": "close"}, False),
    ("bytes in pieces", {"split": True}, False),
]
LASTING_KEYS = 6
RELOADED_WITHIN = 20


class Plan:
    """The plan, and what it has done."""

    def __init__(self, proxy_folder, replicas, seed, pace):
        self.dice = random.Random(f"{seed}-plan")
        self.folder = proxy_folder
        self.replicas = replicas
        self.pace = pace
        self.going = True
        self.failures = collections.Counter()
        self.stray = []
        self.wrong = []
        self.reloads = 0
        # Grows with each step of a reload: what began before and ended behind one may see either side.
        self.epoch = 0
        self.keys = [self.new_key(place) for place in range(LASTING_KEYS)]
        self.turning = self.new_key("turning")
        self.retired = []

    def new_key(self, name):
        return f"{specs.CLIENT_KEY}{name}-{self.dice.randrange(1 << 60):x}"

    @property
    def key_file(self):
        return os.path.join(self.folder, "keys")

    def write_keys(self):
        with open(self.key_file, "w") as file:
            file.write("\n".join(["# of the soak test", *self.keys, self.turning, ""]))

    def configuration(self):
        """A configuration file that differs from the last one."""
        self.write_keys()
        order = self.dice.sample(self.replicas, len(self.replicas))
        changed = self.dice.choice(order).name
        settings = {changed: [f"max_parallel = {self.dice.choice((64, 128))}"]}
        strategy = self.dice.choice(("order", "least-busy", "sticky"))
        use = ", ".join(f'"{replica.name}/{specs.MODEL}"' for replica in order)
        turning = [
            "[[model]]",
            'name = "turning"',
            f"use = [{use}]",
            f'strategy = "{strategy}"',
            "",
        ]
        server = [f'proxy-api-keys-file = "{self.key_file}"']
        return configuration(order, server, settings, turning)

    async def fail_in_turn(self):
        """Lets one upstream fail after the other, until `going` ends."""
        while self.going:
            await asyncio.sleep(self.pace * self.dice.uniform(0.5, 2))
            replica = self.dice.choice(self.replicas)
            # Begins with a kill, so that short runs have one, too.
            drawn = self.dice.choice(FAILURES)
            name, members, breaks = drawn if self.failures else FAILURES[0]
            lasts = self.pace * self.dice.uniform(0.3, 2)
            at = self.dice.randrange(1, 3000)
            if not self.going:
                return
            self.failures[name] += 1
            self.stray += await replica.stray()
            replica.begin_failing(breaks)
            if members is None:
                await asyncio.to_thread(replica.kill)
                await asyncio.sleep(lasts)
                await asyncio.to_thread(replica.restart)
            else:
                await replica.set_mode(**{"at": at, **members})
                await asyncio.sleep(lasts)
                await replica.set_mode()
            replica.end_failing()

    async def reload_in_turn(self, proxy, every):
        while self.going:
            await asyncio.sleep(every)
            if self.going:
                await self.reload(proxy)

    async def reload(self, proxy):
        """Another configuration, and SIGHUP; waits until the log says that it is applied."""
        path = os.path.join(proxy.folder, "proxy.toml")
        self.retired.append(self.turning)
        self.turning = self.new_key("turning")
        self.epoch += 1
        with open(path + ".new", "w") as file:
            file.write(self.configuration())
        os.replace(path + ".new", path)
        self.reloads += 1
        os.kill(proxy.pid, signal.SIGHUP)
        for _ in range(RELOADED_WITHIN * 20):
            if proxy.log().count("reloaded: ") >= self.reloads:
                break
            await asyncio.sleep(0.05)
        else:
            self.wrong.append(f"reload {self.reloads} was not applied within {RELOADED_WITHIN} s")
        self.epoch += 1

    async def end(self):
        """What was wrong upstream and with the reloads."""
        for replica in self.replicas:
            self.stray += await replica.stray()
        wanted = ("nonsense", "the key of a client", "an altered upload")
        stray = [what for what in self.stray if what.startswith(wanted)]
        return self.wrong + stray[:3]
