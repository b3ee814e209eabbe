"""Processes (nginx, the proxy, the two programs of this folder), and their figures from /proc."""

import ctypes
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PDEATHSIG = 1  # From <sys/prctl.h>.
LIBC = ctypes.CDLL(None)
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PATIENCE = 20  # Seconds until something that starts must be there.


class Failure(Exception):
    """A program could not be run; the text is the reason."""


def raise_nofile():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tied():
    """For a child before it runs: end when its parent ends."""
    LIBC.prctl(PDEATHSIG, signal.SIGTERM)


def tool(name):
    """The program's path; /usr/sbin is not on everybody's path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Failure(f"{name} is missing (on Debian: apt-get install {name})")
    return found


def free_port():
    """A port that nothing listens on, below the kernel's range for outgoing connections, so that
    none of the many here takes it first."""
    for port in range(20000 + os.getpid() % 8000, 32000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue
    raise Failure("no free port")


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def children(pid):
    try:
        return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def memory(pids, field):
    """The sum of a field of /proc/PID/status in MiB, such as VmHWM, the peak of VmRSS."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1])
    return total / 1024


def cpu_us(pids):
    """User and system time of all of them, those threads that have ended included."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_US


class Program:
    """A child with its own folder; leaving the block removes both."""

    def __init__(self):
        self.process = None
        self.folder = None
        self.helpers = []

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="bench-")
        os.chmod(self.folder, 0o755)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None:
            stop(self.process, self.helpers)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command, env=None, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        self.process = subprocess.Popen(command, cwd=self.folder, env=env, preexec_fn=tied, **more)

    def pids(self):
        return [self.process.pid, *self.helpers]

    def wait_for(self, condition, what, seconds=PATIENCE):
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                break
            if found := condition():
                return found
            time.sleep(0.01)
        raise Failure(f"{what} did not start: {self.log()[-500:]}")

    def log(self):
        try:
            return Path(self.folder, "log").read_text(errors="replace")
        except OSError:
            return ""


def stop(process, helpers=(), seconds=10):
    """Ends a child and its children, with SIGKILL after a while."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            for pid in helpers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    process.wait()


class Upstream(Program):
    """Our scripted upstream."""

    def __init__(self, program, port=0):
        super().__init__()
        self.program, self.port = program, port

    def start(self):
        # It also ends when its standard input does.
        self.run(
            [self.program, "--listen", f"127.0.0.1:{self.port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        line = self.process.stdout.readline().decode()
        if not line.startswith("listening "):
            raise Failure("bench-upstream did not start")
        self.port = int(line.rsplit(":", 1)[1])

    def __exit__(self, *_):
        super().__exit__()
        self.process.stdin.close()
        self.process.stdout.close()


NGINX = """
daemon off;
worker_processes {cores};
error_log {folder}/log error;
pid {folder}/nginx.pid;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    upstream bench {{
        server 127.0.0.1:{upstream};
        keepalive 2048;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


class Nginx(Program):
    """nginx that passes all bytes on as they are, with a worker for each core."""

    def __init__(self, upstream_port):
        super().__init__()
        self.upstream_port = upstream_port

    def start(self):
        self.port = free_port()
        cores = len(os.sched_getaffinity(0))
        config = Path(self.folder, "nginx.conf")
        config.write_text(
            NGINX.format(
                folder=self.folder, cores=cores, upstream=self.upstream_port, port=self.port
            )
        )
        self.run([tool("nginx"), "-p", self.folder, "-e", "stderr", "-c", str(config)])
        pid = self.process.pid
        self.wait_for(lambda: answers(self.port) and len(children(pid)) == cores, "nginx")
        self.helpers = children(pid)


def settings(upstream_port, folder, listen="127.0.0.1:0"):
    """The environment of our program, as an operator would set it: nothing of the caller's own."""
    return {
        "OPENAI_API_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
        "OLLAMA_HOST": listen,
        "PROXY_STATE": os.path.join(folder, "state.json"),
        "SHUTDOWN_GRACE": "1",
    }


class Ours(Program):
    """The program under test, with its defaults unless `options` and `files` say otherwise: see
    Variant in rows.py."""

    def __init__(self, binary, upstream_port, options, files=None):
        super().__init__()
        self.binary, self.upstream_port = binary, upstream_port
        self.options, self.files = options, files or {}

    def start(self):
        places = {"folder": self.folder, "upstream": self.upstream_port}
        for name, text in self.files.items():
            Path(self.folder, name).write_text(text.format(**places))
        env = settings(self.upstream_port, self.folder)
        env |= {name: value.format(**places) for name, value in self.options.items()}
        if "PROXY_CONFIG" in env:
            del env["OPENAI_API_BASE_URL"]  # The file names the upstreams.
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.run([self.binary], env, stdout=log, stderr=log)
        self.port = self.wait_for(self.listening, os.path.basename(self.binary))

    def listening(self):
        for line in self.log().splitlines():
            if "listening on " in line:
                return int(line.split("listening on ")[1].split(",")[0].rsplit(":", 1)[1])
        return None


def first_answer_ms(binary, upstream_port):
    """From the start of the program to its first 200 for `GET /`, asked for without a pause."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        addr = ("127.0.0.1", free_port())
        env = settings(upstream_port, folder, f"127.0.0.1:{addr[1]}")
        ask = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        null = subprocess.DEVNULL
        began = time.monotonic()
        # Without anything to be done in the child before it runs, Python starts it much faster.
        process = subprocess.Popen(
            [binary], env=env, cwd=folder, stdin=null, stdout=null, stderr=null, close_fds=False
        )
        try:
            while time.monotonic() - began < PATIENCE:
                with socket.socket() as client:
                    client.settimeout(PATIENCE)
                    if client.connect_ex(addr) != 0:
                        continue
                    client.sendall(ask)
                    if client.recv(64).startswith(b"HTTP/1.1 200 "):
                        return (time.monotonic() - began) * 1000
        finally:
            stop(process)
    raise Failure("the program gave no answer after its start")


def load(program, url, api, load, seconds=150):
    """Runs bench-load and gives what it printed; bounded in time, if bench-load is not itself."""
    command = [program, "--url", url, "--api", api, *load.arguments()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=tied,
    )
    try:
        output, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"bench-load was not done within {seconds} s: {load}") from None
    finally:
        stop(process)
    if process.returncode != 0:
        raise Failure(f"bench-load ended with {process.returncode}: {told.strip()[-300:]}")
    return json.loads(output)


def version(command):
    """The version that a program prints, on either stream; None where it is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.returncode == 0 else None


def commit(root):
    """Of the sources here, which a binary that was given need not come from."""
    command = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return version(["git", "-C", root, *command]) or "unknown"


def describe(root, binary, kind):
    """A description of the machine, for the text below the table."""
    cpu = memory_kib = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory_kib = int(line.split()[1])
    nginx = version([tool("nginx"), "-v"]) or "nginx"
    return {
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "kernel": platform.release(),
        "nginx": nginx.rsplit("/", 1)[-1],
        "rustc": (version(["rustc", "--version"]) or "").split(" (")[0],
        "commit": commit(root),
        "binary": kind,
        "binary_bytes": os.path.getsize(binary),
        "load_average": round(os.getloadavg()[0], 2),
    }
