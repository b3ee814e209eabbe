"""AutoGen."""

from autogen_agentchat.agents import AssistantAgent
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE, run


def client():
    info = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown"}
    info["structured_output"] = True
    if WIRE == "ollama":
        from autogen_ext.models.ollama import OllamaChatCompletionClient

        return OllamaChatCompletionClient(model=MODEL, host=PROXY, model_info=info)
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    return OpenAIChatCompletionClient(model=MODEL, base_url=f"{PROXY}/v1", api_key=KEY, model_info=info)


async def play():
    agent = AssistantAgent(
        "coder", client(), tools=TOOLS, system_message=SYSTEM, max_tool_iterations=20,
        model_client_stream=True,
    )  # fmt: skip
    return (await agent.run(task=PROMPT)).messages[-1].to_text()


run(play())
