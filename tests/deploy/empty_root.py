"""The static binary alone in an empty root, as user nobody, with 32 MiB of memory.

This equals a `FROM scratch` container with `--read-only --memory 32m`, without a container engine.

Usage: empty_root.py STATIC_BINARY (as root; `names` in place of the checks runs inside a network
namespace of its own, where port 53 is free)
"""

import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path

from harness import (
    PATIENCE,
    Programs,
    Stream,
    Upstream,
    free_ports,
    in_background,
    require,
    run,
)

NOBODY = 65534
STREAMS = 64
WORDS = 60
PACE = 0.02  # Seconds between two words of each stream.
MEMORY = 32 << 20
EXPECTED = [f" word{number}" for number in range(WORDS)]


class Memory:
    """A cgroup of version 1 or 2 that limits the memory of the processes in it, without swap.

    `why` tells the reason where no cgroup can be written; then nothing is limited.
    """

    def __init__(self, limit):
        name = f"proxy-deploy-{os.getpid()}"
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        if v1.is_dir():
            self.folder, files = v1 / name, ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        else:
            self.folder, files = v2 / name, ("memory.max", "memory.peak")
        self.peak_file = self.folder / files[1]
        self.why = None
        try:
            self.folder.mkdir()
            (self.folder / files[0]).write_text(str(limit))
            # With swap, pages above the limit would be moved there instead of ending the process.
            for no_swap in ("memory.swappiness", "memory.swap.max"):
                if (self.folder / no_swap).exists():
                    (self.folder / no_swap).write_text("0")
            self.entrance = os.open(self.folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self.why = f"no cgroup can be written ({error}); only resident memory is checked"
            print(self.why, flush=True)

    def enter(self):
        """Moves the calling process in."""
        if not self.why:
            os.write(self.entrance, b"0")

    def holds(self, program):
        """Whether the program is inside; true where nothing is limited."""
        return bool(self.why) or str(program.pid) in self.entrants()

    def entrants(self):
        return (self.folder / "cgroup.procs").read_text().split()

    def peak(self):
        return int(self.peak_file.read_text()) if not self.why else None

    def kills(self):
        """How many processes the kernel has killed here for memory."""
        for name in ("memory.oom_control", "memory.events"):
            if not self.why and (self.folder / name).exists():
                lines = (self.folder / name).read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return 0

    def close(self):
        if not self.why:
            os.close(self.entrance)
            self.folder.rmdir()


class Root:
    """A root folder that holds only the binary and the given files."""

    def __init__(self, programs, binary, name, files=()):
        self.folder = Path(programs.folder) / name
        self.folder.mkdir()
        shutil.copy(binary, self.folder / "proxy")
        (self.folder / "proxy").chmod(0o555)
        for path, text in files:
            path = self.folder / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def enter(self, memory=None):
        """For a child process: change the root, and become nobody without any privilege."""
        os.chroot(self.folder)
        os.chdir("/")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        if memory:
            memory.enter()

    def ask(self, arguments, **environment):
        """Runs the binary to its end: status, standard output, standard error."""
        done = subprocess.run(
            ["/proxy", *arguments],
            env=environment,
            preexec_fn=self.enter,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr


def resident_peak(program):
    status = Path(f"/proc/{program.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if "VmHWM" in line)


def live_streams(binary):
    """All streams at once, each exact and within the memory limit, with a health check."""
    all_there = threading.Barrier(STREAMS)
    pause = threading.Event()

    def script(_):
        for number, word in enumerate(EXPECTED):
            if number == 1:
                all_there.wait(PATIENCE)  # Every stream has its first word: all are live at once.
            pause.wait(PACE)
            yield word

    memory = Memory(MEMORY)
    try:
        with Programs() as programs:
            root = Root(programs, binary, "root")
            upstream = Upstream(script)
            program, port = programs.proxy(
                "/proxy", upstream.base, before=lambda: root.enter(memory)
            )
            streams = [Stream(port, f"stream {number}") for number in range(STREAMS)]
            threads = [in_background(stream.read_all) for stream in streams]
            address = f"127.0.0.1:{port}"
            health = root.ask(
                ["--healthcheck"], OLLAMA_HOST=address, OPENAI_API_BASE_URL=upstream.base
            )
            for thread in threads:
                thread.join(PATIENCE)
            ends = [stream.end for stream in streams]
            require(program.poll() is None, f"the proxy died: {program.poll()}")
            require(memory.holds(program), "the proxy runs outside the memory limit")
            require(ends == ["complete"] * STREAMS, f"{ends}")
            require(all(stream.words == EXPECTED for stream in streams), "words differ")
            require(health == (0, "", ""), f"health check: {health}")
            resident, peak = resident_peak(program), memory.peak()
            require(resident <= MEMORY, f"{resident >> 10} KiB resident")
            require(memory.kills() == 0, "the kernel killed for memory")
            uid = os.stat(f"/proc/{program.pid}").st_uid
            require(uid == NOBODY, f"user {uid}")
            program.send_signal(signal.SIGTERM)
            require(program.wait(PATIENCE) == 0, "it did not end well")
            whole = f"{peak >> 10} KiB with the kernel's part" if peak else "kernel's part unknown"
            return f"{STREAMS} streams, at most {resident >> 10} KiB resident, {whole}"
    finally:
        memory.close()


def health_check_of_nothing(binary):
    """Inside the empty root the health check reports that nothing listens."""
    with Programs() as programs:
        root = Root(programs, binary, "root")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        code, out, err = root.ask(
            ["--healthcheck"], OLLAMA_HOST=address, OPENAI_API_BASE_URL="http://127.0.0.1:9/v1"
        )
        require((code, out) == (1, ""), f"{code} {out}")
        require(err.startswith("Error: not healthy") and err.count("\n") == 1, err)


def fill(size, enter=None):
    """The exit status of a process that enters a cgroup and writes to `size` bytes of memory.

    The bytes are anonymous memory, so that no page of a file that is cached already counts.
    """
    command = [sys.executable, "-S", "-E", "-c", f"block = b'x' * {size}"]
    return subprocess.run(command, preexec_fn=enter, timeout=PATIENCE).returncode


def the_limit_is_enforced(_):
    """The kernel kills what writes to more memory than the limit, and nothing else."""
    memory = Memory(MEMORY)
    try:
        if memory.why:
            return "not checked: " + memory.why
        statuses = [fill(MEMORY // 4, memory.enter), fill(2 * MEMORY)]
        require(statuses == [0, 0], f"within the limit, and outside the cgroup: {statuses}")
        require(memory.kills() == 0, "the kernel killed a process within the limit")
        status = fill(2 * MEMORY, memory.enter)
        require(status == -signal.SIGKILL, f"{2 * MEMORY >> 20} MiB were written: {status}")
        require(memory.kills() == 1, f"{memory.kills()} processes were killed for memory")
    finally:
        memory.close()


class Names:
    """A name server on 127.0.0.1:53 that knows one name."""

    def __init__(self, name, address):
        self.name, self.address = name, address
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        in_background(self.serve)

    def serve(self):
        while True:
            query, sender = self.socket.recvfrom(512)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += query[at] + 1
            (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
            name = ".".join(labels)
            self.asked.append(name)
            known, four = name == self.name, kind == 1
            answers = 1 if known and four else 0
            head = query[:2] + (b"\x81\x80" if known else b"\x81\x83")
            head += struct.pack(">HHHH", 1, answers, 0, 0) + query[12 : at + 5]
            if answers:
                head += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4)
                head += socket.inet_aton(self.address)
            self.socket.sendto(head, sender)


def checked(root, base):
    """Whether --check succeeded, and its line about the upstream."""
    code, out, err = root.ask(["--check"], OPENAI_API_BASE_URL=base)
    line = next((line for line in out.splitlines() if line.startswith("upstream: ")), out + err)
    return code == 0, line


NAME = "upstream.example"
RESOLVER = ("etc/resolv.conf", "nameserver 127.0.0.1\n")


def upstream_by_name(binary):
    """A name from the name server, with and without resolv.conf, and a name from /etc/hosts."""
    names = Names(NAME, "127.0.0.9")
    upstream = Upstream(lambda _: [], host="127.0.0.9")
    with Programs() as programs:
        root = Root(programs, binary, "resolver", [RESOLVER])
        well, line = checked(root, f"http://{NAME}:{upstream.port}/v1")
        require(well and NAME in names.asked, f"{line}, asked {names.asked}")
        well, line = checked(root, f"http://unknown.example:{upstream.port}/v1")
        require(not well and "cannot resolve the host name" in line, line)
        root = Root(programs, binary, "bare")
        well, line = checked(root, f"http://{NAME}:{upstream.port}/v1")
        require(well, f"without resolv.conf: {line}")
        names.asked.clear()
        root = Root(programs, binary, "hosts", [("etc/hosts", "127.0.0.9 nearby\n")])
        well, line = checked(root, f"http://nearby:{upstream.port}/v1")
        require(well and not names.asked, f"{line}, asked {names.asked}")


def certificates_are_checked(binary):
    """TLS works in the empty root: a self-signed certificate is refused."""
    with Programs() as programs:
        path, _ = programs.certificate()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(path)
        upstream = Upstream(lambda _: [], tls=tls)
        root = Root(programs, binary, "root", [("etc/hosts", "127.0.0.1 localhost\n")])
        well, line = checked(root, f"https://localhost:{upstream.port}/v1")
        require(not well and "certificate is self-signed" in line, line)
        return line


def in_a_network_of_its_own(binary):
    """Runs the checks that need port 53."""
    command = ["unshare", "--net", sys.executable, __file__, binary, "names"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE)
    require(done.returncode == 0, (done.stdout + done.stderr).strip())


def main():
    binary = os.path.abspath(sys.argv[1])
    if sys.argv[2:] == ["names"]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        run([("an upstream is found by its name", lambda: upstream_by_name(binary))])

    def as_root(check):
        def checked_as_root():
            require(os.geteuid() == 0, "this needs root, to enter an empty root")
            return check(binary)

        return checked_as_root

    run(
        [
            (f"{STREAMS} live streams in 32 MiB", as_root(live_streams)),
            ("the memory limit is enforced", as_root(the_limit_is_enforced)),
            ("the health check fails when nothing listens", as_root(health_check_of_nothing)),
            ("an upstream is found by its name", as_root(in_a_network_of_its_own)),
            ("certificates are checked", as_root(certificates_are_checked)),
        ]
    )


if __name__ == "__main__":
    main()
