"""What is measured, and how: one target, one row, one round at a time.

Each measurement has nginx or our program started anew, so that the memory is that of this row and
nobody profits from what was measured before.
"""

import contextlib
import dataclasses
import os
import statistics
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import gateway
import machine
import rows
from figures import CEILING, NGINX, OURS, PLAIN

WATCHED = ("/status.json", "/metrics")  # What is asked for where a row is watched,
PAUSE = 1.0  # as often: an open status page asks every two seconds, Prometheus less often.
STARTS = 20  # How often the program is started in a round of the row `start`.
QUIET = 2.0  # Seconds without a request after which the row `idle` reads the memory.
KINDS = {}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def kind(name):
    """Registers how rows of a kind are measured: a function of setting, target and row."""

    def register(function):
        KINDS[name] = function
        return function

    return register


class Setting:
    """What a run is about: the binaries, the upstream, the other proxies, and what went wrong.
    `litellm` is the virtual environment of LiteLLM, if it is to be measured."""

    def __init__(self, programs, binary, static_binary, upstream, against, quick, litellm=None):
        self.upstream_program = os.path.join(programs, "bench-upstream")
        self.load_program = os.path.join(programs, "bench-load")
        self.binary, self.static_binary = binary, static_binary
        self.upstream, self.against, self.quick = upstream, against, quick
        self.litellm = litellm
        self.problems = []

    def targets(self, row=None):
        """Of a row, or of all rows without a variant."""
        if row and row.variant:
            return [PLAIN, OURS]
        found = [CEILING, NGINX, OURS, *self.against]
        if self.litellm and (row is None or row.gateways):
            found.append(gateway.NAME)
        return found

    def api(self, target):
        return "openai" if target in (CEILING, NGINX, gateway.NAME) else "ollama"

    def has_processes(self, target):
        """Whether it is a proxy that is started here, so that its memory can be told."""
        return target != CEILING and target not in self.against

    @contextlib.contextmanager
    def running(self, target, options, variant=None):
        """A fresh program, as its URL and a function that gives its processes."""
        if target == CEILING:
            yield f"http://127.0.0.1:{self.upstream.port}", self.upstream.pids
        elif target in self.against:
            yield self.against[target], list
        else:
            with self.program(target, options, variant) as it:
                yield f"http://127.0.0.1:{it.port}", it.pids

    def program(self, target, options, variant):
        port = self.upstream.port
        if target == NGINX:
            return machine.Nginx(port)
        if target == gateway.NAME:
            return gateway.LiteLlm(self.litellm, rows.models(), port)
        if target == OURS and variant:
            return machine.Ours(self.binary, port, {**options, **variant.options}, variant.files)
        return machine.Ours(self.binary, port, options)

    @contextlib.contextmanager
    def watching(self, target, row, url):
        """Meanwhile somebody looks at status and metrics, as the variant says."""
        if target != OURS or not row.variant or not row.variant.watched:
            yield
            return
        done, wrong = threading.Event(), []
        watcher = threading.Thread(target=watch, args=(url, row.load.key, done, wrong))
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        if wrong:
            self.problems.append((target, f"{row.name}, {target}: {wrong[0]}"))

    def send(self, target, row, load, url):
        """The load; what was wrong or lost is noted."""
        if target == gateway.NAME:
            load = dataclasses.replace(load, key=gateway.KEY)
        found = machine.load(self.load_program, url, self.api(target), load)
        wrong = [f"{count} x {error}" for error, count in found["errors"].items() if count]
        if found["lost"]:
            wrong.append(f"{found['lost']} tokens lost")
        if not found["requests"]:
            wrong.append("no whole answer")
        if wrong:
            self.problems.append((target, f"{row.name}, {target}: {', '.join(wrong)}"))
        return found


def watch(url, key, done, wrong):
    """Asks for all that is watched until it is done; what failed is noted."""
    while True:
        for path in WATCHED:
            headers = {"Authorization": f"Bearer {key}"}
            request = urllib.request.Request(url + path, headers=headers)
            try:
                with OPENER.open(request, timeout=machine.PATIENCE) as answer:
                    answer.read()
            except (OSError, urllib.error.URLError) as error:
                wrong.append(f"{path}: {error}")
        if done.wait(PAUSE):
            return


def measure(setting, target, row):
    """None where the row does not name the target."""
    return KINDS[row.kind](setting, target, row)


@kind("load")
def measure_load(setting, target, row):
    with setting.running(target, row.load.options(), row.variant) as (url, pids):
        if row.warm_up:
            setting.send(target, row, row.warm_up, url)
        before = machine.cpu_us(pids())
        with setting.watching(target, row, url):
            found = {"load": setting.send(target, row, row.load, url)}
        if pids():
            spent = machine.cpu_us(pids()) - before
            found["cpu_us_per_request"] = spent / max(1, found["load"]["requests"])
        if setting.has_processes(target):
            found["cpu_us_per_token"] = spent / max(1, found["load"]["tokens"])
            found["peak_mib"] = machine.memory(pids(), "VmHWM")
        return found


@kind("idle")
def measure_idle(setting, target, row):
    """After a while in which nothing was asked, and then after one request."""
    if not setting.has_processes(target):
        return None
    with setting.running(target, {}) as (url, pids):
        time.sleep(QUIET)
        unasked = machine.memory(pids(), "VmHWM")
        setting.send(target, row, row.load, url)
        return {"unasked_mib": unasked, "peak_mib": machine.memory(pids(), "VmHWM")}


@kind("image")
def measure_image(setting, target, row):
    if target not in (NGINX, OURS):
        return None
    with setting.running(target, {}) as (url, pids):
        setting.send(target, row, row.warm_up, url)
        before = machine.memory(pids(), "VmRSS")
        found = {"load": setting.send(target, row, row.load, url)}
        extra = machine.memory(pids(), "VmHWM") - before
        body = (row.load.image_bytes + 2) // 3 * 4 / 1024 / 1024
        return {**found, "extra_mib": extra, "body_mib": body, "extra_bodies": extra / body}


@kind("start")
def measure_start(setting, target, row):
    if target != OURS:
        return None
    count = STARTS // 4 if setting.quick else STARTS
    port = setting.upstream.port
    samples = [machine.first_answer_ms(setting.binary, port) for _ in range(count)]
    return {"start_ms": statistics.median(samples), "samples_ms": samples}


@kind("size")
def measure_size(setting, target, row):
    """The static binary's own memory, too: it is what most people run."""
    if target != OURS or not setting.static_binary:
        return None
    mib = os.path.getsize(setting.static_binary) / 1024 / 1024
    with machine.Ours(setting.static_binary, setting.upstream.port, {}) as it:
        time.sleep(QUIET)
        setting.send(target, row, row.load, f"http://127.0.0.1:{it.port}")
        return {"mib": mib, "peak_mib": machine.memory(it.pids(), "VmHWM")}


def others(arguments):
    """`URL[,NAME]` of each other proxy, as names with URLs; `litellm` is started here."""
    found = {}
    for argument in arguments:
        if argument == gateway.NAME:
            continue
        url, _, name = argument.partition(",")
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise machine.Failure(f"--against needs http://HOST:PORT, not {url}")
        if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise machine.Failure(f"--against: {url} is not on this machine")
        found[name or parts.netloc] = f"http://{parts.netloc}"
    return found
