"""The coding agents, and the libraries that agents are built with, in front of the proxy."""

import agents
from agent_libraries import LIBRARIES
from agent_programs import PROGRAMS
from harness import Subject

# Each name: what it is, and the environments of Python and npm that it needs.
NAMES = {
    "claude-code": ("Claude Code", [], ["agents"]),
    "codex": ("Codex", [], ["agents"]),
    "opencode": ("OpenCode", [], ["opencode"]),
    "copilot": ("Copilot CLI", [], ["copilot"]),
    "qwen": ("Qwen Code", ["node"], ["qwen"]),
    "pi": ("Pi", ["node"], ["pi"]),
    "kimi": ("Kimi Code", ["node"], ["kimi"]),
    "droid": ("Droid", [], ["droid"]),
    "continue": ("Continue's command line", ["node"], ["continue"]),
    "kilo": ("Kilo Code's command line", [], ["kilo"]),
    "cline": ("Cline's command line", [], ["cline"]),
    "aider": ("Aider, which edits by words instead of tools", ["aider"], []),
    "anthropic": ("the tool runner of Anthropic's SDK for Python", ["anthropic"], []),
    "anthropic-js": ("the tool runner of Anthropic's SDK for JavaScript", ["node"], ["anthropic-js"]),
    "ai-sdk": ("Vercel's AI SDK with the provider of each protocol", ["node"], ["ai-sdk"]),
    "tanstack": ("TanStack AI", ["node"], ["tanstack"]),
    "strands": ("strands-agents", ["strands"], []),
    "openai-agents": ("OpenAI's agents SDK", ["openai-agents"], []),
    "pydantic-ai": ("Pydantic AI", ["pydantic-ai"], []),
    "langgraph": ("LangChain's agent, which is a LangGraph", ["langgraph"], []),
    "smolagents": ("smolagents", ["smolagents"], []),
    "llama-index": ("LlamaIndex's agent", ["llama-index"], []),
    "autogen": ("AutoGen", ["autogen"], []),
    "agno": ("Agno", ["agno"], []),
    "crewai": ("CrewAI", ["crewai"], []),
    "google-adk": ("Google's agent development kit", ["google-adk"], []),
    "agent-framework": ("Microsoft's agent framework", ["agent-framework"], []),
}
ALL = [*agents.AGENTS, *(agent() for agent in PROGRAMS), *LIBRARIES]


def run(context):
    """Play the sessions of all variants of one agent."""
    logs = context.cache / "logs" / context.name
    runner = agents.Runner(context.programs, context.binary, context.environments, logs, context.report.check)
    for agent in ALL:
        if agent.name.split(",")[0].split(" ")[0] == context.name:
            runner.play(agent)


SUBJECTS = {name: Subject(what, run, python, npm) for name, (what, python, npm) in NAMES.items()}
