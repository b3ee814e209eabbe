"""Installs the packages of the subjects in pinned versions, once, with uv and npm."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "scripts"
# Built from source by their own packages, which need these programs.
COMPILER = {"llama-cpp-python": ["gcc", "g++"], "n8n": ["g++", "make"], "flowise": ["g++", "make"]}


class NotInstalled(Exception):
    """The text is the reason, in one line."""


def run(command, **options):
    """Run an installer; its last words become the reason if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode != 0:
        raise NotInstalled(" ".join(done.stdout.split())[-500:])


def missing(programs):
    """Those that are not on the PATH."""
    return [name for name in programs if shutil.which(name) is None]


class Environments:
    """The folders with packages, below the cache folder."""

    def __init__(self, cache, uv):
        self.cache = cache
        self.uv = uv

    def folder(self, name, *files):
        """The folder of an environment: a change of its files or of Python makes a new one."""
        digest = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode())
        for file in files:
            digest.update(file.read_bytes())
        return self.cache / f"{name}-{digest.hexdigest()[:16]}"

    def python(self, name):
        """A virtual environment with exactly the packages of requirements/NAME.txt."""
        requirements = HERE / "requirements" / f"{name}.txt"
        if name == "local-model":
            requirements = SCRIPTS / "local-model.txt"
        folder = self.folder(name, requirements)
        if (folder / ".ready").exists():
            return folder
        lacking = missing(COMPILER.get(name, []))
        if lacking:
            raise NotInstalled(f"{', '.join(lacking)} must be installed first")
        print(f"Installing {name} (once)", flush=True)
        settings = {**os.environ, "UV_CACHE_DIR": str(self.cache / "uv")}
        # Without it, uv would fetch an interpreter that the file was not made for.
        settings["UV_PYTHON_DOWNLOADS"] = "never"
        run([self.uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], env=settings)
        command = [self.uv, "pip", "sync", "--quiet", "--python", folder / "bin/python", requirements]
        run(command, env=settings)
        (folder / ".ready").touch()
        return folder

    def npm(self, name):
        """A folder with the packages of npm/NAME/package.json, or of tests/clients/NAME."""
        package = HERE / "npm" / name / "package.json"
        if not package.exists():
            package = HERE.parent / "clients" / name / "package.json"
        folder = self.folder(name, package)
        if (folder / ".ready").exists():
            return folder
        lacking = missing(["node", "npm", *COMPILER.get(name, [])])
        if lacking:
            raise NotInstalled(f"{', '.join(lacking)} must be installed first")
        print(f"Installing {name} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(package, folder)
        # Their install scripts fetch binaries from elsewhere; only the database is built, from source.
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        run(["npm", "install", *quiet], cwd=folder)
        if name in COMPILER:
            run(["npm", "rebuild", "--foreground-scripts", "sqlite3"], cwd=folder)
        (folder / ".ready").touch()
        return folder
