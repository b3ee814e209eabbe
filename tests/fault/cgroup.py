"""Control groups (version 1) of one scenario, below the root of a controller; removed afterwards."""

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


def sweep(pid):
    """Removes what a process that was killed has left."""
    for path in glob.glob(f"{ROOT}/*/fault-{pid}-*"):
        with contextlib.suppress(OSError):
            os.rmdir(path)


@contextlib.contextmanager
def group(controller):
    made = Group(controller)
    try:
        yield made
    finally:
        made.remove()
