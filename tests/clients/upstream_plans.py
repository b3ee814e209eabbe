"""What the scripted upstream says: the last message decides (see `script`), the same every time."""

import hashlib
import json

from upstream_rules import SAMPLING, Refusal, media_type

DIMENSIONS = 8
THOUGHT = "Let me think about it."


def resolved(schema, root):
    """The schema that a local `$ref` means."""
    reference = schema.get("$ref", "")
    if not reference.startswith("#/"):
        return schema
    found = root
    for name in reference[2:].split("/"):
        found = found[name]
    return found


def sample(schema, root=None):
    """The same small value for the same JSON schema, every time."""
    root = schema if root is None else root
    schema = resolved(schema, root)
    if "enum" in schema:
        return schema["enum"][0]
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return sample(schema[name][0], root)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: sample(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}), root)]
    return {"string": "text", "integer": 7, "number": 1.5, "boolean": True}.get(kind)


def pieces(text):
    """The text cut before each blank, so that the pieces join to the whole."""
    words = text.split(" ")
    return [words[0]] + [" " + word for word in words[1:]]


def text_of(message):
    """The text of a message, whether it is a string or in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class Plan:
    """What one answer will be: pieces of text, a pause before each, and how it ends.

    thinking  pieces of reasoning, sent before the text in the member `field`
    calls     tool calls as (name, arguments), sent after the text
    style     how calls are streamed: fragments, whole, noindex, object or mixed
    """

    def __init__(self, parts, pause=0.0, finish="stop", broken=None, **more):
        self.parts = parts
        self.pause = pause
        self.finish = finish
        self.broken = broken
        self.thinking = more.get("thinking", [])
        self.field = more.get("field", "reasoning_content")
        self.calls = more.get("calls", [])
        self.style = more.get("style", "fragments")
        if self.calls:
            self.finish = "tool_calls"

    def limited(self, limit):
        """The plan cut after so many pieces, as a token limit would."""
        if limit is not None and len(self.parts) > limit:
            self.parts = self.parts[:limit]
            self.finish = "length"
        return self

    def tokens(self):
        """How many pieces it took."""
        return len(self.parts) + len(self.thinking) + len(self.calls)

    def whole_calls(self):
        """The calls as a whole answer holds them."""
        return [call_of(index, *call, self.style) for index, call in enumerate(self.calls)]

    def call_deltas(self):
        """The calls as a stream holds them: a list of deltas, each a list of partial calls."""
        whole = [{"index": i, **call} for i, call in enumerate(self.whole_calls())]
        if self.style == "whole":
            return [whole]
        if self.style in ("noindex", "object"):
            for call in whole:
                del call["index"]
            return [[call] for call in whole]
        parts = [fragments(call) for call in whole]
        if self.style == "mixed":  # First all beginnings, then all second parts, and so on.
            longest = max(map(len, parts))
            return [[own[n]] for n in range(longest) for own in parts if n < len(own)]
        return [[part] for own in parts for part in own]


def call_of(index, name, arguments, style):
    """One tool call; some servers give the arguments as an object."""
    text = arguments if style == "object" else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    return {"id": f"call_scripted{index}", "type": "function", "function": function}


def fragments(call):
    """A call in pieces: the name with no arguments yet, then the arguments in threes."""
    text = call["function"]["arguments"]
    first = {**call, "function": {"name": call["function"]["name"], "arguments": ""}}
    step = max(len(text) // 3, 1)
    cut = [text[at : at + step] for at in range(0, len(text), step)]
    return [first] + [{"index": call["index"], "function": {"arguments": part}} for part in cut]


def script(prompt, body):
    """The plan for the last user message.

    echo: WORDS           those words, one piece each
    slow N [WORD]         N pieces WORD0, WORD1, ... 20 ms apart
    length                a text that a limit cut off
    empty                 no text at all
    error STATUS          an error with that status
    break mid             two pieces, then the connection ends without a terminal event
    fail mid              two pieces, then an error event
    think[:STYLE] WORDS   those words after a thought; STYLE: field, short (the member is called
                          `reasoning`), inline (<think> in the text), open (without the first tag)
    call[:STYLE] NAME {}  a call of that tool; for STYLE see `Plan`
    calls[:STYLE] N       N calls, of the offered tools in turn, with made-up arguments
    system?               the system messages
    params?               the sampling parameters that arrived, as JSON
    messages?             roles and texts of all messages, as JSON
    images?               the types of the images of the last user message, as JSON
    tools?                the definitions of the tools, as JSON
    anything else         "You said: " and the message
    """
    command, _, rest = prompt.strip(" \n").partition(" ")
    command, _, style = command.partition(":") if command != "echo:" else (command, "", "")
    if command in QUESTIONS:
        return Plan([QUESTIONS[command](body)])
    if command == "echo:":
        return Plan(pieces(rest))
    if command == "slow":
        count, _, word = rest.partition(" ")
        word = word or "n"
        return Plan(pieces(" ".join(f"{word}{i}" for i in range(int(count)))), pause=0.02)
    if command == "length":
        return Plan(["It", " was", " cut"], finish="length")
    if command == "empty":
        return Plan([])
    if command == "error":
        scripted_error(int(rest))
    if prompt in ("break mid", "fail mid"):
        return Plan(["Half", " an"], broken=command)
    if command == "think":
        return thinking_plan(pieces(rest), style)
    if command in ("call", "calls") and body.get("tools"):
        return Plan([], calls=wanted_calls(command, rest, body["tools"]), style=style or "fragments")
    return Plan(pieces("You said: " + prompt))


def systems(body):
    """The texts of the system messages."""
    return [text_of(m) for m in body.get("messages", []) if m["role"] == "system"]


def sampling(body):
    """The sampling parameters that arrived."""
    return {name: value for name, value in body.items() if name in SAMPLING}


def images(body):
    """The types of the media in the last user message."""
    users = [m for m in body["messages"] if m["role"] == "user"]
    parts = users[-1]["content"]
    kinds = []
    for part in parts if isinstance(parts, list) else []:
        if part["type"] == "image_url":
            kinds.append(media_type(part["image_url"]["url"]))
        elif part["type"] == "input_audio":
            kinds.append("audio/" + part["input_audio"]["format"])
    return kinds


QUESTIONS = {
    "system?": lambda body: " ".join(systems(body)),
    "params?": lambda body: json.dumps(sampling(body), sort_keys=True),
    "messages?": lambda body: json.dumps([[m["role"], text_of(m)] for m in body["messages"]]),
    "images?": lambda body: json.dumps(images(body)),
    "tools?": lambda body: json.dumps(body.get("tools", [])),
}


def thinking_plan(parts, style):
    """A response after reasoning, in one of the formats that servers use."""
    thought = pieces(THOUGHT)
    if style == "inline":
        return Plan(["<th", "ink>", *thought, "</thi", "nk>\n\n", *parts])
    if style == "open":
        return Plan([*thought, "\n</th", "ink>\n\n", *parts])
    field = "reasoning" if style == "short" else "reasoning_content"
    return Plan(parts, thinking=thought, field=field)


def wanted_calls(command, rest, tools):
    """The calls that the message asks for, of tools that are there."""
    known = {tool["function"]["name"]: tool["function"] for tool in tools}
    if command == "call":
        name, _, arguments = rest.partition(" ")
        if name not in known:
            raise Refusal(400, f"There is no tool {name!r}.")
        return [(name, json.loads(arguments or "{}"))]
    names = list(known)
    calls = []
    for number in range(int(rest)):
        name = names[number % len(names)]
        arguments = sample(known[name].get("parameters", {"type": "object"}))
        calls.append((name, numbered(arguments, number)))
    return calls


def numbered(arguments, number):
    """The arguments with every integer replaced, so that two calls of one tool differ."""
    is_int = {name: type(value) is int for name, value in arguments.items()}
    return {name: number if is_int[name] else value for name, value in arguments.items()}


def results(messages):
    """The calls of the last assistant turn and what came back for each, linked by id alone."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    answers = {m["tool_call_id"]: text_of(m) for m in messages[last + 1 :]}
    lines = []
    for call in messages[last]["tool_calls"]:
        function = call["function"]
        arguments = json.dumps(json.loads(function["arguments"]))  # However it was spelt.
        lines.append(f"{function['name']}({arguments}) = {answers[call['id']]}")
    return Plan(pieces("; ".join(lines)))


def scripted_error(status):
    """Refuse with this status and the text of the real service."""
    known = {
        400: ("The request was refused on purpose.", "invalid_request_error", None),
        401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
        429: ("Rate limit reached for scripted-1.", "requests", "rate_limit_exceeded"),
    }
    text, kind, code = known.get(status, ("The server had an error.", "server_error", None))
    raise Refusal(status, text, code=code, kind=kind)


def chat_plan(body):
    """The answer to a chat request."""
    limit = body.get("max_tokens", body.get("max_completion_tokens"))
    if body["messages"][-1]["role"] == "tool":
        return results(body["messages"]).limited(limit)
    users = [m for m in body["messages"] if m["role"] == "user"]
    prompt = text_of(users[-1]) if users else ""
    wanted = body.get("response_format", {"type": "text"})
    if wanted["type"] == "json_object" and not prompt.startswith("error"):
        return Plan(['{"ok"', ": true}"]).limited(limit)
    if wanted["type"] == "json_schema":
        return Plan(pieces(json.dumps(sample(wanted["json_schema"]["schema"])))).limited(limit)
    return script(prompt, body).limited(limit)


def completion_plan(body):
    """The response to a text completion; with a suffix it contains prompt and suffix."""
    if "suffix" in body:
        plan = Plan(pieces(f"between [{body['prompt']}] and [{body['suffix']}]"))
    else:
        plan = script(body["prompt"].split("\n")[-1], body)
    # Without a limit the real endpoint stops after 16 tokens.
    return plan.limited(body.get("max_tokens", 16))


def logprobs(parts, count):
    """The member `logprobs` of a chat choice for those pieces, with so many alternatives."""
    content = []
    for part in parts:
        first = {"token": part, "logprob": -0.25, "bytes": list(part.encode())}
        others = [
            {"token": f"{part}{rank}", "logprob": -rank - 0.5, "bytes": list(f"{part}{rank}".encode())}
            for rank in range(1, count)
        ]
        content.append({**first, "top_logprobs": ([first] + others)[:count]})
    return {"content": content, "refusal": None}


def vector(text):
    """Eight numbers made from the text; deliberately not of unit length."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(byte - 128) / 16 for byte in digest[:DIMENSIONS]]


def words_in(texts):
    """The number of words, which this upstream counts as tokens."""
    return sum(len(text.split()) for text in texts)
