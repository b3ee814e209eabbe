"""Hugging Face's smolagents, whose final answer is a tool."""

from given import KEY, MODEL, PROMPT, PROXY, TOOLS, WIRE
from smolagents import LiteLLMModel, OpenAIModel, ToolCallingAgent, tool

if WIRE == "ollama":
    model = LiteLLMModel(f"ollama_chat/{MODEL}", api_base=PROXY, num_ctx=8192)
else:
    model = OpenAIModel(MODEL, api_base=f"{PROXY}/v1", api_key=KEY)
agent = ToolCallingAgent([tool(each) for each in TOOLS], model, max_steps=20)
print(agent.run(PROMPT), flush=True)
