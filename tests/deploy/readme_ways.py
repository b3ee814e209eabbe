"""The ways to install of the README, each followed as it stands there, on a bare Debian root that runs systemd.

The commands are those of the README. Two things differ from a user's machine: an upstream of this test is named
beside the key, and the network is a namespace that holds the loopback interface only.

Usage: readme_ways.py ROOT DIST [--transcript FILE] (as root, in a network namespace of its own)

ROOT is a folder with Debian that has systemd, curl and podman; DIST holds the packages. --transcript writes what was
typed and printed.
"""

import argparse
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path

from harness import PATIENCE, Programs, Upstream, answers, in_background, require, run, until

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "ollama-openai-proxy"
PORT = 11434
LONG = 300
WAYS = ("Debian", "Any Linux", "Container")
GATEWAY = "10.88.0.1"  # What podman's network calls this machine.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb", "USER": "root"}
# As few rights as the machine of a test may have; podman's own limits are above them.
CONTAINERS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
events_logger = "none"
cgroup_manager = "cgroupfs"
runtime = "runc"
"""
# Mounts what a machine has, then becomes its first process. In their own space, control groups begin at the groups
# that this process has entered.
BOOT = """
mount --bind "$1" "$1" && mount --make-rprivate / && cd "$1"
mount -t proc proc proc && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp
mount -t sysfs -o ro sysfs sys && mount --rbind /dev dev
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    for group in $2; do
        mkdir "sys/fs/cgroup/$group"
        case $group in
        unified) mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
        systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
        *) mount -t cgroup -o "$group" cgroup "sys/fs/cgroup/$group" ;;
        esac
    done
fi
mount --move . /
exec chroot . env -i container=podman PATH="$PATH" /lib/systemd/systemd --log-target=null --show-status=0
"""
GROUPS = Path("/sys/fs/cgroup")
HEAD = "Typed (#) and printed on a bare Debian. Not shown: OPENAI_API_BASE_URL names a scripted upstream.\n\n"


class Steps:
    """The commands of the README's section on installation."""

    def __init__(self, readme):
        section = readme.split("## Install and start\n", 1)[1].split("\n## ", 1)[0]
        blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        require(len(blocks) == 2, f"{len(blocks)} blocks of commands")
        self.first, self.ways, way = [], {}, None
        for line in filter(None, blocks[0].splitlines()):
            if line.startswith("# "):
                way = self.ways[line[2:]] = []
            else:
                (self.first if way is None else way).append(line)
        self.chat = blocks[1].splitlines()
        self.says = section

    def way(self, beginning):
        (found,) = (lines for title, lines in self.ways.items() if title.startswith(beginning))
        return found

    def check(self):
        """The README says the number of ways and of lines, and that is what there is."""
        require(re.search(r"in one of three ways, in\s+two lines each", self.says), "the numbers are not said")
        titles = [title.split(",")[0].split(":")[0] for title in self.ways]
        require(titles == list(WAYS), f"{titles}")
        require([len(lines) for lines in self.ways.values()] == [2, 2, 2], f"{self.ways}")
        require(len(self.first) == 1 and self.first[0].startswith("export OPENAI_API_KEY="), f"{self.first}")
        require(len(self.chat) == 1 and self.chat[0].startswith("curl "), f"{self.chat}")
        return "one line to say the key, two for each way, one to chat"


class Terminal:
    """What a program prints on a terminal, as a person sees it in the end."""

    def __init__(self):
        self.ours, self.theirs = pty.openpty()
        self.bytes = b""

    def run(self, programs, command):
        program = programs.start(command, stdout=self.theirs, stderr=self.theirs)
        os.close(self.theirs)
        self.reader = in_background(self.read)
        return program

    def read(self):
        try:
            while piece := os.read(self.ours, 65536):
                self.bytes += piece
        except OSError:
            """Nobody has the other end open any more."""

    def end(self):
        self.reader.join(PATIENCE)

    def text(self):
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.bytes.decode(errors="replace"))
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
        # What the machine of a test lacks, not the user's.
        return "\n".join(line for line in lines if not re.search(r"\bconmon\b|^debconf: |^…$", line))


class Machine:
    """A Debian root with systemd as its first process; commands are run as root's shell does."""

    def __init__(self, programs, root, dist, transcript):
        self.programs, self.root, self.transcript = programs, Path(root), transcript
        target = self.root / "root" / "target" / "dist"
        shutil.copytree(dist, target, dirs_exist_ok=True)
        (self.root / "etc/containers").mkdir(exist_ok=True)
        (self.root / "etc/containers/containers.conf").write_text(CONTAINERS)
        # Version 2 has one tree; version 1 has one for each controller, some of them under two names.
        trees = [GROUPS, *(path for path in GROUPS.iterdir() if not path.is_symlink())]
        self.trees = [path for path in trees if (path / "cgroup.procs").exists()]
        self.trees = self.trees[:1] if self.trees[:1] == [GROUPS] else self.trees
        self.groups = [path / f"proxy-deploy-{os.getpid()}" for path in self.trees]
        self.init = None

    def enter_group(self):
        """systemd keeps its groups below the one that it starts in."""
        for group in self.groups:
            group.mkdir()
            if group.parent.name == "cpuset":  # Empty lists take no process.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (group / name).write_text((group.parent / name).read_text())
            (group / "cgroup.procs").write_text("0")

    def boot(self):
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]
        command = ["unshare", *spaces, "sh", "-euc", BOOT, "sh", str(self.root)]
        command.append(" ".join(tree.name for tree in self.trees))
        log = open(Path(self.programs.folder) / "boot.log", "w")
        environment = {"PATH": os.environ["PATH"]}
        self.unshare = self.programs.start(command, self.enter_group, env=environment, stderr=log)
        children = Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        until(lambda: children.read_text().split(), "the first process")
        self.init = children.read_text().split()[0]
        until(self.is_up, "systemd is up")

    def is_up(self):
        done = subprocess.run(self.inside("systemctl is-system-running"), capture_output=True, text=True)
        return done.stdout.strip() in ("running", "degraded")

    def inside(self, script):
        """The command that runs a shell's line in root's home folder."""
        shell = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root"]
        return ["nsenter", "--target", self.init, *spaces, "env", "-i", *shell, "bash", "-c", f"cd\n{script}"]

    def write(self, text):
        if self.transcript:
            with open(self.transcript, "a") as file:
                file.write(text)

    def typed(self, before, line):
        """Runs a line behind others that are not shown, on a terminal; what it prints."""
        self.write(f"# {line}\n")
        told = Terminal()
        done = told.run(self.programs, self.inside(f"{before}\n{line}"))
        require(done.wait(LONG) == 0, f"{line}: {told.text()[-400:]}")
        told.end()
        self.write(told.text())
        return told.text()

    def begun(self, before, line):
        """Starts a line that goes on, on a terminal of its own."""
        self.write(f"# {line}\n")
        told = Terminal()
        program = told.run(self.programs, self.inside(f"{before}\n{line}"))
        until(lambda: answers(PORT) or program.poll() is not None, line)
        require(program.poll() is None, f"{line}: {told.text()[-400:]}")
        until(lambda: "listening on" in told.text(), "the first lines of the program")
        return program, told

    def quietly(self, line):
        """What is no part of the README."""
        done = subprocess.run(self.inside(line), capture_output=True, text=True, timeout=LONG)
        require(done.returncode == 0, f"{line}: {(done.stdout + done.stderr).strip()[-400:]}")

    def close(self):
        if self.init:
            os.kill(int(self.init), signal.SIGKILL)
            self.unshare.wait(PATIENCE)
        until(self.has_no_groups, "the control groups are empty")

    def has_no_groups(self):
        """Removes them, the inner ones first; those of a process that is ending stay for a moment."""
        try:
            for group in filter(Path.is_dir, self.groups):
                inner = (path for path in group.rglob("*") if path.is_dir())
                for folder in [*sorted(inner, reverse=True), group]:
                    folder.rmdir()
        except OSError:
            return False
        return True


class Tour:
    """What a new user does, and what must come of it."""

    def __init__(self, machine, steps, port):
        self.machine, self.steps, self.port = machine, steps, port

    def before(self, host="127.0.0.1"):
        """The first line of the README, and the upstream of this test."""
        return f"{self.steps.first[0]}\nexport OPENAI_API_BASE_URL=http://{host}:{self.port}/v1"

    def chat(self):
        told = self.machine.typed("", self.steps.chat[0])
        self.machine.write("\n")
        lines = [json.loads(line) for line in told.splitlines()]
        require(lines and lines[-1].get("done") is True, f"{told[-400:]}")
        text = "".join(line["message"]["content"] for line in lines)
        require(text == "Hello there", f"the answer is {text!r}")

    def title(self, name):
        (title,) = (title for title in self.steps.ways if title.startswith(name))
        self.machine.write(f"== {title}\n\n# {self.steps.first[0].split('  ')[0]}\n")

    def service(self):
        """Installed, skipped until there is a key, then started by systemd."""
        self.title("Debian")
        install, start = self.steps.way("Debian")
        self.machine.typed(self.before(), install)
        require(not answers(PORT), "it runs without an upstream")
        self.machine.typed(self.before(), start)
        until(lambda: answers(PORT), "the service listens")
        self.chat()
        self.machine.quietly(f"systemctl is-enabled {NAME} && DEBIAN_FRONTEND=noninteractive apt-get purge -y {NAME}")
        until(lambda: not answers(PORT), "the service has ended")

    def two_lines(self, name, host, end):
        self.title(name)
        unpack, start = self.steps.way(name)
        self.machine.typed("", unpack)
        program, told = self.machine.begun(self.before(host), start)
        self.machine.write(told.text())
        self.chat()
        self.machine.quietly(end)
        program.wait(LONG)

    def file(self):
        self.two_lines("Any Linux", "127.0.0.1", f"kill $(pidof {NAME})")

    def container(self):
        self.two_lines("Container", GATEWAY, "podman stop --latest")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("dist")
    parser.add_argument("--transcript", metavar="FILE")
    given = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    require(not answers(PORT), "this needs a network namespace of its own")
    steps = Steps((ROOT / "README.md").read_text())
    with Programs() as programs:
        machine = Machine(programs, given.root, given.dist, given.transcript)
        # The container reaches it through its gateway.
        machine.write(HEAD)
        tour = Tour(machine, steps, Upstream(lambda text: [text, " there"], host="0.0.0.0").port)
        try:
            run(
                [
                    ("the README says how many lines", steps.check),
                    ("Debian with systemd is up", machine.boot),
                    ("as a service", tour.service),
                    ("as a static file", tour.file),
                    ("as a container", tour.container),
                ]
            )
        finally:
            machine.close()


if __name__ == "__main__":
    main()
