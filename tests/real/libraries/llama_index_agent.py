"""LlamaIndex."""

from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE, run
from llama_index.core.agent.workflow import FunctionAgent


def model():
    if WIRE == "ollama":
        from llama_index.llms.ollama import Ollama

        return Ollama(MODEL, base_url=PROXY, request_timeout=60)
    from llama_index.llms.openai_like import OpenAILike

    settings = {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(MODEL, api_base=f"{PROXY}/v1", api_key=KEY, **settings)


async def play():
    agent = FunctionAgent(tools=TOOLS, llm=model(), system_prompt=SYSTEM)
    return await agent.run(PROMPT)


run(play())
