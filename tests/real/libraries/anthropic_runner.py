"""The tool runner of Anthropic's SDK for Python."""

import anthropic
from anthropic import beta_tool
from given import KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE

client = anthropic.Anthropic(base_url=PROXY, api_key=KEY)
runner = client.beta.messages.tool_runner(
    model=MODEL,
    max_tokens=20_000,
    system=SYSTEM,
    messages=[{"role": "user", "content": PROMPT}],
    tools=[beta_tool(tool) for tool in TOOLS],
    **({"stream": True} if WIRE == "stream" else {}),
    **({"thinking": {"type": "enabled", "budget_tokens": 2048}} if WIRE == "stream" else {}),
)
for message in runner:
    if WIRE == "stream":
        message = message.get_final_message()
    print("".join(block.text for block in message.content if block.type == "text"), flush=True)
