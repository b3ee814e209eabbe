"""strands-agents."""

from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE
from strands import Agent, tool


def model():
    if WIRE == "ollama":
        from strands.models.ollama import OllamaModel

        return OllamaModel(PROXY, model_id=MODEL)
    if WIRE == "anthropic":
        from strands.models.anthropic import AnthropicModel

        return AnthropicModel(
            client_args={"base_url": PROXY, "api_key": KEY}, model_id=MODEL, max_tokens=4096
        )
    from strands.models.openai import OpenAIModel

    return OpenAIModel(client_args={"base_url": f"{PROXY}/v1", "api_key": KEY}, model_id=MODEL)


agent = Agent(model=model(), system_prompt=SYSTEM, tools=[tool(each) for each in TOOLS])
print(agent(PROMPT), flush=True)
