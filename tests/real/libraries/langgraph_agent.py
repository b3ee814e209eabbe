"""LangChain's agent, which is a LangGraph."""

from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE
from langchain.agents import create_agent


def model():
    if WIRE == "ollama":
        from langchain_ollama import ChatOllama

        return ChatOllama(model=MODEL, base_url=PROXY)
    if WIRE == "anthropic":
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(model=MODEL, base_url=PROXY, api_key=KEY, max_tokens=4096)
    from langchain_openai import ChatOpenAI

    responses = WIRE == "responses"
    return ChatOpenAI(model=MODEL, base_url=f"{PROXY}/v1", api_key=KEY, use_responses_api=responses)


agent = create_agent(model(), TOOLS, system_prompt=SYSTEM)
*_, state = agent.stream({"messages": [("user", PROMPT)]}, stream_mode="values")
print(state["messages"][-1].text, flush=True)
