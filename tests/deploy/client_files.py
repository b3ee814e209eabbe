"""The files of scripts/clients are well formed, agree with the README and reach the proxy.

Usage: client_files.py BINARY (needs PyYAML, which the clients' packages bring along)
"""

import http.client
import json
import os
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path

from harness import PATIENCE, Programs, Upstream, require, run

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = ROOT / "scripts" / "clients"
README = (ROOT / "README.md").read_text()
PORT = 11434
MODEL = "m"  # The one that the upstream of the harness has.
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": False}


def yaml_of(name):
    try:
        import yaml
    except ImportError as error:
        raise AssertionError(f"PyYAML is missing: {error}") from error
    return yaml.safe_load((SHIPPED / name).read_text())


def environment_of(name):
    """The variables that a file of shell assignments sets."""
    command = ["sh", "-euc", '. "$1" && env -0', "sh", str(SHIPPED / name)]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    require(done.returncode == 0 and not done.stderr, done.stderr)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)


def named(*words):
    for word in words:
        require(f"`{word}`" in README, f"the README does not name `{word}`")


def asked(proxy, base, path, body=None):
    """Asks the proxy for a path below a base URL of a file; host and port are those of the test."""
    parts = urllib.parse.urlsplit(base)
    require((parts.scheme, parts.port) == ("http", PORT), f"{base} is not the default address")
    connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=PATIENCE)
    try:
        method = "POST" if body else "GET"
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        text = json.dumps(body) if body else None
        connection.request(method, parts.path.rstrip("/") + path, text, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        require(answer.status == 200, f"{method} {base}{path}: {answer.status} {text}")
        return json.loads(text)
    finally:
        connection.close()


def lists_by_ollama(proxy, base):
    models = asked(proxy, base, "/api/tags")["models"]
    require([model["name"] for model in models] == [f"{MODEL}:latest"], f"{models}")


def lists_by_openai(proxy, base):
    models = asked(proxy, base, "/models")["data"]
    require([model["id"] for model in models] == [MODEL], f"{models}")


def open_webui(proxy):
    services = yaml_of("open-webui.compose.yaml")["services"]
    base = services["open-webui"]["environment"]["OLLAMA_BASE_URL"]
    require(urllib.parse.urlsplit(base).hostname in services, f"{base} is no service")
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    require(services["proxy"]["image"] == f"ollama-openai-proxy:{version}", "another image than the package's")
    named("OLLAMA_BASE_URL", *services["proxy"]["environment"])
    lists_by_ollama(proxy, base)


def codex(proxy):
    config = tomllib.loads((SHIPPED / "codex.config.toml").read_text())
    provider = config["model_providers"][config["model_provider"]]
    require(provider["wire_api"] == "responses", provider["wire_api"])
    named("model_providers")
    lists_by_openai(proxy, provider["base_url"])


def opencode(proxy):
    config = json.loads((SHIPPED / "opencode.json").read_text())
    (provider,) = config["provider"].values()
    require(provider["models"], "no models")
    lists_by_openai(proxy, provider["options"]["baseURL"])


def continue_(proxy):
    (model,) = yaml_of("continue.yaml")["models"]
    require(model["provider"] == "ollama", model["provider"])
    named("apiBase")
    lists_by_ollama(proxy, model["apiBase"])


def claude_code(proxy):
    found = environment_of("claude-code.env")
    require(found["ANTHROPIC_AUTH_TOKEN"] and not found["ANTHROPIC_API_KEY"], f"{found}")
    named("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN")
    asked(proxy, found["ANTHROPIC_BASE_URL"], "/v1/messages/count_tokens?beta=true", HELLO)


def litellm(proxy):
    (model,) = yaml_of("litellm.yaml")["model_list"]
    settings = model["litellm_params"]
    require(settings["model"] == f"openai/{model['model_name']}" and settings["api_key"], f"{model}")
    named("api_base", "openai/MODEL")
    lists_by_openai(proxy, settings["api_base"])


def aider(proxy):
    config = yaml_of("aider.conf.yml")
    for name in ("model", "weak-model"):
        require(config[name].startswith("openai/"), config[name])
    variables = dict(setting.split("=", 1) for setting in config["set-env"])
    named(*variables)
    lists_by_openai(proxy, variables["OPENAI_API_BASE"])


def goose(proxy):
    config = yaml_of("goose.yaml")
    require(config["GOOSE_PROVIDER"] == "ollama" and config["GOOSE_MODEL"], f"{config}")
    named("GOOSE_PROVIDER", "OLLAMA_HOST")
    lists_by_ollama(proxy, config["OLLAMA_HOST"])
    # It talks to the OpenAI-compatible routes of the same server.
    lists_by_openai(proxy, config["OLLAMA_HOST"] + "/v1")


FILES = {
    "litellm.yaml": litellm,
    "aider.conf.yml": aider,
    "goose.yaml": goose,
    "open-webui.compose.yaml": open_webui,
    "codex.config.toml": codex,
    "opencode.json": opencode,
    "continue.yaml": continue_,
    "claude-code.env": claude_code,
}


def all_are_known():
    """Every file is checked here, and the README leads to it."""
    found = {path.name for path in SHIPPED.iterdir()}
    require(found == set(FILES), f"{found ^ set(FILES)}")
    for name in FILES:
        require(f"(scripts/clients/{name})" in README, f"the README has no link to {name}")


def main():
    binary = os.path.abspath(sys.argv[1])
    with Programs() as programs:
        _, proxy = programs.proxy(binary, Upstream(lambda text: []).base)
        checks = [("the list of files", all_are_known)]
        checks += [(name, lambda check=check: check(proxy)) for name, check in FILES.items()]
        run(checks)


if __name__ == "__main__":
    main()
