"""Agno."""

import sys

from agno.agent import Agent
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE


def model():
    if WIRE == "ollama":
        from agno.models.ollama import Ollama

        return Ollama(id=MODEL, host=PROXY)
    if WIRE == "anthropic":
        from agno.models.anthropic import Claude

        return Claude(id=MODEL, api_key=KEY, client_params={"base_url": PROXY})
    from agno.models.openai import OpenAIChat, OpenAIResponses

    kind = OpenAIResponses if WIRE == "responses" else OpenAIChat
    return kind(id=MODEL, base_url=f"{PROXY}/v1", api_key=KEY)


agent = Agent(model=model(), tools=TOOLS, instructions=SYSTEM, telemetry=False)
for event in agent.run(PROMPT, stream=True):
    if event.event == "RunError":
        sys.exit(event.content)
    if event.event == "RunContent":
        print(event.content or "", end="", flush=True)
print()
