"""CrewAI."""

from crewai import LLM, Agent
from crewai.tools import tool
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE

if WIRE == "ollama":
    llm = LLM(model=f"ollama/{MODEL}", base_url=PROXY, stream=True)
else:
    llm = LLM(model=f"openai/{MODEL}", base_url=f"{PROXY}/v1", api_key=KEY)
agent = Agent(role="coder", goal="files", backstory=SYSTEM, llm=llm, tools=[tool(each) for each in TOOLS])
print(agent.kickoff(PROMPT).raw, flush=True)
