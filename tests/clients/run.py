#!/usr/bin/env python3
"""Starts an upstream and the real proxy in front of it, and runs the client tests against them.

Usage: run.py --proxy BINARY [--python PYTHON] [--npm FOLDER] [--ollama-rs PROGRAM]
              [--real-model PYTHON]

--python      a Python that has the packages of requirements.txt (default: this one)
--npm         a folder with the packages of package.json installed; without it the JavaScript
              clients are left out
--ollama-rs   the client program of the Rust crate, built from the folder ollama-rs; without it
              that client is left out
--real-model  a Python that has the packages of scripts/local-model.txt: instead of the scripted
              upstream use that model, with the short pass and scripts/smoke

The last line is `N passed, N failed` over everything. All programs are stopped on every way out.
"""

import argparse
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "scripts"
TOTALS = re.compile(r"^(\d+) passed, (\d+) failed", re.MULTILINE)
TEST_SECONDS = 300  # Ends a test program that hangs.
KEY = "test-key"
PROXY_KEY = "a-key-of-the-proxy"
PYTHON_TESTS = {
    "ollama for Python": "test_ollama_python.py",
    "openai for Python": "test_openai_python.py",
    "langchain-ollama": "test_langchain.py",
    "langchain-openai": "test_langchain_openai.py",
    "llama-index": "test_llama_index.py",
    "litellm": "test_litellm.py",
    "llm with llm-ollama": "test_llm.py",
    "anthropic for Python": "test_anthropic_python.py",
    "openai for Python, responses": "test_openai_responses.py",
}
JAVASCRIPT_TESTS = {
    "ollama for JavaScript": "test_ollama_js.mjs",
    "AI SDK": "test_ai_sdk.mjs",
    "openai for JavaScript": "test_openai_js.mjs",
    "anthropic for JavaScript": "test_anthropic_js.mjs",
}
PR_SET_PDEATHSIG = 1  # From <sys/prctl.h>.


class Failure(Exception):
    """The tests cannot continue; the text is the reason."""


class Programs:
    """The programs that this one started; leaving the block stops them, the newest first."""

    def __init__(self):
        self.started = []
        self.folder = tempfile.mkdtemp(prefix="proxy-test-")  # Empty: no .env file of anybody's.

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self.started):
            stop(program)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command, **more):
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=with_us, **more)
        self.started.append(program)
        return program


def with_us():
    """In a child: end when the parent does, even by SIGKILL (Linux)."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        pass


def stop(program):
    """Ask it to end, then insist; its exit status."""
    if program.poll() is None:
        program.terminate()
    try:
        return program.wait(20)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        return None


def in_namespace(command):
    """The command line that runs a command with the loopback interface only."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'ip link set lo up && exec "$@"'
    return ["unshare", "--net", *user, "sh", "-c", script, "sh", *[str(word) for word in command]]


RESERVED = []  # Sockets that hold the ports of `free_port` until this process ends.


def free_port():
    """A port that nothing listens on.

    It stays bound, without listening: the kernel gives it to nothing else, and the proxy, which
    sets SO_REUSEADDR, can listen there.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    RESERVED.append(held)
    return held.getsockname()[1]


def fetch(url):
    """The body of an answer, or None."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return None


def first_line(program, what):
    """The first line of a program's output, which contains its address."""
    line = program.stdout.readline().strip()
    if not line:
        raise Failure(f"{what} did not start")
    return line


def start_scripted(programs):
    command = [sys.executable, str(HERE / "upstream.py"), "--key", KEY]
    program = programs.start(command, stdout=subprocess.PIPE, text=True)
    return f"http://127.0.0.1:{first_line(program, 'the scripted upstream')}"


def start_model(programs, python):
    command = [python, str(SCRIPTS / "local-model"), "--quiet"]
    program = programs.start(command, stdout=subprocess.PIPE, text=True)
    return first_line(program, "the model server").removesuffix("/v1")


def start_proxy(programs, binary, upstream, key=None, more=None, **options):
    """The release binary with nothing of our own environment, and retries that do not wait long. Without an
    upstream, a configuration file of `more` names them."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PROXY_PORT": url.rsplit(":", 1)[1],
        "RETRY_MAX": "1",
        "RETRY_INITIAL_MS": "10",
        "RETRY_MAX_MS": "50",
        "PROXY_STATE": os.path.join(programs.folder, "state.json"),
        "LOG_LEVEL": "error",  # The tests cause warnings on purpose.
        **(more or {}),
    }
    if upstream:
        environment["OPENAI_API_BASE_URL"] = upstream + "/v1"
    if key:
        environment["OPENAI_API_KEY"] = key
    command = [str(binary.resolve())]
    program = programs.start(command, env=environment, cwd=programs.folder, **options)
    for _ in range(150):
        if fetch(url + "/") == b"Ollama is running":
            return program, url
        if program.poll() is not None:
            raise Failure(f"the proxy ended with status {program.returncode}")
        time.sleep(0.1)
    raise Failure(f"the proxy does not answer at {url}")


def start_router(programs, binary, upstream):
    """A proxy with several upstreams, of which the first one is down; its address."""
    down = f"http://127.0.0.1:{free_port()}"
    lines = []
    for name, url in {"down": down, "first": upstream, "second": start_scripted(programs)}.items():
        lines += ["[[upstream]]", f'name = "{name}"', f'base_url = "{url}/v1"', f'api_key = "{KEY}"']
    use = '["down/scripted-1", "second/scripted-1", "first/scripted-1"]'
    lines += ["[[model]]", 'name = "router"', f"use = {use}", 'strategy = "least-busy"']
    file = Path(programs.folder) / "proxy.toml"
    file.write_text("\n".join(lines) + "\n")
    own = {"PROXY_CONFIG": str(file), "PROXY_STATE": str(file.with_name("router.json"))}
    return start_proxy(programs, binary, None, more=own)[1]


def run_test(programs, title, command, environment):
    """Run one test program, showing its output; its totals."""
    print(f"-- {title}", flush=True)
    program = programs.start(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = program.communicate(timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        output = (program.communicate()[0] or "") + f"FAIL {title}: it hangs\n"
    print(output, end="", flush=True)
    totals = TOTALS.findall(output)
    if not totals:
        return 0, 1
    passed, failed = map(int, totals[-1])
    if program.returncode != 0 and failed == 0:
        print(f"FAIL {title}: it ended with status {program.returncode}", flush=True)
        failed = 1
    return passed, failed


def check_drain(program):
    """SIGTERM ends an idle proxy with status 0."""
    status = stop(program)
    if status == 0:
        print("PASS SIGTERM ends the proxy with status 0", flush=True)
        return 1, 0
    print(f"FAIL SIGTERM ends the proxy with status 0: it was {status}", flush=True)
    return 0, 1


def run_clients(programs, options):
    """Every client over the scripted upstream."""
    upstream = start_scripted(programs)
    proxy, url = start_proxy(programs, options.proxy, upstream, KEY)
    where = {"PROXY_URL": url, "UPSTREAM_URL": upstream, "NO_PROXY": "*"}
    for title, name in PYTHON_TESTS.items():
        yield run_test(programs, title, [options.python, HERE / name], where)
    own = {"PROXY_API_KEYS": PROXY_KEY, "PROXY_STATE": os.path.join(programs.folder, "keyed.json")}
    _, keyed = start_proxy(programs, options.proxy, upstream, KEY, own)
    keys = {"KEYED_PROXY_URL": keyed, "PROXY_KEY": PROXY_KEY, "NO_PROXY": "*"}
    title = "Python clients with keys of the proxy"
    yield run_test(programs, title, [options.python, HERE / "test_keys.py"], keys)
    if options.npm:
        shutil.copy(HERE / "checks.mjs", options.npm)
    for title, name in JAVASCRIPT_TESTS.items() if options.npm else ():
        # An import is looked up from where the file lies, so the file goes to its packages.
        test = shutil.copy(HERE / name, options.npm)
        yield run_test(programs, title, ["node", test], where)
    if options.ollama_rs:
        yield run_test(programs, "ollama-rs", [options.ollama_rs], where)
    smoke = [SCRIPTS / "smoke", url]
    yield run_test(programs, "scripts/smoke, scripted upstream", smoke, {"MODEL": "scripted-1:latest"})
    router = start_router(programs, options.proxy, upstream)
    for model in ("router", "scripted-1:latest"):
        title = f"scripts/smoke, several upstreams, {model}"
        yield run_test(programs, title, [SCRIPTS / "smoke", router], {"MODEL": model})
    yield check_drain(proxy)


def run_model(programs, options):
    """The short pass and scripts/smoke over the real model."""
    proxy, url = start_proxy(programs, options.proxy, start_model(programs, options.real_model))
    where = {"PROXY_URL": url, "NO_PROXY": "*"}
    test = HERE / "test_real_model.py"
    yield run_test(programs, "ollama for Python, real model", [options.python, test], where)
    yield run_test(programs, "scripts/smoke, real model", [SCRIPTS / "smoke", url], {"MODEL": ""})
    yield check_drain(proxy)


def main():
    """Run the selected tests; exit status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", type=Path, required=True, help="the binary under test")
    parser.add_argument("--python", default=sys.executable, help="a Python with the packages")
    parser.add_argument("--npm", type=Path, help="a folder with the npm packages")
    parser.add_argument("--ollama-rs", type=Path, help="the program built from ollama-rs/")
    parser.add_argument("--real-model", metavar="PYTHON", help="use the real model, run by this")
    options = parser.parse_args()
    # Turn a request to end into an ordinary way out, so that the programs get stopped.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    passed = failed = 0
    with Programs() as programs:
        try:
            runs = run_model if options.real_model else run_clients
            for good, bad in runs(programs, options):
                passed += good
                failed += bad
        except Failure as reason:
            print(f"FAIL {reason}", flush=True)
            failed += 1
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
