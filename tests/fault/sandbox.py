"""Surroundings in which `/proc` says nothing, little, or the wrong thing, for a child before it runs.

Each needs root, and changes what that child alone sees.
"""

import contextlib
import ctypes
import os
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
NOBODY = 65534
CONSTANT = "0.00 0.00 0.00 1/100 4242\n"


def missing():
    """Why these surroundings cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root"
    child = os.fork()
    if child == 0:
        try:
            no_proc()
            os._exit(0)
        except OSError:
            os._exit(1)
    return "mounts are not allowed here" if os.waitpid(child, 0)[1] else None


def call(name, *arguments):
    texts = [it.encode() if isinstance(it, str) else it for it in arguments]
    if getattr(LIBC, name)(*texts) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed")


def own_mounts():
    call("unshare", CLONE_NEWNS)
    call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)


def no_proc():
    own_mounts()
    call("mount", "tmpfs", "/proc", "tmpfs", 0, None)


def constant_proc():
    """As in some sandboxes: a load that never changes, and a folder of threads without any."""
    no_proc()
    os.makedirs("/proc/self/task")
    for name, text in (("loadavg", CONSTANT), ("self/status", "FDSize:\t64\n")):
        with open(f"/proc/{name}", "w") as file:
            file.write(text)


def bare_threads():
    """Threads that are listed without anything in them."""
    constant_proc()
    for number in range(1, 9):
        os.makedirs(f"/proc/self/task/{number}")


def another_user():
    os.chown(".", NOBODY, NOBODY)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def hidden_processes():
    own_mounts()
    call("mount", "proc", "/proc", "proc", 0, "hidepid=2")
    another_user()


def cached_load(path):
    """A load that a daemon refreshes now and then, as LXCFS does; the caller writes the file."""

    def prepare():
        own_mounts()
        call("mount", path, "/proc/loadavg", None, MS_BIND, None)

    return prepare


@contextlib.contextmanager
def busy_process_ids():
    """Other processes of the same namespace start all the time, so that its last id moves."""
    code = "import os\nwhile True:\n    child = os.fork()\n    child or os._exit(0)\n    os.wait()\n"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()
