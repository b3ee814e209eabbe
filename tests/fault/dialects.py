"""The ways to ask the proxy for an answer, and how to read each one's answer.

A *dialect* builds a request from a spec and turns the answer's body into a `Reading`: the text,
the counts, whether the protocol says that it is complete, and the error if it says one.
"""

import collections
import json

import spec as specs

Reading = collections.namedtuple("Reading", "text done error counts")
Dialect = collections.namedtuple("Dialect", "name path build read")


def lines(body):
    """The JSON objects of a body of lines; a last line that is not whole is left out."""
    found = []
    for line in body.split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def events(body):
    """The data of a body of events, and whether it came to its end: `[DONE]`, or a reason to finish,
    since some servers leave the mark out and only the rest of the counts can be missing then."""
    found, done = [], False
    for block in body.decode("utf-8", "replace").split("\n\n"):
        data = [line[5:].strip() for line in block.split("\n") if line.startswith("data:")]
        if data == ["[DONE]"]:
            done = True
        elif data:
            try:
                found.append(json.loads("\n".join(data)))
            except ValueError:
                continue
            if isinstance(found[-1], dict):
                choices = found[-1].get("choices") or []
                done = done or any(choice.get("finish_reason") for choice in choices)
    return found, done


def messages(spec):
    return [{"role": "user", "content": specs.prompt(spec)}]


def counted(first, second):
    return None if first is None and second is None else (first or 0, second or 0)


def ollama(member):
    """A reader of Ollama's lines, one or many, with the text below `member`."""

    def read(body):
        text, done, error, counts = "", False, None, None
        for line in lines(body):
            error = line.get("error", error)
            part = line.get(member) or ""
            text += part.get("content", "") if isinstance(part, dict) else part
            if line.get("done"):
                done = True
                counts = counted(line.get("prompt_eval_count"), line.get("eval_count"))
        return Reading(text, done and error is None, error, counts)

    return read


def read_embed(body):
    answer = next(iter(lines(body)), {})
    text = json.dumps(answer.get("embeddings"))
    counts = counted(answer.get("prompt_eval_count"), 0)
    return Reading(text, "embeddings" in answer, answer.get("error"), counts)


def of_usage(usage, asked, made):
    return counted(usage.get(asked), usage.get(made)) if usage else None


def whole(body):
    """An answer in one piece; half of one is no JSON, and no client takes it for whole."""
    return next(iter(lines(body)), {"error": "no JSON"})


def read_v1(body):
    answer = whole(body)
    if "choices" not in answer:
        return Reading("", False, answer.get("error"), None)
    text = answer["choices"][0]["message"]["content"]
    counts = of_usage(answer.get("usage"), "prompt_tokens", "completion_tokens")
    return Reading(text, True, answer.get("error"), counts)


def read_v1_stream(body):
    found, done = events(body)
    text, error, counts = "", None, None
    for event in found:
        error = event.get("error", error)
        for choice in event.get("choices", []):
            text += (choice.get("delta") or {}).get("content") or ""
        counts = of_usage(event.get("usage"), "prompt_tokens", "completion_tokens") or counts
    return Reading(text, done and error is None, error, counts)


def read_messages(body):
    answer = whole(body)
    if answer.get("type") != "message":
        return Reading("", False, answer.get("error"), None)
    text = "".join(block.get("text", "") for block in answer["content"])
    return Reading(text, True, None, of_usage(answer["usage"], "input_tokens", "output_tokens"))


def read_messages_stream(body):
    text, error, counts, done = "", None, None, False
    found, _ = events(body)
    for event in found:
        kind = event.get("type")
        if kind == "error":
            error = event.get("error") or "error"
        elif kind == "content_block_delta":
            text += event["delta"].get("text", "")
        elif kind == "message_delta":
            counts = of_usage(event.get("usage"), "input_tokens", "output_tokens")
        elif kind == "message_stop":
            done = True
    return Reading(text, done and error is None, error, counts)


def read_text_stream(body):
    """A stream of `/v1/completions`."""
    found, done = events(body)
    text, error, counts = "", None, None
    for event in found:
        error = event.get("error", error)
        text += "".join(choice.get("text") or "" for choice in event.get("choices", []))
        counts = of_usage(event.get("usage"), "prompt_tokens", "completion_tokens") or counts
    return Reading(text, done and error is None, error, counts)


def read_text(body):
    answer = whole(body)
    if "choices" not in answer:
        return Reading("", False, answer.get("error"), None)
    counts = of_usage(answer.get("usage"), "prompt_tokens", "completion_tokens")
    return Reading(answer["choices"][0]["text"], True, answer.get("error"), counts)


def of_response(response):
    """The reading of a response object."""
    parts = [part for item in response.get("output", []) for part in item.get("content") or []]
    text = "".join(part.get("text", "") for part in parts)
    error = response.get("error")
    done = response.get("status") == "completed" and error is None
    return Reading(text, done, error, of_usage(response.get("usage"), "input_tokens", "output_tokens"))


def read_responses(body):
    return of_response(whole(body))


def read_responses_stream(body):
    text, error, last = "", None, None
    found, _ = events(body)
    for event in found:
        kind = event.get("type")
        if kind == "response.output_text.delta":
            text += event["delta"]
        elif kind in ("error", "response.failed", "response.incomplete") or "error" in event:
            error = event.get("error") or kind
        elif kind == "response.completed":
            last = of_response(event["response"])
    if last is None or error is not None:
        return Reading(text, False, error, None)
    # What the pieces said must be what the response holds at its end.
    return last._replace(text=text if last.text == text else f"{text} | {last.text}")


def read_v1_embed(body):
    answer = whole(body)
    found = answer.get("data")
    text = json.dumps([entry["embedding"] for entry in found] if found else None)
    counts = of_usage(answer.get("usage"), "prompt_tokens", "completion_tokens")
    return Reading(text, found is not None, answer.get("error"), counts)


def build_chat(stream):
    return lambda spec: {"model": specs.MODEL, "messages": messages(spec), "stream": stream}


def build_v1(stream):
    def build(spec):
        body = {"model": specs.MODEL, "messages": messages(spec), "stream": stream}
        return {**body, "stream_options": {"include_usage": True}} if stream else body

    return build


def build_generate(stream):
    return lambda spec: {"model": specs.MODEL, "prompt": specs.prompt(spec), "stream": stream}


def build_messages(stream):
    return lambda spec: {**build_chat(stream)(spec), "max_tokens": 4096}


def build_text(stream):
    def build(spec):
        body = {"model": specs.MODEL, "prompt": specs.prompt(spec), "stream": stream}
        return {**body, "stream_options": {"include_usage": True}} if stream else body

    return build


def build_responses(stream):
    def build(spec):
        parts = [{"type": "input_text", "text": specs.prompt(spec)}]
        item = {"type": "message", "role": "user", "content": parts}
        return {"model": specs.MODEL, "input": [item], "stream": stream, "store": False}

    return build


def build_embed(spec):
    more = [f"input {place}" for place in range(spec["n"] - 1)]
    return {"model": specs.MODEL, "input": [specs.prompt(spec), *more]}


CHAT = Dialect("chat", "/api/chat", build_chat(True), ollama("message"))
CHAT_WHOLE = Dialect("chat-whole", "/api/chat", build_chat(False), ollama("message"))
GENERATE = Dialect("generate", "/api/generate", build_generate(True), ollama("response"))
GENERATE_WHOLE = Dialect(
    "generate-whole", "/api/generate", build_generate(False), ollama("response")
)
V1 = Dialect("v1-chat", "/v1/chat/completions", build_v1(True), read_v1_stream)
V1_WHOLE = Dialect("v1-chat-whole", "/v1/chat/completions", build_v1(False), read_v1)
MESSAGES = Dialect("messages", "/v1/messages", build_messages(True), read_messages_stream)
MESSAGES_WHOLE = Dialect("messages-whole", "/v1/messages", build_messages(False), read_messages)
EMBED = Dialect("embed", "/api/embed", build_embed, read_embed)

TEXT = Dialect("v1-text", "/v1/completions", build_text(True), read_text_stream)
TEXT_WHOLE = Dialect("v1-text-whole", "/v1/completions", build_text(False), read_text)
RESPONSES = Dialect("responses", "/v1/responses", build_responses(True), read_responses_stream)
RESPONSES_WHOLE = Dialect(
    "responses-whole", "/v1/responses", build_responses(False), read_responses
)
V1_EMBED = Dialect("v1-embed", "/v1/embeddings", build_embed, read_v1_embed)

ALL = [CHAT, CHAT_WHOLE, GENERATE, GENERATE_WHOLE, V1, V1_WHOLE, MESSAGES, MESSAGES_WHOLE, EMBED]
EVERY = [*ALL, TEXT, TEXT_WHOLE, RESPONSES, RESPONSES_WHOLE, V1_EMBED]
EMBEDDINGS = (EMBED, V1_EMBED)


def expected_counts(dialect, spec):
    """The counts that the answer must tell."""
    asked, made = specs.counts(spec)
    return (asked, 0) if dialect in EMBEDDINGS else (asked, made)


def judge(dialect, spec, reading):
    """The fault of a response: None for an exact one, or a correct prefix marked as broken."""
    if dialect in EMBEDDINGS:
        true = json.dumps([specs.vector(spec["seed"], place) for place in range(spec["n"])])
        same = not reading.done or json.loads(reading.text) == json.loads(true)
        return specs.NONE if same else specs.Damage(0, 0, 1)
    return specs.damage(spec, reading.text, reading.done)
