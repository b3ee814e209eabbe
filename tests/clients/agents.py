#!/usr/bin/env python3
"""Runs whole sessions of real coding agents through the proxy, over the upstream of agent_upstream.py.

Usage: agents.py --proxy BINARY --npm FOLDER [--only NAME]

--npm   a folder with the packages of agents/package.json installed

It starts itself again in a network namespace that holds the loopback interface only, so that no agent
reaches anybody. Each agent plays each of its tasks over an upstream that refuses what OpenAI refuses, and
over one that refuses what strict chat templates refuse. Each session must end with the files made and the
final text shown, and no error may reach the agent. Then it plays its first task again, and the upstream must
refuse nothing: what was repaired once is known. The last line is `N passed, N failed`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from agent_session import FINAL, kind_of
from run import Failure, Programs, fetch, first_line, in_namespace, start_proxy, stop

HERE = Path(__file__).resolve().parent
MODES = ("openai", "templates")
SESSION_SECONDS = 240
FILES = {
    "work": {"one.txt": "one, patched\n", "two.txt": "two\n", "three.txt": "three\n"},
    "break": {"one.txt": "one\n"},
    "overflow": {"one.txt": "one\n", "two.txt": "two\n"},
}
SUM = "The sum is 42"
# The refusals and failures that belong to a task.
EXPECTED = {"overflow": "exceeds? the available context|maximum context length"}
STATUS = re.compile(r'\] (req_\w+) POST "([^"]+)".* status=(\d+)(?:.* error=(.*))?')
QUIET = {
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "*",
    "LANG": "C.UTF-8",
    "NO_COLOR": "1",
    "CI": "1",
}


@dataclass
class Session:
    """One run of an agent: its folders, and where the proxy is."""

    task: str
    model: str
    proxy: str
    home: Path
    folder: Path
    log: Path
    packages: dict
    environment: dict = field(default_factory=dict)

    @property
    def kind(self):
        """The name of the task without what belongs to it."""
        return self.task.removeprefix("task:").partition("+")[0]

    @property
    def prompt(self):
        return f"Please do {self.task} in folder:{self.folder} with your tools."

    def write(self, path, content):
        """A file below the home folder."""
        path = self.home / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def run(self, command, **environment):
        """Run a program in the folder of the session; its output, or an AssertionError."""
        settings = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            **QUIET,
            **self.environment,
            **environment,
        }
        with open(self.log, "ab") as log:
            start = log.tell()
            program = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                program.wait(SESSION_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                end_group(program)
        output = self.log.read_bytes()[start:].decode(errors="replace")
        assert program.returncode is not None and program.returncode >= 0, f"hangs: {output[-300:]}"
        return program.returncode, output

    def must_run(self, command, **environment):
        """Run a program that must succeed; its output."""
        status, output = self.run(command, **environment)
        assert status == 0, f"status {status}: {output[-300:]}"
        return output


def end_group(program):
    """Stop a program and what it started."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    program.wait()


class Agent:
    """A coding agent. `tasks` are what it plays, `models` the model for each mode."""

    name = ""
    tasks = ("work", "break", "overflow")
    leaves = ()  # Pairs of mode and task that it does not finish, whatever it is told.
    calls = ()  # Kinds of tools (agent_session.py) that must have been called.
    models = {"openai": "gpt-4o", "templates": "qwen3.5"}

    def play(self, session):
        """Play the task of a session; what the agent showed."""
        raise NotImplementedError


class Upstream:
    """The scripted upstream in one mode, and the proxy in front of it."""

    def __init__(self, programs, binary, mode, log):
        script = [sys.executable, HERE / "agent_upstream.py", "--mode", mode]
        self.upstream = programs.start(
            [str(word) for word in script],
            stdout=subprocess.PIPE,
            stderr=open(log.with_suffix(".upstream.log"), "wb"),
            text=True,
        )
        self.url = f"http://127.0.0.1:{first_line(self.upstream, 'the upstream of the agents')}"
        self.log = log.with_suffix(".proxy.log")
        more = {"LOG_LEVEL": "info", "PROXY_STATE": str(log.with_suffix(".json"))}
        stderr = open(self.log, "wb")
        self.program, self.proxy = start_proxy(programs, binary, self.url, "key", more, stderr=stderr)
        self.seen = 0

    def stop(self):
        stop(self.program)
        stop(self.upstream)

    def news(self):
        """The requests and the lines of the proxy's log since the last call."""
        entries = json.loads(fetch(self.url + "/_requests"))
        lines = self.log.read_text().splitlines()
        log, self.seen = lines[self.seen :], len(lines)
        forget(self.url)
        return entries, log


def forget(url):
    """Empty the journal of the upstream."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url + "/_requests", method="DELETE"), timeout=10).close()


def check_files(session):
    """The files hold what the session was to make."""
    for file, text in FILES[session.kind].items():
        path = session.folder / file
        assert path.exists(), f"{file} was not made"
        found = path.read_text().strip()
        assert found == text.strip(), f"{file} holds {found!r}"


def check_output(session, output):
    """The agent showed the final text."""
    assert FINAL in output, f"the final text is not shown: {output[-300:]}"
    if session.task.endswith("+mcp"):
        assert SUM in output, f"the sum is not shown: {output[-300:]}"


def check_journal(session, entries, is_first):
    """The session went its way, and nothing unknown was refused."""
    steps = [entry.get("step") for entry in entries]
    assert "final" in steps, f"the session has no end: {steps}"
    if session.kind == "overflow":
        assert "overflow" in steps and "summary" in steps, f"the history was not summarised: {steps}"
    if session.kind == "break":
        assert "break" in steps, f"no answer broke off: {steps}"
    failed = [entry["refusal"] for entry in entries if entry["state"] == "failed"]
    assert not failed, f"the upstream failed: {failed}"
    refusals = [entry["refusal"] for entry in entries if "refusal" in entry]
    refusals = [text for text in refusals if not is_expected(session, text)]
    if is_first:
        kinds = [re.sub(r"\d+", "N", text) for text in refusals]
        again = sorted({text for text in kinds if kinds.count(text) > 2})
        assert not again, f"refused again and again: {again}"
    else:
        assert not refusals, f"refused in the second round: {refusals}"


def check_log(session, log):
    """No error reached the agent but those of its task."""
    for line in log:
        found = STATUS.search(line)
        if not found or found[3].startswith("2") and not found[4]:
            continue
        if session.kind == "break" and "upstream_closed" in line:
            continue
        if session.kind == "overflow" and "upstream_status: 400" in line:
            continue
        if "client" in (found[4] or ""):
            continue  # The agent has left.
        if "thread_not_found" in line:
            continue  # It sends the whole conversation then.
        raise AssertionError(f"an error reached the agent: {line.split('] ', 1)[-1]}")


def check_calls(agent, entries):
    """The tools were called that must be."""
    calls = [
        call[call["type"]]["name"]
        for entry in entries
        for message in (entry["body"] or {}).get("messages", [])
        for call in message.get("tool_calls") or []
    ]
    kinds = {kind_of(name) for name in calls}
    missing = [kind for kind in agent.calls if kind not in kinds]
    assert not missing, f"no call of {missing} among {sorted(set(calls))}"


def is_expected(session, text):
    """True for a refusal that belongs to the task."""
    return session.kind in EXPECTED and re.search(EXPECTED[session.kind], text)


class Runner:
    """Plays sessions and counts the checks."""

    def __init__(self, programs, binary, packages, logs, report):
        self.programs = programs
        self.binary = binary
        self.packages = packages
        self.logs = logs
        self.report = report

    def play(self, agent):
        """All sessions of an agent."""
        for mode in MODES:
            log = self.logs / f"{agent.name}-{mode}"
            log.parent.mkdir(parents=True, exist_ok=True)
            upstream = Upstream(self.programs, self.binary, mode, log)
            # What was repaired once is known: the first task shows it.
            for number, tasks in enumerate((agent.tasks, agent.tasks[:1]), 1):
                for task in tasks:
                    if (mode, task) in agent.leaves:
                        continue
                    what = f"{agent.name}, {mode}, {task}, {'once' if number == 1 else 'again'}"
                    place = log.with_name(f"{log.name}-{task}-{number}.log")
                    self.report(what, self.session, agent, mode, upstream, task, number, place)
            upstream.stop()

    def session(self, agent, mode, upstream, task, number, log):
        """One session; raises an AssertionError if anything is wrong."""
        root = Path(tempfile.mkdtemp(prefix="agent-", dir=self.programs.folder))
        for name in ("home", "work"):
            (root / name).mkdir()
        log.write_bytes(b"")
        session = Session(
            task=f"task:{task}",
            model=agent.models[mode],
            proxy=upstream.proxy,
            home=root / "home",
            folder=root / "work",
            log=log,
            packages=self.packages,
        )
        try:
            output = agent.play(session)
        except AssertionError as error:
            entries, lines = upstream.news()
            refusals = [entry["refusal"] for entry in entries if "refusal" in entry]
            log.with_suffix(".json").write_text(json.dumps(entries, indent=1))
            raise AssertionError(f"{error} (refused: {refusals[-2:]}; {lines[-1:]})") from None
        entries, lines = upstream.news()
        log.with_suffix(".json").write_text(json.dumps(entries, indent=1))
        check_output(session, output)
        check_files(session)
        check_log(session, lines)
        check_journal(session, entries, number == 1)
        check_calls(agent, entries)


# --- The agents of scripts/test -----------------------------------------------------------------

TINY = [sys.executable, str(HERE / "agent_mcp.py")]
BINARIES = {
    "claude": "node_modules/@anthropic-ai/claude-code-linux-*/claude",
    "codex": "node_modules/@openai/codex-linux-*/vendor/*/bin/codex",
}


def native(session, name):
    """The program of a package for this machine."""
    found = sorted(Path(session.packages["agents"]).glob(BINARIES[name]))
    found = [path for path in found if "musl/claude" not in str(path)]
    assert found, f"{name} is not installed for this machine"
    return found[0]


CLIENTS = HERE.parent.parent / "scripts" / "clients"
DEFAULT = "http://localhost:11434"


def ready_file(session, name):
    """A file of scripts/clients as a user would have it, with the address and the model of this session."""
    text = (CLIENTS / name).read_text()
    assert DEFAULT in text and "gpt-4o" in text, f"{name} names neither the proxy nor a model"
    text = re.sub(r"gpt-4o(-mini)?", session.model, text.replace(DEFAULT, session.proxy))
    return session.write(name, text)


class ClaudeCode(Agent):
    """Claude Code over /v1/messages."""

    name = "claude-code"
    tasks = ("work+mcp", "break", "overflow")

    def play(self, session):
        servers = {"tiny": {"command": TINY[0], "args": TINY[1:]}}
        config = session.write("mcp.json", {"mcpServers": servers})
        file = ready_file(session, "claude-code.env")
        command = ["sh", "-c", '. "$0" && exec "$@"', file, native(session, "claude")]
        command += ["-p", "--dangerously-skip-permissions"]
        command += ["--strict-mcp-config", "--mcp-config", config, "--", session.prompt]
        return session.must_run(
            command,
            IS_SANDBOX="1",
            DISABLE_TELEMETRY="1",
            DISABLE_ERROR_REPORTING="1",
            DISABLE_AUTOUPDATER="1",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )


class Codex(Agent):
    """Codex over /v1/responses."""

    name = "codex"
    tasks = ("work+mcp", "break", "overflow")

    def play(self, session):
        ready = ready_file(session, "codex.config.toml").read_text()
        server = f'[mcp_servers.tiny]\ncommand = "{TINY[0]}"\nargs = ["{TINY[1]}"]\n'
        session.write(".codex/config.toml", f"{ready}{server}[analytics]\nenabled = false\n")
        if session.kind != "overflow":
            return session.must_run(self.command(session, session.prompt))
        # The turn whose prompt is too long ends; the next one begins with a summary.
        status, output = session.run(self.command(session, session.prompt))
        assert status != 0 and "context" in output, f"no overflow is told: {output[-300:]}"
        return session.must_run(self.command(session, "resume", "--last", "Please go on."))

    def command(self, session, *words):
        flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        return [native(session, "codex"), "exec", *flags, *words]


class CodexPatch(Codex):
    """Codex with a model for which it declares `apply_patch` as a custom tool, and searches for tools."""

    name = "codex, apply_patch"
    tasks = ("work+mcp",)
    calls = ("patch",)
    models = {"openai": "gpt-5.5", "templates": "gpt-5.5"}


class CodexOss(Codex):
    """`codex --oss`, which takes the proxy for Ollama."""

    name = "codex --oss"
    tasks = ("work",)
    models = {"openai": "gpt-oss:20b", "templates": "gpt-oss:20b"}

    def play(self, session):
        session.write(".codex/config.toml", "[analytics]\nenabled = false\n")
        command = self.command(session, "--oss", "--local-provider", "ollama", session.prompt)
        return session.must_run(command, CODEX_OSS_BASE_URL=f"{session.proxy}/v1")


AGENTS = [ClaudeCode(), Codex(), CodexPatch(), CodexOss()]


class Counter:
    """Prints a line for each check."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, what, function, *arguments):
        try:
            function(*arguments)
        except AssertionError as error:
            self.failed += 1
            print(f"FAIL {what}: {' '.join(str(error).split())[:900]}", flush=True)
        else:
            self.passed += 1
            print(f"PASS {what}", flush=True)


def main():
    """Run the agents; exit status 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", type=Path, required=True, help="the binary under test")
    parser.add_argument("--npm", type=Path, required=True, help="the folder with the npm packages")
    parser.add_argument("--logs", type=Path, help="a folder that keeps the logs")
    parser.add_argument("--only", action="append", help="the name of an agent")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        command = in_namespace([sys.executable, *sys.argv, "--inside"])
        os.execvp(command[0], command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    report = Counter()
    with Programs() as programs:
        logs = options.logs or Path(programs.folder) / "logs"
        runner = Runner(programs, options.proxy, {"agents": options.npm}, logs, report)
        for agent in AGENTS:
            if options.only and agent.name not in options.only:
                continue
            try:
                runner.play(agent)
            except Failure as reason:
                report.failed += 1
                print(f"FAIL {agent.name}: {reason}", flush=True)
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
