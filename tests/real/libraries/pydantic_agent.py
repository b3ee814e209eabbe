"""Pydantic AI."""

from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE, run
from pydantic_ai import Agent


def model():
    if WIRE == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client = AsyncAnthropic(base_url=PROXY, api_key=KEY)
        return AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client))
    if WIRE == "responses":
        from pydantic_ai.models.openai import OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{PROXY}/v1", api_key=KEY))
    from pydantic_ai.models.ollama import OllamaModel
    from pydantic_ai.providers.ollama import OllamaProvider

    return OllamaModel(MODEL, provider=OllamaProvider(base_url=f"{PROXY}/v1"))


async def play():
    agent = Agent(model(), instructions=SYSTEM, tools=TOOLS)

    async def stream(_, events):
        async for _ in events:
            pass

    return (await agent.run(PROMPT, event_stream_handler=stream)).output


run(play())
