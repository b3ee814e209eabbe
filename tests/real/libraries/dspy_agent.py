"""DSPy with native calls of tools."""

import dspy
from given import MODEL, PROMPT, PROXY, TOOLS

dspy.configure(lm=dspy.LM(f"ollama_chat/{MODEL}", api_base=PROXY, api_key="ollama"))
agent = dspy.ReAct("task -> answer", tools=TOOLS, max_iters=20)
print(agent(task=PROMPT).answer, flush=True)
