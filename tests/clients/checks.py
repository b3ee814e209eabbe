"""The test runner of the Python client tests.

A check is a function, plain or async, registered by the `check` decorator; it passes unless it
raises. `run` runs them in order, prints one line for each and a last line `N passed, N failed`.
"""

import asyncio
import inspect
import json
import os
import re
import sys
import traceback
import urllib.request

REGISTERED = []
WANTED = "on purpose|Rate limit|server had an error|does not exist|API key|gave up"
# The upstream lacks /v1/responses, and is no Ollama; its one refusal is how the proxy detects that.
WANTED += r"|Invalid URL \((POST /v1/responses|GET /api/version)\)"


def check(function):
    """Register a check. Its name, with blanks, is what gets printed."""
    REGISTERED.append(function)
    return function


def run():
    """Run every check and end the process: 0 if all passed, 1 otherwise."""
    failed = 0
    for function in REGISTERED:
        name = function.__name__.replace("_", " ")
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(result)
            print(f"PASS {name}", flush=True)
        except Exception as error:  # A check may fail in any way; each is one line.
            failed += 1
            print(f"FAIL {name}: {reason(error)}", flush=True)
    print(f"{len(REGISTERED) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


def reason(error):
    """Where a check failed and why, in one line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "test_" in f.filename]
    where = f"line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__} {text} ({where})"


def raises(kind, function, *args, **kwargs):
    """The error that the call raises; it is a failure if it raises none."""
    try:
        result = function(*args, **kwargs)
        if inspect.isgenerator(result):
            list(result)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def setting(name):
    """An environment variable that must be set."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set; tests/clients/run.py sets it")
    return value


class Journal:
    """The requests that the scripted upstream has seen."""

    def __init__(self, upstream):
        self.url = upstream + "/_requests"
        self._ask("DELETE")  # What another test program did is not ours to judge.
        self.earlier = []

    def _ask(self, method):
        request = urllib.request.Request(self.url, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def entries(self):
        """Those since `forget`, oldest first."""
        return self._ask("GET")

    def forget(self):
        """Start anew; `everything` still knows the earlier ones."""
        self.earlier += self.entries()
        self._ask("DELETE")

    def everything(self):
        """All of them."""
        return self.earlier + self.entries()

    def check_rules(self):
        """Assert that no request was refused except where a check expects it."""
        refusals = {entry["refusal"] for entry in self.everything() if "refusal" in entry}
        odd = [text for text in sorted(refusals) if not re.search(WANTED, text)]
        assert not odd, odd
