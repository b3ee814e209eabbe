"""Haystack."""

from given import MODEL, PROMPT, PROXY, SYSTEM, TOOLS
from haystack.components.agents import Agent
from haystack.components.generators.utils import print_streaming_chunk
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack_integrations.components.generators.ollama import OllamaChatGenerator

generator = OllamaChatGenerator(model=MODEL, url=PROXY)
tools = [create_tool_from_function(tool) for tool in TOOLS]
agent = Agent(chat_generator=generator, tools=tools, system_prompt=SYSTEM)
answer = agent.run(messages=[ChatMessage.from_user(PROMPT)], streaming_callback=print_streaming_chunk)
print(answer["messages"][-1].text, flush=True)
