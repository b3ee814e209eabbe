"""Processes (proxy, upstream, witness), and their figures from /proc."""

import contextlib
import ctypes
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PDEATHSIG = 1
NOFILE = resource.RLIMIT_NOFILE
LIBC = ctypes.CDLL(None)


def raise_nofile():
    """All descriptors that this process may have."""
    hard = resource.getrlimit(NOFILE)[1]
    resource.setrlimit(NOFILE, (hard, hard))
    return hard


def tied(extra=None):
    """What a child does before it runs: it ends with its parent, whatever happens to that."""

    def prepare():
        LIBC.prctl(PDEATHSIG, signal.SIGKILL)
        if extra is not None:
            extra()

    return prepare


def quiet():
    """asyncio warns of every connection that breaks, which is what happens here all the time."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def stop(process, seconds=5):
    """Ends a child, by force after a while; gives its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Upstream:
    """The scripted upstream, on a port that stays the same when it is started again.

    A bound socket that does not listen holds the port, so that the kernel gives it to no other
    program and to no outgoing connection while the upstream is down.
    """

    def __init__(self, *options, program="upstream.py"):
        self.options = options
        self.program = program
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = self.reserved.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        command = [sys.executable, os.path.join(HERE, self.program), "--port", str(self.port)]
        command += self.options
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=tied())
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the scripted upstream did not start")
        self.port = int(line)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def addr(self):
        return ("127.0.0.1", self.port)


class Reading:
    """One look at a process: memory in MiB, descriptors, threads."""

    def __init__(self, pid, upstream_ports=()):
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
        # A process that has just ended has no memory, but still a place in the table.
        self.rss = int(status.get("VmRSS", "0").split()[0]) / 1024
        self.threads = int(status["Threads"])
        names = thread_names(pid)
        self.workers = sum(name.startswith("worker-") for name in names)
        # Pools start threads on demand, and keep them.
        self.others = sum(not name.startswith(("worker-", "health-", "probe-", "refusal-")) for name in names)
        links = descriptors(pid)
        # Idle connections kept for the upstream are no leak.
        pooled = set().union(*map(sockets_to, upstream_ports))
        self.pooled = sum(link in pooled for link in links)
        self.fds = len(links) - self.pooled

    def __str__(self):
        return f"{self.rss:.0f} MiB, {self.fds} fds, {self.threads} threads"


def thread_names(pid):
    names = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm") as comm:
                names.append(comm.read().strip())
        except OSError:
            continue
    return names


def wake_ups(pid):
    """How often the threads of a process have slept and woken; those that ended do not count."""
    count = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/status") as status:
            lines = [line for line in status if line.startswith("voluntary_ctxt_switches")]
            count += sum(int(line.split()[1]) for line in lines)
    return count


def system_calls(pid, seconds):
    """The system calls of a process during this time; None where they cannot be traced."""
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile("r") as trace:
        command = ["timeout", "-s", "INT", str(seconds), "strace", "-f", "-qq", "-o", trace.name]
        done = subprocess.run([*command, "-p", str(pid)], capture_output=True, check=False)
        if b"ttach" in done.stderr:
            return None
        # A call that is interrupted by another thread's stands in two lines.
        return sum("resumed>" not in line and ") = " in line or "unfinished" in line for line in trace)


def descriptors(pid):
    links = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue
    return links


def sockets_to(port):
    """The sockets of this machine that are connected to a port."""
    wanted = f":{port:04X}"
    found = set()
    with open("/proc/net/tcp") as table:
        next(table)
        for line in table:
            fields = line.split()
            if fields[2].endswith(wanted):
                found.add(f"socket:[{fields[9]}]")
    return found


class Proxy:
    """The program under test, with its own state file and log. The upstream is that of `base_url`, or
    those of the configuration file with the text `config`."""

    def __init__(
        self, binary, base_url=None, env=None, nofile=None, prepare=None, wrap=(), config=None
    ):
        self.folder = tempfile.mkdtemp(prefix="fault-")
        self.log_path = os.path.join(self.folder, "log")
        self.upstream_ports = ()
        # As an operator would start it: nothing of the caller's own settings.
        keep = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
        if config is None:
            upstream = {"OPENAI_BASE_URL": base_url, "UPSTREAM_PROFILE": "generic"}
        else:
            upstream = {"PROXY_CONFIG": os.path.join(self.folder, "proxy.toml")}
            with open(upstream["PROXY_CONFIG"], "w") as file:
                file.write(config)
        settings = {
            "OLLAMA_HOST": "127.0.0.1:0",
            "PROXY_STATE": os.path.join(self.folder, "state.json"),
            "SHUTDOWN_GRACE": "2",
            **upstream,
            **(env or {}),
        }

        self.most_workers = int(settings.get("PROXY_WORKERS", "256"))

        def before():
            if nofile is not None:
                resource.setrlimit(NOFILE, nofile)
            if prepare is not None:
                prepare()

        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*wrap, binary],
                cwd=self.folder,
                env={**keep, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=tied(before),
            )
        self.addr = ("127.0.0.1", self._port())
        self.pid = self.process.pid

    def _port(self):
        limit = time.monotonic() + 15
        while time.monotonic() < limit and self.process.poll() is None:
            for line in self.log().splitlines():
                if "listening on " in line:
                    return int(line.split("listening on ")[1].split(",")[0].rsplit(":", 1)[1])
            time.sleep(0.02)
        raise RuntimeError(f"the proxy did not start: {self.log()[-500:]}")

    def log(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    @property
    def alive(self):
        return self.process.poll() is None

    def read(self):
        return Reading(self.pid, self.upstream_ports)

    def stop(self):
        status = stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)
        return status


class Witness:
    """A normal client in its own process, which the load of this one does not slow down."""

    def __init__(self, addr, source="127.0.0.2", key="", upstreams=0):
        """`key` is sent if it is not empty; the answer may come from one of `upstreams` replicas."""
        command = [sys.executable, os.path.join(HERE, "witness.py"), str(addr[1]), source]
        command += [key, str(upstreams)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=tied()
        )

    def end(self):
        """What it saw: served, failed, worst and middle seconds, how late the machine woke it."""
        output, _ = self.process.communicate(timeout=30)
        return json.loads(output)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
