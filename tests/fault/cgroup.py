"""Control groups of one scenario, below the root of a controller; removed afterwards. Those of memory are of
version 2 where it has the controller, all others of version 1."""

import contextlib
import glob
import os
import time

ROOT = "/sys/fs/cgroup"


def missing(controller):
    """Why a group of this controller cannot be made here; None if it can."""
    try:
        with group(controller):
            return None
    except OSError as error:
        return f"no control group for {controller} ({error.strerror})"


class Group:
    def __init__(self, controller):
        self.path = f"{ROOT}/{controller}/fault-{os.getpid()}-{time.monotonic_ns()}"
        if not os.path.isdir(f"{ROOT}/{controller}"):
            raise FileNotFoundError(2, "no such controller", controller)
        os.mkdir(self.path)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.path}/{name}") as file:
            return file.read().strip()

    def join(self):
        """For a child before it runs."""
        self.write("cgroup.procs", "0")

    def remove(self):
        for _ in range(50):
            try:
                os.rmdir(self.path)
                return
            except OSError:
                # The last process may still be going.
                time.sleep(0.1)


class MemoryGroup(Group):
    """A group with this limit of memory in bytes."""

    def __init__(self, limit):
        root = unified_root("memory")
        self.is_unified = root is not None
        if root is None:
            super().__init__("memory")
        else:
            self.path = f"{root}/fault-{os.getpid()}-{time.monotonic_ns()}"
            os.mkdir(self.path)
        if self.is_unified and os.path.exists(f"{self.path}/memory.swap.max"):
            self.write("memory.swap.max", 0)
        self.write("memory.max" if self.is_unified else "memory.limit_in_bytes", limit)

    @property
    def version(self):
        return 2 if self.is_unified else 1

    def kills(self):
        """How many processes the kernel has killed for memory."""
        text = self.read("memory.events" if self.is_unified else "memory.oom_control")
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))

    def used(self):
        """Bytes in use without the page cache."""
        used = int(self.read("memory.current" if self.is_unified else "memory.usage_in_bytes"))
        stat = dict(line.split() for line in self.read("memory.stat").splitlines())
        prefix = "" if self.is_unified else "total_"
        return used - sum(int(stat[f"{prefix}{name}"]) for name in ("inactive_file", "active_file"))


def unified_root(controller):
    """The root of the groups of version 2, if they have this controller."""
    try:
        with open(f"{ROOT}/cgroup.controllers") as file:
            if controller not in file.read().split():
                return None
        with open(f"{ROOT}/cgroup.subtree_control", "w") as file:
            file.write(f"+{controller}")
        return ROOT
    except OSError:
        return None


def missing_memory():
    """Why no group can limit memory here; None if one can."""
    try:
        with memory_group(64 << 20):
            return None
    except OSError as error:
        return f"no control group for memory ({error.strerror})"


@contextlib.contextmanager
def memory_group(limit):
    made = MemoryGroup(limit)
    try:
        yield made
    finally:
        made.remove()


def sweep(pid):
    """Removes what a process that was killed has left."""
    for path in glob.glob(f"{ROOT}/*/fault-{pid}-*") + glob.glob(f"{ROOT}/fault-{pid}-*"):
        with contextlib.suppress(OSError):
            os.rmdir(path)


@contextlib.contextmanager
def group(controller):
    made = Group(controller)
    try:
        yield made
    finally:
        made.remove()
