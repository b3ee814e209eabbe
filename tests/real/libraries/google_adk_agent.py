"""Google's agent development kit, over LiteLLM."""

from given import MODEL, PROMPT, PROXY, SYSTEM, TOOLS, run
from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types


async def play():
    model = LiteLlm(f"ollama_chat/{MODEL}", api_base=PROXY)
    agent = LlmAgent(name="coder", model=model, instruction=SYSTEM, tools=TOOLS)
    runner = InMemoryRunner(agent, app_name="test")
    session = await runner.session_service.create_session(app_name="test", user_id="user")
    message = types.Content(role="user", parts=[types.Part(text=PROMPT)])
    settings = RunConfig(streaming_mode=StreamingMode.SSE)
    text = ""
    async for event in runner.run_async(
        user_id="user", session_id=session.id, new_message=message, run_config=settings
    ):
        if event.is_final_response() and event.content:
            text = "".join(part.text or "" for part in event.content.parts)
    return text


run(play())
