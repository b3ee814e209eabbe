"""llama.cpp with chat templates and tools that it refuses, behind the proxy and behind LiteLLM.

Each case has a server of its own. A conversation that the server refuses goes over three routes, each
with a proxy that has learnt nothing: the response must be a success with words in it, and the second
request must cost one attempt.
"""

import dataclasses
import json
import re
import subprocess
import time
from dataclasses import dataclass, field

from harness import HERE, Api, Failure, Subject
from run import Programs
from servers import LITELLM_KEY, start_litellm

OLLAMA, OPENAI, ANTHROPIC = "/api/chat", "/v1/chat/completions", "/v1/messages"
ROUTES = (OLLAMA, OPENAI, ANTHROPIC)
MODEL = "smollm2:135m"
LOCAL_MODEL = HERE.parent.parent / "scripts" / "local-model"
WORDS = 8  # Tokens of a response, so that a slow machine is quick enough.

CHATML = """\
{%- if tools %}
{{- '<|im_start|>system\\nFunctions:\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{{- '<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}%THINK{%- endif %}
"""
# As the Qwen family opens its reasoning.
THINK = "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}"
THINK += "{%- else %}{{- '<think>\\n' }}{%- endif %}"


def each(condition, text):
    """The rule of a template that refuses a message, in words of its own."""
    raised = "{{- raise_exception(" + json.dumps(text) + ") }}"
    rule = "{%- if " + condition + " %}" + raised + "{%- endif %}"
    return "{%- for message in messages %}" + rule + "{%- endfor %}"


LATE_SYSTEM = "message.role == 'system' and not loop.first"
# Gemma's and Mistral's templates count the same way.
ALTERNATE = """\
{%- set turns = namespace(count=0) %}
{%- for message in messages %}{%- if message.role != 'system' %}
{%- if (message.role == 'user') != (turns.count % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}{%- set turns.count = turns.count + 1 %}{%- endif %}{%- endfor %}
"""
NO_USER = """\
{%- if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}
{{- raise_exception('No user query found in messages.') }}{%- endif %}
"""
USER_AFTER_TOOL = "message.role == 'user' and not loop.first and loop.previtem.role == 'tool'"


def said(role, text):
    return {"role": role, "content": text}


def called(call_id):
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def returned(call_id):
    return {"role": "tool", "tool_call_id": call_id, "content": "22 degrees"}


def tool(city):
    """A tool with a schema of its argument."""
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    return {"type": "function", "function": {"name": "weather", "parameters": parameters}}


ID = "toolu_01A09q90qw90lq917835lq9"
CITY = tool({"type": "string"})
LATE = [said("system", "Be brief."), said("user", "Hi."), said("assistant", "Hello.")]
LATE += [said("system", "Answer in English."), said("user", "Name a colour.")]
TWICE = [said("system", "Be brief."), said("user", "Here is a text."), said("user", "Name a colour.")]
LOOP = [said("user", "The weather in Paris?"), called(ID), returned(ID)]
BEGUN = said("assistant", "My three colours are red,")
LONG = [said("system", "Be brief.")]
for number in range(24):
    LONG += [said("user", f"Question {number}: what is {number} and {number} and one more?")]
    LONG += [said("assistant", f"It is {2 * number + 1}, as I said before.")]
LONG += [said("user", "Name a colour.")]


@dataclass
class Case:
    """A server and a conversation that it refuses.

    rule         what its chat template refuses
    routes       those that send the conversation in the form that is refused
    is_refused   false: other versions refuse it, this one does not
    final        the routes whose clients get the refusal
    """

    name: str
    rule: str
    messages: list
    tools: list = field(default_factory=list)
    routes: tuple = ROUTES
    is_refused: bool = True
    final: tuple = ()
    context: int = 1024
    think: bool = False


CASES = [
    Case("late-system", each(LATE_SYSTEM, "System message must be at the beginning."), LATE),
    Case("alternate", ALTERNATE, TWICE),
    Case("no-user", NO_USER, [said("system", "Be brief."), *LOOP[1:]], [CITY]),
    Case(
        "user-after-tool",
        each(USER_AFTER_TOOL, "Unexpected role 'user' after role 'tool'"),
        [*LOOP, said("user", "And now?")],
        [CITY],
    ),
    Case(
        "call-ids",
        each(
            "message.tool_call_id is defined and message.tool_call_id | length != 9",
            "Tool call IDs should be alphanumeric strings with length 9!",
        ),
        LOOP,
        [CITY],
    ),
    Case(
        "reasoning-back",
        each(
            # The name, because llama.cpp tries a template out with calls of other functions.
            "message.tool_calls and not message.reasoning_content"
            " and message.tool_calls[0].function.name == 'weather'",
            "The reasoning_content in the thinking mode must be passed back to the API.",
        ),
        LOOP,
        [CITY],
    ),
    Case(
        "empty-turn",
        each(
            "message.role == 'assistant' and not message.content and not message.tool_calls",
            "Assistant message must have either content or tool_calls, but not none.",
        ),
        [said("user", "Hi."), said("assistant", ""), said("user", "Name a colour.")],
        routes=(OPENAI,),
    ),
    Case("new-words", each(LATE_SYSTEM, "Nope, put that elsewhere."), LATE),
    Case("schema-reference", "", LOOP[:1], [tool({"$ref": "#/$defs/City"})]),
    Case("schema-type", "", LOOP[:1], [tool({"type": "city"})]),
    Case("prefill", "", [said("user", "Name three colours."), BEGUN], think=True, is_refused=False),
    Case("context", "", LONG, final=(OPENAI, ANTHROPIC), context=256),
]


def ollama_message(message):
    message = dict(message)
    if "tool_calls" in message:
        calls = [dict(call["function"]) for call in message["tool_calls"]]
        for call in calls:
            call["arguments"] = json.loads(call["arguments"])
        ids = [call["id"] for call in message["tool_calls"]]
        message["tool_calls"] = [{"id": i, "function": call} for i, call in zip(ids, calls)]
    return message


def anthropic_message(message):
    if message["role"] == "tool":
        block = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        return {"role": "user", "content": [{**block, "content": message["content"]}]}
    blocks = [{"type": "text", "text": message["content"]}] if message["content"] else []
    for call in message.get("tool_calls", []):
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
    return {"role": message["role"], "content": blocks}


def anthropic_tool(one):
    function = one["function"]
    return {"name": function["name"], "input_schema": function["parameters"]}


def body(route, model, messages, tools):
    """A conversation in the form of a route."""
    if route == OLLAMA:
        found = {"messages": [ollama_message(message) for message in messages], "tools": tools}
        found["options"] = {"num_predict": WORDS, "temperature": 0}
    elif route == OPENAI:
        found = {"messages": messages, "max_tokens": WORDS, "temperature": 0}
        found.update({"tools": tools} if tools else {})
    else:
        first = messages[0] if messages[0]["role"] == "system" else None
        rest = messages[1:] if first else messages
        found = {"messages": [anthropic_message(message) for message in rest]}
        found.update({"system": first["content"]} if first else {})
        found.update({"tools": [anthropic_tool(one) for one in tools]} if tools else {})
        found.update(max_tokens=WORDS, temperature=0)
    return {"model": model, "stream": False, **found}


def words(route, answer):
    """The text and the calls of a response."""
    if route == ANTHROPIC:
        blocks = answer["content"]
        return "".join(block.get("text", "") for block in blocks), blocks
    message = answer["message"] if route == OLLAMA else answer["choices"][0]["message"]
    return message["content"], message.get("tool_calls")


class Checks:
    """One case over one upstream."""

    def __init__(self, context, case, upstream, model, key=None):
        self.context = context
        self.case = case
        self.upstream = upstream
        self.model = model
        self.key = key

    def attempts(self, log, route, count):
        """The attempts of each request over a route, as the proxy's log tells them."""
        line = re.compile(rf'POST "{re.escape(route)}" .* attempts=(\d+) ')
        end = time.monotonic() + 10
        while time.monotonic() < end:  # The line is written behind the response.
            found = line.findall(self.context.log_file(log).read_text())
            if len(found) >= count:
                return [int(number) for number in found]
            time.sleep(0.05)
        raise AssertionError(f"the log has no {count} lines of {route}")

    def run(self, route):
        """Two requests over one route to a proxy of its own."""
        log = f"{self.case.name}{route.replace('/', '-')}"
        with Programs() as programs:
            context = dataclasses.replace(self.context, programs=programs)
            api = Api(context.proxy(self.upstream, self.key, log=log))
            request = body(route, self.model, self.case.messages, self.case.tools)
            answers = [api.post(route, request) for _ in range(2)]
            attempts = self.attempts(log, route, 2)
        if route in self.case.final:
            assert [answer.status for answer in answers] == [400, 400], answers
            assert attempts == [1, 1], (attempts, answers)
            # The words by which Anthropic's clients know that they must shorten the conversation.
            assert route != ANTHROPIC or "prompt is too long" in answers[0].text, answers
            return
        for answer in answers:
            text, calls = words(route, answer.ok().json())
            assert text or calls, answer
            if route != OPENAI:  # As Ollama and Anthropic, which return only what is new.
                assert not text.startswith(BEGUN["content"]), answer
        assert (attempts[0] > 1) == self.case.is_refused, (attempts, answers)
        assert attempts[1] == 1, (attempts, answers)


def start_server(context, case):
    """llama.cpp's server for a case; its address."""
    command = [context.python("local-model"), LOCAL_MODEL, "--quiet", "--context", case.context]
    command += ["--threads", 1]  # Two that wait for each other are slow on a busy machine.
    file = context.folder / f"{case.name}.jinja"
    file.write_text(case.rule + CHATML.replace("%THINK", THINK if case.think else ""))
    log = open(context.log_file(f"{case.name}-server"), "wb")
    program = context.start(
        [*command, "--chat-template", file],
        f"{case.name}-start",
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    line = program.stdout.readline().strip()
    if not line:
        raise Failure(f"no server: {context.tail(f'{case.name}-server')}")
    return line.removesuffix("/v1")


def check_case(context, case, upstream, model, key=None):
    """All routes of one case."""
    checks = Checks(context, case, upstream, model, key)
    for route in case.routes:
        end = "the refusal goes back" if route in case.final else "is answered"
        context.report.check(f"{case.name}, {route}: {end}", checks.run, route)


def llamacpp(context):
    """llama.cpp behind the proxy, one case after the other."""
    for case in CASES:
        with Programs() as programs:
            inner = dataclasses.replace(context, programs=programs)
            check_case(inner, case, start_server(inner, case), MODEL)


def litellm(context):
    """LiteLLM's proxy between the proxy and all of these servers."""
    models = []
    for case in CASES:
        access = {"api_base": f"{start_server(context, case)}/v1", "api_key": "any"}
        models.append(
            {
                "model_name": case.name,
                "litellm_params": {"model": f"openai/{MODEL}", **access},
                "model_info": {"mode": "chat", "supports_function_calling": True},
            }
        )
    url = start_litellm(context, models)
    for case in CASES:
        check_case(context, case, url, case.name, LITELLM_KEY)


SUBJECTS = {
    "llamacpp-refusals": Subject("llama.cpp, refusals", llamacpp, python=["local-model"]),
    "litellm-refusals": Subject(
        "the same behind LiteLLM's proxy", litellm, python=["local-model", "litellm"]
    ),
}
