"""Libraries that agents are built with: each plays the session with a script of the folder libraries."""

import shutil
from pathlib import Path

from agent_programs import node_of
from agents import Agent

SCRIPTS = Path(__file__).resolve().parent / "libraries"


class Library(Agent):
    """A library; `wires` are its clients, one for each protocol.

    None of them shortens a history, and where an answer breaks off, most leave it to the user to begin
    again: the script, which must have failed then, runs once more.
    """

    package = ""
    script = ""
    wires = ("",)
    wire = ""
    tasks = ("work", "break")

    def play(self, session):
        settings = {"PROXY": session.proxy, "MODEL": session.model, "PROMPT": session.prompt}
        command = [*self.command(session), self.wire]
        status, output = session.run(command, **settings, **QUIET)
        if status != 0 and session.kind == "break":
            status, output = session.run(command, **settings, **QUIET)
        assert status == 0, f"status {status}: {output[-600:]}"
        return output

    def command(self, session):
        return [session.packages[self.package] / "bin/python", SCRIPTS / self.script]


class JavaScript(Library):
    """A library for JavaScript: the script stands beside its packages, where Node.js looks for them."""

    def command(self, session):
        for file in SCRIPTS.glob("*.mjs"):
            shutil.copy(file, session.home)
        (session.home / "node_modules").symlink_to(session.packages[self.package] / "node_modules")
        return [*node_of(session), session.home / self.script]


QUIET = {
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "AGNO_TELEMETRY": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
# Names of environments, of scripts, and the clients of each.
PYTHON = {
    "anthropic": ("anthropic_runner.py", ("whole", "stream")),
    "strands": ("strands_agent.py", ("ollama", "openai", "anthropic")),
    "openai-agents": ("openai_agents.py", ("chat", "responses")),
    "pydantic-ai": ("pydantic_agent.py", ("ollama", "responses", "anthropic")),
    "langgraph": ("langgraph_agent.py", ("ollama", "openai", "responses", "anthropic")),
    "smolagents": ("smolagents_agent.py", ("ollama", "openai")),
    "llama-index": ("llama_index_agent.py", ("ollama", "openai")),
    "autogen": ("autogen_agent.py", ("ollama", "openai")),
    "agno": ("agno_agent.py", ("ollama", "openai", "responses", "anthropic")),
    "crewai": ("crewai_agent.py", ("ollama", "openai")),
    "google-adk": ("google_adk_agent.py", ("ollama",)),
    "agent-framework": ("agent_framework_agent.py", ("ollama", "openai", "responses")),
}
# LlamaIndex mixes up calls whose pieces come in turn; Agno and Microsoft's framework take a failed response
# for a finished one.
LEAVES = {
    "llama-index, openai": (("templates", "work"),),
    "agno, responses": (("openai", "break"), ("templates", "break")),
    "agent-framework, responses": (("openai", "break"), ("templates", "break")),
}
JAVASCRIPT = {
    "ai-sdk": (
        "ai_sdk.mjs",
        ("openai", "responses", "responses-whole", "anthropic", "anthropic-whole", "compatible", "ollama"),
    ),
    "anthropic-js": ("anthropic_runner.mjs", ("whole", "stream")),
    "tanstack": ("tanstack_ai.mjs", ("ollama",)),
}


def libraries(table, kind):
    """An agent for each client of each library."""
    for package, (script, wires) in table.items():
        for wire in wires:
            agent = kind()
            agent.name, agent.package, agent.script, agent.wire = f"{package}, {wire}", package, script, wire
            agent.leaves = LEAVES.get(agent.name, ())
            yield agent


LIBRARIES = [*libraries(PYTHON, Library), *libraries(JAVASCRIPT, JavaScript)]
