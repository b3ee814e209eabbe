"""What the scripted upstream demands of a request.

It is strict where real servers differ in tolerance: whatever breaks a rule of any of them is refused
with 400 and the reason. Nothing here answers anything; a rule raises `Refusal` or is silent.
"""

import base64
import json
import re

CHAT_MODELS = ["scripted-1", "team/other:8b"]
EMBED_MODELS = ["scripted-embed"]

# What a server with OpenAI's own parameters knows, and nothing else.
SAMPLING = {
    "max_tokens": int,
    "max_completion_tokens": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": int,
    "stop": list,
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
}
COMMON = {"model": str, "stream": bool, "stream_options": dict, "user": str, **SAMPLING}
CHAT_FIELDS = {
    **COMMON,
    "messages": list,
    "response_format": dict,
    "logprobs": bool,
    "top_logprobs": int,
    "tools": list,
    "tool_choice": (str, dict),
    "parallel_tool_calls": bool,
    "reasoning_effort": str,
}
COMPLETION_FIELDS = {**COMMON, "prompt": str, "suffix": str, "logprobs": int}
EMBEDDING_FIELDS = {"model": str, "input": list, "encoding_format": str, "user": str}
MESSAGE_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}
ROLES = {"system", "developer", "user", "assistant", "tool"}
EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
MAGIC = {
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/bmp": b"BM",
    "image/webp": b"RIFF",
}


class Refusal(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(self, status, message, code=None, param=None, kind="invalid_request_error"):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def require(condition, message, param=None):
    """Refuse the request with 400 unless the condition holds."""
    if not condition:
        raise Refusal(400, message, param=param)


def check_fields(body, fields):
    """Top level: known names, right types, no nulls, no empty lists."""
    require(isinstance(body, dict), "The body must be a JSON object.")
    for name, value in body.items():
        require(name in fields, f"Unrecognized request argument supplied: {name}")
        require(value is not None, f"'{name}' is null; leave it out instead.", name)
        kind = fields[name]
        is_right = isinstance(value, kind) and (isinstance(value, bool) == (kind is bool))
        require(is_right, f"Invalid type for '{name}'.", name)
        require(value != [], f"'{name}' must not be an empty list.", name)
    require("model" in body, "You must provide a model parameter.", "model")


def check_stream(body):
    """`stream` is always said; `stream_options` only with it."""
    require("stream" in body, "This upstream wants 'stream' said explicitly.", "stream")
    if "stream_options" in body:
        require(body["stream"], "'stream_options' is only allowed with 'stream': true.")
        unknown = set(body["stream_options"]) - {"include_usage"}
        require(not unknown, f"Unrecognized stream_options: {sorted(unknown)}")


def check_sampling(body):
    """Ranges, and the fields that exclude one another."""
    both = "max_tokens" in body and "max_completion_tokens" in body
    require(not both, "max_tokens and max_completion_tokens exclude each other.")
    for name in ("max_tokens", "max_completion_tokens"):
        require(body.get(name, 1) > 0, f"'{name}' must be positive.", name)
    stops = body.get("stop", [])
    require(all(isinstance(s, str) and s for s in stops), "'stop' holds an empty string.", "stop")
    require(0 <= body.get("temperature", 1) <= 2, "'temperature' is out of range.", "temperature")
    require(0 <= body.get("top_p", 1) <= 1, "'top_p' is out of range.", "top_p")


# --- Messages -----------------------------------------------------------------------------------


def check_message(message, where):
    """One chat message: known fields, string content (or parts with media), no empty lists."""
    require(isinstance(message, dict), f"{where} is not an object.")
    unknown = set(message) - MESSAGE_FIELDS
    require(not unknown, f"{where} has unknown fields: {sorted(unknown)}")
    require(message.get("role") in ROLES, f"{where} has an unknown role.")
    require("content" in message or "tool_calls" in message, f"{where} has no content.")
    # OpenAI's own rule, which clients of /v1 make use of.
    may_be_null = ["content"] if message["role"] == "assistant" and message.get("tool_calls") else []
    for name, value in message.items():
        is_there = value is not None or name in may_be_null
        require(is_there, f"{where}.{name} is null; leave it out instead.")
        require(value != [], f"{where}.{name} must not be an empty list.")
    content = "" if message.get("content") is None else message["content"]
    if isinstance(content, list):
        for part in content:
            check_part(part, f"{where}.content")
        kinds = {part["type"] for part in content}
        require(kinds != {"text"}, f"{where}.content: parts without media; send a string.")
    else:
        require(isinstance(content, str), f"{where}.content must be a string.")


def check_part(part, where):
    """One part of a message in parts."""
    require(isinstance(part, dict), f"{where}: a part is not an object.")
    kind = part.get("type")
    if kind == "text":
        require(bool(part.get("text")), f"{where}: a text part without text.")
    elif kind == "image_url":
        media_type(part["image_url"].get("url"), where)
    else:
        require(kind == "input_audio", f"{where}: unknown part {kind!r}.")
        audio = part["input_audio"]
        require(audio.get("format") in ("wav", "mp3"), f"{where}: unknown audio format.")
        decoded(audio.get("data"), where)


def media_type(url, where="image"):
    """The MIME type of a data URL, which must match its bytes."""
    found = re.fullmatch(r"data:(image/[a-z]+);base64,(.*)", url or "", re.DOTALL)
    require(found, f"{where}: the image is not a data URL.")
    kind, data = found.groups()
    head = decoded(data, where)[:12]
    require(kind in MAGIC, f"{where}: unknown image type {kind}.")
    require(head.startswith(MAGIC[kind]), f"{where}: the image is not {kind}.")
    return kind


def decoded(data, where):
    """The bytes of strict base64."""
    try:
        return base64.b64decode(data or "", validate=True)
    except ValueError as error:
        raise Refusal(400, f"{where}: bad base64: {error}") from error


def check_history(messages):
    """Every call of an assistant turn is answered right after it, by its id; nothing else is."""
    open_ids = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message["role"] == "tool":
            known = message.get("tool_call_id")
            text = f"{where}: 'tool_call_id' answers no call before it: {known!r}."
            require(known in open_ids, text, "messages")
            open_ids.remove(known)
            continue
        require(not open_ids, f"{where}: calls without an answer before it: {open_ids}.")
        require("tool_call_id" not in message, f"{where}: 'tool_call_id' outside a tool message.")
        open_ids = [check_call(call, where) for call in message.get("tool_calls", [])]
        require(len(set(open_ids)) == len(open_ids), f"{where}: two calls with one id.")
        is_right = message["role"] == "assistant" or not open_ids
        require(is_right, f"{where}: only an assistant calls tools.")
    require(not open_ids, f"The last calls have no answer: {open_ids}.")


def check_call(call, where):
    """One call of an assistant message; its id."""
    unknown = set(call) - {"id", "type", "function"}
    require(not unknown, f"{where}.tool_calls: unknown fields {sorted(unknown)}")
    require(isinstance(call.get("id"), str) and call["id"], f"{where}.tool_calls: no id.")
    require(call.get("type") == "function", f"{where}.tool_calls: type must be 'function'.")
    function = call.get("function", {})
    require(set(function) == {"name", "arguments"}, f"{where}.tool_calls: odd function.")
    arguments = function["arguments"]
    require(isinstance(arguments, str), f"{where}.tool_calls: arguments must be a string.")
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except ValueError:
        is_object = False
    require(is_object, f"{where}.tool_calls: arguments must hold a JSON object.")
    return call["id"]


def check_tool(tool, where):
    """One definition of a tool."""
    require(set(tool) == {"type", "function"}, f"{where} must hold type and function.")
    require(tool["type"] == "function", f"{where}.type must be 'function'.")
    function = tool["function"]
    name = function.get("name", "")
    require(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"{where}: bad name {name!r}.")
    unknown = set(function) - {"name", "description", "parameters", "strict"}
    require(not unknown, f"{where}: unknown fields {sorted(unknown)}")
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    require(isinstance(parameters, dict), f"{where}: parameters must be an object.")
    require(parameters.get("type") == "object", f"{where}: parameters.type must be 'object'.")
    properties = parameters.get("properties", {})
    require(isinstance(properties, dict), f"{where}: parameters.properties must be an object.")


def check_format(wanted):
    """`response_format` in OpenAI's own form."""
    kind = wanted.get("type")
    require(kind in ("text", "json_object", "json_schema"), "Unknown response_format.type.")
    if kind == "json_schema":
        schema = wanted.get("json_schema")
        require(isinstance(schema, dict), "response_format.json_schema is missing.")
        require(bool(schema.get("name")), "response_format.json_schema.name is missing.")
        require(isinstance(schema.get("schema"), dict), "response_format: no schema given.")
        require(schema.get("strict", True) is not None, "response_format: strict is null.")


# --- Whole requests -----------------------------------------------------------------------------


def check_model(name, known):
    """404 with OpenAI's text."""
    if name not in CHAT_MODELS + EMBED_MODELS:
        text = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(404, text, code="model_not_found")
    require(name in known, f"The model `{name}` cannot do this.", "model")


def check_chat(body):
    """The whole of a chat request."""
    check_fields(body, CHAT_FIELDS)
    check_stream(body)
    check_sampling(body)
    require("messages" in body, "Missing required parameter: 'messages'.", "messages")
    for index, message in enumerate(body["messages"]):
        check_message(message, f"messages[{index}]")
    check_history(body["messages"])
    for index, tool in enumerate(body.get("tools", [])):
        check_tool(tool, f"tools[{index}]")
    if "parallel_tool_calls" in body:
        require("tools" in body, "'parallel_tool_calls' is only allowed when tools are given.")
    if "top_logprobs" in body:
        require(body.get("logprobs"), "'top_logprobs' is only allowed with 'logprobs'.")
        require(0 <= body["top_logprobs"] <= 20, "'top_logprobs' is out of range.")
    effort = body.get("reasoning_effort", "low")
    require(effort in EFFORTS, "Unknown reasoning_effort.", "reasoning_effort")
    check_format(body.get("response_format", {"type": "text"}))
    check_model(body["model"], CHAT_MODELS)


def check_completion(body):
    """The whole of a text completion request."""
    check_fields(body, COMPLETION_FIELDS)
    check_stream(body)
    check_sampling(body)
    require("prompt" in body, "Missing required parameter: 'prompt'.", "prompt")
    check_model(body["model"], CHAT_MODELS)


def check_embedding(body):
    """The whole of an embedding request."""
    check_fields(body, EMBEDDING_FIELDS)
    require("input" in body, "Missing required parameter: 'input'.", "input")
    all_texts = all(isinstance(text, str) and text for text in body["input"])
    require(all_texts, "'$.input' is invalid: it must hold non-empty strings.", "input")
    wanted = body.get("encoding_format", "float")
    refused = f"Unsupported value: 'encoding_format' does not support '{wanted}' with this model."
    require(wanted == "float", refused, "encoding_format")
    check_model(body["model"], EMBED_MODELS)
