"""OpenAI's agents SDK."""

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE, run
from openai import AsyncOpenAI


async def play():
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{PROXY}/v1", api_key=KEY)
    kind = OpenAIChatCompletionsModel if WIRE == "chat" else OpenAIResponsesModel
    model = kind(model=MODEL, openai_client=client)
    tools = [function_tool(tool) for tool in TOOLS]
    agent = Agent(name="coder", instructions=SYSTEM, model=model, tools=tools)
    streamed = Runner.run_streamed(agent, PROMPT, max_turns=20)
    async for _ in streamed.stream_events():
        pass
    return streamed.final_output


run(play())
