"""Two replicas behind HAProxy with the shipped configuration: one is stopped, one is killed.

Each replica has an upstream of its own, whose first word names it, so that every stream tells who
serves it. Usage: replicas.py BINARY
"""

import os
import signal
import socket
import sys
import threading
from collections import Counter

import shipped
from harness import (
    PATIENCE,
    Programs,
    Stream,
    Upstream,
    answers,
    free_ports,
    in_background,
    require,
    run,
    until,
)

HELD = 16  # Streams that are live together.
LOAD = 8  # Clients that ask again and again.
WORDS = [f" w{number}" for number in range(20)]
NAMES = ("one", "two")


class House:
    """The upstreams, the replicas and HAProxy in front of them."""

    def __init__(self, programs, binary):
        self.programs, self.binary = programs, binary
        self.go_on = threading.Event()
        self.pause = threading.Event()
        self.upstreams = {name: Upstream(self.script_of(name)) for name in NAMES}
        self.ports = dict(zip(NAMES, free_ports(2)))
        self.replicas = {}
        for name in NAMES:
            self.start(name)
        self.front = shipped.haproxy(programs, *self.ports.values())
        _, self.tls = programs.certificate()
        for name in NAMES:
            self.until_state(name, "UP")

    def script_of(self, name):
        """`held` waits for `go_on` after its first word; other streams send at a steady pace."""

        def script(text):
            yield name
            if text == "held":
                self.go_on.wait(PATIENCE)
            for word in WORDS:
                self.pause.wait(0.005)
                yield word

        return script

    def start(self, name):
        address = f"127.0.0.1:{self.ports[name]}"
        program, _ = self.programs.proxy(self.binary, self.upstreams[name].base, address)
        self.replicas[name] = program

    def order(self, line):
        """What HAProxy's socket answers to a line."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(PATIENCE)
            admin.connect(f"{self.programs.folder}/admin.sock")
            admin.sendall(f"{line}\n".encode())
            with admin.makefile() as answer:
                return answer.read()

    def column(self, name, column):
        """What HAProxy counts of a replica."""
        rows = [row.split(",") for row in self.order("show stat").splitlines() if row]
        place = rows[0].index(column)
        return next(row[place] for row in rows[1:] if row[1] == name)

    def until_state(self, name, state):
        until(lambda: self.column(name, "status").startswith(state), f"{name} is {state}")

    def sessions(self, name):
        return int(self.column(name, "scur"))

    def held(self, count=HELD):
        """Open streams that have their first word and wait for `go_on`."""
        streams = [Stream(self.front, "held", self.tls) for _ in range(count)]
        for stream in streams:
            require(stream.head() == 200, f"status {stream.status}")
            while not stream.words:
                stream.take(stream.frame())
        return streams

    def finish(self, streams):
        """Lets them go on; how they ended, by replica."""
        self.go_on.set()
        for stream in streams:
            stream.read_all()
        self.go_on.clear()
        for stream in streams:
            if stream.end == "complete":
                require(stream.words[1:] == WORDS, f"words differ: {stream.words}")
        return Counter((stream.words[0], stream.end) for stream in streams)


def served(streams):
    return Counter(stream.words[0] for stream in streams)


def both(streams):
    by = served(streams)
    require(set(by) == set(NAMES), f"all on one replica: {by}")
    return by


def stopped(house):
    """SIGTERM: open streams complete, new ones go to the other replica, and it restarts."""
    streams = house.held()
    by = both(streams)
    house.replicas["one"].send_signal(signal.SIGTERM)
    until(lambda: not answers(house.ports["one"]), "a closed port")
    later = house.held()
    require(served(later) == {"two": HELD}, f"new ones: {served(later)}")
    ends = house.finish(streams + later)
    expected = {("one", "complete"): by["one"], ("two", "complete"): by["two"] + HELD}
    require(ends == expected, f"{ends}, expected {expected}")
    require(house.replicas["one"].wait(PATIENCE) == 0, "it did not end well")
    house.until_state("one", "DOWN")
    house.start("one")
    house.until_state("one", "UP")
    again = house.held()
    by = both(again)
    house.finish(again)
    return f"{sum(expected.values())} of {sum(expected.values())} complete; then again {dict(by)}"


def killed(house):
    """SIGKILL: only the streams of the killed replica break."""
    streams = house.held()
    by = both(streams)
    house.replicas["two"].kill()
    house.replicas["two"].wait()
    later = house.held()
    require(served(later) == {"one": HELD}, f"new ones: {served(later)}")
    ends = house.finish(streams + later)
    lost = {end: count for (name, end), count in ends.items() if name == "two"}
    require(set(lost) <= {"broken", "told"}, f"of the killed: {lost}")
    require(sum(lost.values()) == by["two"], f"of the killed: {lost}, expected {by['two']}")
    kept = {end: count for (name, end), count in ends.items() if name == "one"}
    require(kept == {"complete": by["one"] + HELD}, f"of the other: {kept}")
    house.start("two")
    house.until_state("two", "UP")
    return f"{by['two']} of {len(streams + later)} failed, each with an error: {lost}"


def hung(house):
    """A replica that accepts connections but does not respond fails its health checks."""
    house.replicas["one"].send_signal(signal.SIGSTOP)
    house.until_state("one", "DOWN")
    streams = house.held()
    require(served(streams) == {"two": HELD}, f"{served(streams)}")
    house.finish(streams)
    house.replicas["one"].send_signal(signal.SIGCONT)
    house.until_state("one", "UP")


def drained_by_hand(house):
    """`set server ... state drain` takes a replica out without breaking its streams."""
    streams = house.held()
    both(streams)
    house.order("set server proxies/one state drain")
    later = house.held()
    require(served(later) == {"two": HELD}, f"new ones: {served(later)}")
    ends = house.finish(streams + later)
    require({end for _, end in ends} == {"complete"}, f"{ends}")
    house.order("set server proxies/one state ready")
    house.until_state("one", "UP")


class Load:
    """Clients that stream one answer after another."""

    def __init__(self, house):
        self.house = house
        self.streams = []
        self.enough = threading.Event()
        self.threads = [in_background(self.client) for _ in range(LOAD)]

    def client(self):
        while not self.enough.is_set():
            stream = Stream(self.house.front, "load", self.house.tls)
            self.streams.append(stream)
            stream.read_all()

    def until_more(self, count=4 * LOAD):
        """Waits until so many more have ended."""
        goal = self.ended() + count
        until(lambda: self.ended() >= goal, "more streams")

    def ended(self):
        return sum(stream.end is not None for stream in self.streams)

    def stop(self):
        """The streams that did not complete."""
        self.enough.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        require(all(stream.end for stream in self.streams), "a stream never ended")
        for stream in self.streams:
            right = stream.words[1:] == WORDS[: max(0, len(stream.words) - 1)]
            whole = len(stream.words) == 1 + len(WORDS) or stream.end != "complete"
            require(right and whole, f"words differ: {stream.words}")
        return [stream for stream in self.streams if stream.end != "complete"]


def told_of(streams):
    return [(stream.end, stream.status, stream.words[:1], stream.error) for stream in streams]


def restarts(house, before):
    """Each replica in turn is restarted under load; what failed, and how many ran."""
    load = Load(house)
    for name in NAMES:
        load.until_more()
        before(name)
        house.replicas[name].send_signal(signal.SIGTERM)
        require(house.replicas[name].wait(PATIENCE) == 0, "it did not end well")
        load.until_more()
        house.start(name)
        house.order(f"set server proxies/{name} state ready")
        house.until_state(name, "UP")
    load.until_more()
    return load.stop(), len(load.streams)


def stopped_under_load(house):
    """No request fails: open connections are served, and refused ones go to the other replica."""
    failed, count = restarts(house, lambda _: None)
    require(not failed, f"{len(failed)} of {count} failed: {told_of(failed)}")
    return f"{count} of {count} complete"


def drained_under_load(house):
    """After `set server ... state drain` a restart fails no request."""

    def drain(name):
        house.order(f"set server proxies/{name} state drain")
        until(lambda: house.sessions(name) == 0, f"no session on {name}")

    failed, count = restarts(house, drain)
    require(not failed, f"{len(failed)} of {count} failed: {told_of(failed)}")
    return f"{count} of {count} complete"


def killed_under_load(house):
    """Only the streams of the killed replica fail."""
    load = Load(house)
    load.until_more()
    house.replicas["one"].kill()
    house.replicas["one"].wait()
    load.until_more()
    house.start("one")
    house.until_state("one", "UP")
    load.until_more()
    failed = load.stop()
    require(1 <= len(failed) <= LOAD, f"{len(failed)} failed: {told_of(failed)}")
    odd = [one for one in failed if one.end == "truncated" or one.words[:1] == ["two"]]
    require(not odd, f"{told_of(odd)}")
    return f"{len(failed)} of {len(load.streams)} failed, each with an error"


def main():
    binary = os.path.abspath(sys.argv[1])
    parts = {
        "a stopped replica finishes its answers": stopped,
        "a killed replica breaks its own answers only": killed,
        "a replica that hangs is found out": hung,
        "a replica is drained by hand": drained_by_hand,
        "restarts under load lose nothing": stopped_under_load,
        "restarts after an order to drain go unnoticed": drained_under_load,
        "a kill under load breaks what was in flight": killed_under_load,
    }

    def check(part):
        def checked():
            with Programs() as programs:
                return part(House(programs, binary))

        return checked

    run([(name, check(part)) for name, part in parts.items()])


if __name__ == "__main__":
    main()
