"""What every subject of scripts/real uses: one line for each check, requests, and started programs."""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parent / "clients"
sys.path.insert(0, str(CLIENTS))

from run import Failure, free_port, start_proxy  # noqa: E402

KEY = "test-key"

# No subject may wait for a hub or a statistics server, and none of them could reach it.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "NO_PROXY": "*",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Subject:
    """One server or application.

    python, npm   environments to install, by the names of their files
    programs      what must be on the PATH, by the Debian package of the same name
    """

    what: str
    run: object
    python: list = field(default_factory=list)
    npm: list = field(default_factory=list)
    programs: list = field(default_factory=list)


class Report:
    """Prints a line for each check and counts them."""

    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failed = 0

    def check(self, what, function, *arguments):
        """Run a check, which passes unless it raises; its result, or None."""
        try:
            result = function(*arguments)
        except Exception as error:  # A check may fail in any way; each is one line.
            self.fail(what, f"{type(error).__name__}: {error}")
            return None
        self.passed += 1
        print(f"ok {self.name} {what}", flush=True)
        return result

    def fail(self, what, reason):
        """Count a failure."""
        self.failed += 1
        print(f"FAIL {self.name} {what}: {' '.join(str(reason).split())[:600]}", flush=True)


@dataclass
class Answer:
    """One response."""

    status: int
    text: str
    headers: object = None

    def json(self):
        return json.loads(self.text)

    def lines(self):
        """The objects of NDJSON, or of the events of a stream without `[DONE]`."""
        texts = [line.removeprefix("data: ") for line in self.text.splitlines()]
        return [json.loads(text) for text in texts if text.startswith("{")]

    def ok(self):
        """The response itself, which must be a success."""
        assert self.status == 200, f"{self.status} {self.text[:500]}"
        return self


class Api:
    """Requests to one address, each on a connection of its own."""

    def __init__(self, url, key=None, seconds=300):
        self.host = urllib.parse.urlsplit(url).netloc
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.seconds = seconds

    def send(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, timeout=self.seconds)
        data = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, data, {**kind, **self.headers, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            return Answer(response.status, text, response.headers)
        finally:
            connection.close()

    def get(self, path):
        return self.send("GET", path)

    def post(self, path, body):
        return self.send("POST", path, body)


@dataclass
class Context:
    """What a subject needs: the programs it starts end with it."""

    name: str
    binary: Path
    cache: Path
    environments: dict
    programs: object
    report: Report

    @property
    def folder(self):
        """A folder that is removed at the end."""
        return Path(self.programs.folder)

    def python(self, environment):
        return str(self.environments[environment] / "bin/python")

    def tool(self, environment, name):
        """A program of a Python environment."""
        return str(self.environments[environment] / "bin" / name)

    def log_file(self, name):
        """The path of a log, which stays after the run."""
        folder = self.cache / "logs" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def start(self, command, log, more=None, **options):
        """Start a program with an environment of its own, and its output in a log."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            **OFFLINE,
            **(more or {}),
        }
        with open(self.log_file(log), "wb") as output:
            words = [str(word) for word in command]
            options = {"stdout": output, "stderr": output, "cwd": self.folder, **options}
            return self.programs.start(words, env=environment, **options)

    def wait_for(self, program, url, path, log, seconds=300, key=None):
        """Wait until a server answers 200 there."""
        api = Api(url, key, seconds=10)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if program.poll() is not None:
                raise Failure(f"{log} ended with status {program.returncode}: {self.tail(log)}")
            try:
                if api.get(path).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise Failure(f"{log} does not answer at {path} within {seconds} s: {self.tail(log)}")

    def tail(self, log):
        """The last words of a log, for a line of the report."""
        return self.log_file(log).read_text(errors="replace")[-400:]

    def scripted_proxy(self):
        """The release binary in front of the scripted upstream of tests/clients; both addresses."""
        command = [sys.executable, CLIENTS / "upstream.py", "--key", KEY]
        program = self.start(command, "scripted", stdout=subprocess.PIPE, text=True)
        upstream = f"http://127.0.0.1:{program.stdout.readline().strip()}"
        # The log of bodies is a recording of what the application sends.
        more = {"LOG_LEVEL": "trace", "LOG_BODIES": "1", "OLLAMA_ORIGINS": "*"}
        return self.proxy(upstream, KEY, more), upstream

    def proxy(self, upstream, key=None, more=None, log="proxy"):
        """The release binary in front of an upstream; its address."""
        log = open(self.log_file(log), "wb")
        settings = {"LOG_LEVEL": "debug", **(more or {})}
        program, url = start_proxy(self.programs, self.binary, upstream, key, settings, stderr=log)
        del program
        return url


def wait_until(condition, what, seconds=60):
    """Wait until a function returns something true; that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {what}")


__all__ = [
    "CLIENTS",
    "HERE",
    "Answer",
    "Api",
    "Context",
    "Failure",
    "Report",
    "Subject",
    "free_port",
    "wait_until",
]
