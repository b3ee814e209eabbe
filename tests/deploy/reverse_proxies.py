"""nginx, HAProxy and Caddy with the shipped configurations pass a streamed chat line by line.

Usage: reverse_proxies.py BINARY
"""

import os
import sys
import threading

import shipped
from harness import PATIENCE, Programs, Stream, Upstream, get, require, run, until

LARGE = 3 << 20


def line_by_line(binary, front):
    """The first line arrives before the upstream sends the second; a large request passes."""
    go_on = threading.Event()

    def script(text):
        if text.startswith("large"):
            yield str(len(text))
            return
        yield "first"
        if not go_on.wait(PATIENCE):
            return
        yield " second"

    with Programs() as programs:
        upstream = Upstream(script)
        _, replica = programs.proxy(binary, upstream.base)
        port = front(programs, replica)
        _, tls = programs.certificate()
        until(lambda: get(port, "/health", tls)[0] == 200, "a healthy answer through it")
        stream = Stream(port, "Hi", tls)
        require(stream.head() == 200, f"status {stream.status}")
        while not stream.words:
            stream.take(stream.frame())
        require(stream.words == ["first"] and not go_on.is_set(), f"{stream.words}")
        go_on.set()
        require(stream.read_all() == "complete", f"{stream.end}: {stream.error}")
        require(stream.words == ["first", " second"], f"{stream.words}")
        large = Stream(port, "large".ljust(LARGE, "."), tls)
        require(large.read_all() == "complete", f"large: {large.status} {large.error}")
        require(large.words == [str(LARGE)], f"{large.words}")


def main():
    binary = os.path.abspath(sys.argv[1])
    fronts = {"nginx": shipped.nginx, "HAProxy": shipped.haproxy, "Caddy": shipped.caddy}

    def check(front):
        return lambda: line_by_line(binary, front)

    run([(f"{name} passes lines as they come", check(front)) for name, front in fronts.items()])


if __name__ == "__main__":
    main()
