"""Microsoft's agent framework."""

from agent_framework import Agent
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE, run


def client():
    if WIRE == "ollama":
        from agent_framework_ollama import OllamaChatClient

        return OllamaChatClient(host=PROXY, model=MODEL)
    from agent_framework_openai import OpenAIChatClient, OpenAIChatCompletionClient

    kind = OpenAIChatClient if WIRE == "responses" else OpenAIChatCompletionClient
    return kind(model=MODEL, base_url=f"{PROXY}/v1", api_key=KEY)


async def play():
    agent = Agent(client(), instructions=SYSTEM, tools=TOOLS)
    text = ""
    async for update in agent.run(PROMPT, stream=True):
        text += update.text
    return text


run(play())
