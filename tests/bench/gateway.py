"""LiteLLM's proxy as another gateway beside us: for the same job, from PyPI, with its defaults but
for a worker process for each core. `scripts/bench --against litellm` installs it.
"""

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import machine

NAME = "litellm"
PATIENCE = 120  # Seconds until it must be ready: it is large.
QUIET = 0.5  # Seconds for which its processes must be idle: then all workers have started.
BUSY_US = 50_000  # CPU time that idle processes may take in that time.
KEY = "sk-bench-0123456789abcdef0123456789abcdef"  # It does not start without one.
# It asks for lists of prices, headers and news, unless it is told to take those it brings along.
OFFLINE = (
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS",
    "LITELLM_LOCAL_BLOG_POSTS",
    "LITELLM_LOCAL_POLICY_TEMPLATES",
)
NOWHERE = "http://127.0.0.1:9"  # A proxy that is none, for whatever would call out all the same.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def version(env):
    """Of what is installed in a virtual environment; None where it is not."""
    for found in Path(env).glob("lib/python*/site-packages/litellm-*.dist-info"):
        return found.name.removesuffix(".dist-info").split("-")[1]
    return None


def config(models, upstream_port):
    """Its configuration, as YAML, of which JSON is a part."""
    upstream = {"api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    found = [
        {"model_name": model, "litellm_params": {"model": f"openai/{model}", **upstream}}
        for model in models
    ]
    settings = {"num_retries": 0, "telemetry": False}
    return json.dumps({"model_list": found, "litellm_settings": settings}, indent=1)


def environment(folder):
    """Nothing of the caller's own."""
    return {
        **dict.fromkeys(OFFLINE, "True"),
        "HOME": folder,
        "PATH": "/usr/bin:/bin",
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class LiteLlm(machine.Program):
    """Its proxy, from a virtual environment, for these models of the upstream."""

    def __init__(self, env, models, upstream_port):
        super().__init__()
        self.env, self.models, self.upstream_port = env, models, upstream_port

    def start(self):
        self.port = machine.free_port()
        file = Path(self.folder, "config.yaml")
        file.write_text(config(self.models, self.upstream_port))
        workers = len(os.sched_getaffinity(0))
        command = [os.path.join(self.env, "bin", "litellm"), "--config", str(file)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--num_workers", str(workers)]
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.run(command, environment(self.folder), stdout=log, stderr=log)
        self.wait_for(self.is_ready, "litellm", PATIENCE)
        self.helpers = self.pids()[1:]

    def pids(self):
        """With the workers, and with whatever they have started."""
        found = [self.process.pid]
        for pid in found:
            found += machine.children(pid)
        return found

    def is_ready(self):
        """Each model has answered, and no process is busy."""
        if not all(self.answers(model) for model in self.models):
            return False
        before = machine.cpu_us(self.pids())
        time.sleep(QUIET)
        return machine.cpu_us(self.pids()) - before < BUSY_US

    def answers(self, model):
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        body["stream"] = model != "short"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        try:
            with OPENER.open(request, timeout=machine.PATIENCE) as answer:
                answer.read()
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False
