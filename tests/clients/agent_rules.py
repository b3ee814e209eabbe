"""What the upstream of the agents demands of a chat request.

`openai` holds to the rules of OpenAI's API reference (chat completions), in OpenAI's words. `templates`
holds to those of servers that render the conversation with a model's own strict template (llama.cpp and
vLLM with Qwen, Gemma, Mistral), in their words; members that they do not know are ignored there. A rule
raises `Refusal` or is silent.
"""

import json
import re

import upstream_rules

# Each model: the window in tokens, and the largest limit of tokens for one answer.
MODELS = {
    "gpt-4o": (128_000, 16_384),
    "gpt-5.5": (272_000, 128_000),
    "qwen3.5": (128_000, 16_384),
    "gpt-oss:20b": (128_000, 16_384),
}
EMBED_MODELS = ["text-embedding-3-small"]
REASONING = {"gpt-5.5"}
EFFORTS = ["none", "low", "medium", "high", "xhigh"]
# Members of the body: the kind of value, and whether null stands for absence.
MEMBERS = {
    "model": ("string", False),
    "messages": ("array", False),
    "audio": ("object", True),
    "frequency_penalty": ("decimal", True),
    "function_call": ("any", False),
    "functions": ("array", False),
    "logit_bias": ("object", True),
    "logprobs": ("boolean", True),
    "max_completion_tokens": ("integer", True),
    "max_tokens": ("integer", True),
    "metadata": ("object", True),
    "modalities": ("array", True),
    "n": ("integer", True),
    "parallel_tool_calls": ("boolean", False),
    "prediction": ("object", True),
    "presence_penalty": ("decimal", True),
    "prompt_cache_key": ("string", False),
    "prompt_cache_retention": ("string", True),
    "reasoning_effort": ("string", True),
    "response_format": ("object", False),
    "safety_identifier": ("string", False),
    "seed": ("integer", True),
    "service_tier": ("string", True),
    "stop": ("any", True),
    "store": ("boolean", True),
    "stream": ("boolean", True),
    "stream_options": ("object", True),
    "temperature": ("decimal", True),
    "tool_choice": ("any", False),
    "tools": ("array", False),
    "top_logprobs": ("integer", True),
    "top_p": ("decimal", True),
    "user": ("string", False),
    "verbosity": ("string", True),
    "web_search_options": ("object", False),
}
KINDS = {
    "string": str,
    "array": list,
    "object": dict,
    "boolean": bool,
    "integer": int,
    "decimal": (int, float),
}
RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "top_logprobs": (0, 20),
    "n": (1, 128),
}
ROLES = ["system", "assistant", "user", "function", "tool", "developer"]
MESSAGE_MEMBERS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "tool": {"role", "content", "name", "tool_call_id"},
    "function": {"role", "content", "name"},
    "assistant": {
        "role", "content", "name", "refusal", "audio", "annotations", "tool_calls", "function_call",
    },
}  # fmt: skip
# Types of parts: their members, and the roles that may hold them.
PARTS = {
    "text": ({"type", "text"}, {"system", "developer", "user", "assistant", "tool"}),
    "image_url": ({"type", "image_url"}, {"user"}),
    "input_audio": ({"type", "input_audio"}, {"user"}),
    "file": ({"type", "file"}, {"user"}),
    "refusal": ({"type", "refusal"}, {"assistant"}),
}


class Refusal(upstream_rules.Refusal):
    """A response with an error, in the form of the server."""

    def __init__(self, message, param=None, code=None, status=400, **more):
        kind = more.pop("kind", "invalid_request_error")
        super().__init__(status, message, code, param, kind)
        self.body["error"].update(more)


def name_of(value):
    """The kind of a JSON value, as OpenAI names it."""
    for name in ("boolean", "string", "array", "object", "integer", "decimal"):
        if isinstance(value, KINDS[name]):
            return name
    return "null"


def a(kind):
    """The kind with its article."""
    article = "an" if kind[0] in "aio" else "a"
    return kind if kind == "null" else f"{article} {kind}"


def expect(value, kind, where):
    """Refuse a value of another kind."""
    is_right = isinstance(value, KINDS[kind]) and (isinstance(value, bool) == (kind == "boolean"))
    if not is_right:
        text = f"Invalid type for '{where}': expected {a(kind)}, but got {a(name_of(value))} instead."
        raise Refusal(text, where, "invalid_type")


def known_only(value, members, where):
    """Refuse an unknown member of an object below the body."""
    for name in value:
        if name not in members:
            path = f"{where}.{name}"
            raise Refusal(f"Unknown parameter: '{path}'.", path, "unknown_parameter")


def required(value, name, where):
    """The member of an object, which must be there."""
    if name not in value:
        path = f"{where}.{name}"
        raise Refusal(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return value[name]


def one_of(value, allowed, where):
    """Refuse a value that is not in the list."""
    if value not in allowed:
        quoted = [f"'{each}'" for each in allowed]
        names = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"
        text = f"Invalid value: '{value}'. Supported values are: {names}."
        raise Refusal(text, where, "invalid_value")


def not_empty(value, where):
    """Refuse an empty list."""
    if not value:
        text = f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an "
        raise Refusal(text + "empty array instead.", where, "empty_array")


def no_longer(value, limit, where):
    """Refuse a string or list that is too long."""
    if len(value) > limit:
        kind = "string" if isinstance(value, str) else "array"
        text = f"Invalid '{where}': {kind} too long. Expected {a(kind)} with maximum length {limit}, "
        text += f"but got {a(kind)} with length {len(value)} instead."
        raise Refusal(text, where, f"{kind}_above_max_length")


def matching(value, where):
    """Refuse a name with other characters than OpenAI's."""
    no_longer(value, 64, where)
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", value):
        text = f"Invalid '{where}': string does not match pattern. Expected a string that matches the "
        raise Refusal(text + "pattern '^[a-zA-Z0-9_-]+$'.", where, "invalid_value")


# --- The body -----------------------------------------------------------------------------------


def check_members(body):
    """Known members of the right kinds."""
    unknown = [name for name in body if name not in MEMBERS]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise Refusal(f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}")
    for name, value in body.items():
        kind, may_be_null = MEMBERS[name]
        if kind != "any" and not (value is None and may_be_null):
            expect(value, kind, name)
    for name in ("model", "messages"):
        if name not in body:
            text = f"Missing required parameter: '{name}'."
            raise Refusal(text, name, "missing_required_parameter")
    not_empty(body["messages"], "messages")


def check_ranges(body):
    """Values within their ranges."""
    for name, (low, high) in RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        kind = MEMBERS[name][0]
        if value > high:
            text = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got "
            raise Refusal(f"{text}{value} instead.", name, f"{kind}_above_max_value")
        if value < low:
            text = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got "
            raise Refusal(f"{text}{value} instead.", name, f"{kind}_below_min_value")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        text = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
        raise Refusal(text, "top_logprobs")
    no_longer(body.get("prompt_cache_key", ""), 64, "prompt_cache_key")
    no_longer(body.get("safety_identifier", ""), 64, "safety_identifier")


def check_stops(body):
    """One text, or at most four."""
    stop = body.get("stop")
    if isinstance(stop, list):
        no_longer(stop, 4, "stop")
        for index, each in enumerate(stop):
            expect(each, "string", f"stop[{index}]")
    elif stop is not None:
        expect(stop, "string", "stop")


def check_stream(body):
    """`stream_options` only with `stream`."""
    options = body.get("stream_options")
    if options is None:
        return
    if not body.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refusal(text, "stream_options")
    known_only(options, {"include_usage", "include_obfuscation"}, "stream_options")


def check_limits(body):
    """The limits of tokens, under the name that the model takes."""
    window_and_limit = MODELS[body["model"]]
    asked = {name: body.get(name) for name in ("max_tokens", "max_completion_tokens")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if len(asked) == 2:
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Refusal(text, "max_tokens", "invalid_parameter_combination")
    if "max_tokens" in asked and body["model"] in REASONING:
        text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        text += "'max_completion_tokens' instead."
        raise Refusal(text, "max_tokens", "unsupported_parameter")
    for name, value in asked.items():
        if value < 1:
            text = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got "
            raise Refusal(f"{text}{value} instead.", name, "integer_below_min_value")
        if value > window_and_limit[1]:
            text = f"{name} is too large: {value}. This model supports at most {window_and_limit[1]} "
            text += f"completion tokens, whereas you provided {value}."
            raise Refusal(text, name, "invalid_value")


def check_for_model(body):
    """Members that some models do not take."""
    effort = body.get("reasoning_effort")
    if body["model"] not in REASONING:
        if effort is not None:
            raise Refusal("Unrecognized request argument supplied: reasoning_effort")
        if body.get("verbosity") not in (None, "medium"):
            text = f"Unsupported value: 'verbosity' does not support '{body['verbosity']}' with this "
            text += "model. Supported values are: 'medium'."
            raise Refusal(text, "verbosity", "unsupported_value")
        return
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        if body.get(name) not in (None, 0 if "penalty" in name else 1):
            text = f"Unsupported value: '{name}' does not support {body[name]} with this model. Only "
            raise Refusal(text + "the default (1) value is supported.", name, "unsupported_value")
    for name in ("stop", "logprobs", "logit_bias"):
        if body.get(name):
            text = f"Unsupported parameter: '{name}' is not supported with this model."
            raise Refusal(text, name, "unsupported_parameter")
    if effort is not None and effort not in EFFORTS:
        text = f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
        text += "Supported values are: 'none', 'low', 'medium', 'high', and 'xhigh'."
        raise Refusal(text, "reasoning_effort", "unsupported_value")
    if effort not in (None, "none") and body.get("tools"):
        text = f"Function tools with reasoning_effort are not supported for {body['model']} in "
        text += "/v1/chat/completions. To use function tools, use /v1/responses or set "
        raise Refusal(text + "reasoning_effort to 'none'.", "reasoning_effort")


def check_others(body):
    """What belongs to other members."""
    if body.get("metadata") and not body.get("store"):
        text = "The 'metadata' parameter is only allowed when 'store' is enabled."
        raise Refusal(text, "metadata")
    if body.get("service_tier") is not None:
        tiers = ["auto", "default", "flex", "scale", "priority"]
        one_of(body["service_tier"], tiers, "service_tier")
    if body.get("verbosity") is not None:
        one_of(body["verbosity"], ["low", "medium", "high"], "verbosity")


# --- Messages -----------------------------------------------------------------------------------


def check_message(message, where):
    """One message: its role, members and content."""
    expect(message, "object", where)
    role = required(message, "role", where)
    one_of(role, ROLES, f"{where}.role")
    known_only(message, MESSAGE_MEMBERS[role], where)
    if message.get("name") is not None and not re.fullmatch(r"[^\s<|\\/>]+", message["name"]):
        text = f"Invalid '{where}.name': string does not match pattern. Expected a string that matches "
        raise Refusal(text + r"the pattern '^[^\s<|\\/>]+$'.", f"{where}.name", "invalid_value")
    if "tool_calls" in message:
        check_calls(message["tool_calls"], f"{where}.tool_calls")
    check_content(message, role, where)


def check_content(message, role, where):
    """A text, or a list of parts that the role may hold."""
    content = message.get("content")
    path = f"{where}.content"
    if content is None:
        is_call = role == "assistant" and (message.get("tool_calls") or message.get("function_call"))
        if not is_call and message.get("refusal") is None:
            text = "Invalid value for 'content': expected a string, got null."
            raise Refusal(text, path.replace("[", ".["))
    elif isinstance(content, list):
        not_empty(content, path)
        for index, part in enumerate(content):
            check_part(part, role, f"{path}[{index}]")
    elif not isinstance(content, str):
        text = f"Invalid type for '{path}': expected one of a string or array of objects, but got "
        raise Refusal(f"{text}{a(name_of(content))} instead.", path, "invalid_type")


def check_part(part, role, where):
    """One part of a content."""
    expect(part, "object", where)
    kind = required(part, "type", where)
    one_of(kind, list(PARTS), f"{where}.type")
    members, roles = PARTS[kind]
    known_only(part, members, where)
    inner = required(part, kind, where)
    if role not in roles:
        index = where.split(".")[0]
        text = f"Invalid '{index}'. {kind} parts are only allowed for messages with role "
        text += f"'{sorted(roles)[0]}', but this message with role '{role}' contains one."
        raise Refusal(text, index, "invalid_value")
    if kind in ("text", "refusal"):
        return expect(inner, "string", f"{where}.{kind}")
    expect(inner, "object", f"{where}.{kind}")
    if kind == "image_url":
        known_only(inner, {"url", "detail"}, f"{where}.image_url")
        one_of(inner.get("detail", "auto"), ["low", "high", "auto"], f"{where}.image_url.detail")
        url = required(inner, "url", f"{where}.image_url")
        if not re.match(r"https?://|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*$", url):
            text = f"Invalid image URL: '{where}.image_url.url'. Expected a base64-encoded data URL "
            text += "with an image MIME type (e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=')."
            raise Refusal(text, f"{where}.image_url.url", "invalid_value")
    return None


def check_calls(calls, where):
    """The calls of an assistant message."""
    expect(calls, "array", where)
    not_empty(calls, where)
    for index, call in enumerate(calls):
        path = f"{where}[{index}]"
        expect(call, "object", path)
        kind = required(call, "type", path)
        one_of(kind, ["function", "custom"], f"{path}.type")
        known_only(call, {"id", "type", kind}, path)
        expect(required(call, "id", path), "string", f"{path}.id")
        no_longer(call["id"], 40, f"{path}.id")
        inner = required(call, kind, path)
        text = {"function": "arguments", "custom": "input"}[kind]
        known_only(inner, {"name", text}, f"{path}.{kind}")
        matching(required(inner, "name", f"{path}.{kind}"), f"{path}.{kind}.name")
        expect(required(inner, text, f"{path}.{kind}"), "string", f"{path}.{kind}.{text}")


def check_pairs(messages):
    """Each call is answered right behind it, by its id, and nothing else is."""
    open_ids = []
    for index, message in enumerate([*messages, {"role": None}]):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_ids:
                text = "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                raise Refusal(text + "message with 'tool_calls'.", f"messages.[{index}].role")
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            text = "An assistant message with 'tool_calls' must be followed by tool messages responding "
            text += "to each 'tool_call_id'. The following tool_call_ids did not have response "
            raise Refusal(f"{text}messages: {', '.join(open_ids)}", f"messages.[{index}].role")
        open_ids = [call["id"] for call in message.get("tool_calls") or []]


# --- Tools --------------------------------------------------------------------------------------


def check_tools(body):
    """The tools, and what is only allowed together with them."""
    tools = body.get("tools")
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not tools:
            text = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
            raise Refusal(text, name)
    if tools is None:
        return
    not_empty(tools, "tools")
    no_longer(tools, 128, "tools")
    names = [check_tool(tool, f"tools[{index}]", body["model"]) for index, tool in enumerate(tools)]
    if len(set(names)) < len(names):
        raise Refusal("Tool names must be unique.", "tools")
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, str):
        return one_of(choice, ["none", "auto", "required"], "tool_choice")
    kind = required(choice, "type", "tool_choice")
    if kind in ("function", "custom"):
        wanted = required(choice[kind], "name", f"tool_choice.{kind}")
        if wanted not in names:
            raise Refusal(f"Tool choice '{wanted}' not found in 'tools' parameter.", "tool_choice")
    return None


def check_tool(tool, where, model):
    """One tool; its name."""
    expect(tool, "object", where)
    kind = required(tool, "type", where)
    # Custom tools came with the reasoning models.
    one_of(kind, ["function", "custom"] if model in REASONING else ["function"], f"{where}.type")
    known_only(tool, {"type", kind}, where)
    inner = required(tool, kind, where)
    path = f"{where}.{kind}"
    expect(inner, "object", path)
    name = required(inner, "name", path)
    expect(name, "string", f"{path}.name")
    matching(name, f"{path}.name")
    if inner.get("description") is not None:
        expect(inner["description"], "string", f"{path}.description")
    if kind == "custom":
        known_only(inner, {"name", "description", "format"}, path)
        return name
    known_only(inner, {"name", "description", "parameters", "strict"}, path)
    if "parameters" in inner:
        expect(inner["parameters"], "object", f"{path}.parameters")
        check_schema(inner["parameters"], name, f"{path}.parameters", bool(inner.get("strict")))
    return name


def check_schema(schema, name, param, strict):
    """The schema of a function's parameters."""

    def refuse(text):
        raise Refusal(f"Invalid schema for function '{name}': {text}", param, "invalid_function_parameters")

    if schema.get("type") != "object":
        kind = schema.get("type")
        refuse(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'.")
    if "properties" not in schema:
        refuse("In context=(), object schema missing properties.")
    check_schema_part(schema, (), refuse, strict)


def check_schema_part(schema, context, refuse, strict):
    """A schema within a schema: arrays say what they hold, strict objects say all."""
    if not isinstance(schema, dict):
        if not isinstance(schema, bool):
            refuse(f"In context={context}, schema must be an object or a boolean.")
        return
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "array" in kinds and "items" not in schema and "prefixItems" not in schema:
        refuse(f"In context={context}, array schema missing items.")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        refuse(f"In context={context}, properties must be an object.")
    if strict and "object" in kinds:
        if schema.get("additionalProperties") is not False:
            refuse(
                f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
            )
        missing = [each for each in properties if each not in schema.get("required", [])]
        if missing:
            text = "'required' is required to be supplied and to be an array including every key in "
            refuse(f"In context={context}, {text}properties. Missing '{missing[0]}'.")
    for each, part in properties.items():
        check_schema_part(part, (*context, "properties", each), refuse, strict)
    for word in ("anyOf", "oneOf", "allOf"):
        for index, part in enumerate(schema.get(word, [])):
            check_schema_part(part, (*context, word, str(index)), refuse, strict)
    if isinstance(schema.get("items"), dict):
        check_schema_part(schema["items"], (*context, "items"), refuse, strict)


def check_format(body):
    """`response_format`."""
    wanted = body.get("response_format")
    if wanted is None:
        return
    kind = required(wanted, "type", "response_format")
    one_of(kind, ["text", "json_object", "json_schema"], "response_format.type")
    if kind == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        text = "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
        raise Refusal(text + "'json_object'.", "messages")
    if kind != "json_schema":
        return
    schema = required(wanted, "json_schema", "response_format")
    members = {"name", "description", "schema", "strict"}
    known_only(schema, members, "response_format.json_schema")
    name = required(schema, "name", "response_format.json_schema")
    matching(name, "response_format.json_schema.name")

    def refuse(text):
        raise Refusal(f"Invalid schema for response_format '{name}': {text}", "response_format")

    root = required(schema, "schema", "response_format.json_schema")
    if root.get("type") != "object":
        refuse(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{root.get('type')}\"'.")
    check_schema_part(root, (), refuse, bool(schema.get("strict")))


# --- Whole requests -----------------------------------------------------------------------------


def check_model(name, models):
    """404 with OpenAI's text."""
    if name not in models:
        text = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(text, None, "model_not_found", status=404)


def check_openai(body):
    """The whole of a chat request, as OpenAI checks it."""
    check_members(body)
    check_model(body["model"], MODELS)
    check_ranges(body)
    check_stops(body)
    check_stream(body)
    check_limits(body)
    for index, message in enumerate(body["messages"]):
        check_message(message, f"messages[{index}]")
    check_pairs(body["messages"])
    check_tools(body)
    check_format(body)
    check_for_model(body)
    check_others(body)


def check_templates(body):
    """The whole of a chat request, as servers with strict templates check it."""
    check_model(body.get("model"), MODELS)
    check_pydantic(body)
    known = {name: value for name, value in body.items() if name in MEMBERS}
    check_stream(known)
    limit = MODELS[body["model"]][1]
    for name in ("max_tokens", "max_completion_tokens"):
        if (body.get(name) or 1) > limit:
            text = f"Invalid {name} value, the valid range of {name} is [1, {limit}]"
            raise Refusal(text)
    check_pairs(body["messages"])
    check_order(body["messages"])


def check_pydantic(body):
    """What vLLM checks with its types, and names of functions."""
    for index, tool in enumerate(body.get("tools") or []):
        if tool.get("type") != "function":
            text = f"[{{'type': 'literal_error', 'loc': ('body', 'tools', {index}, 'type'), 'msg': "
            text += f"\"Input should be 'function'\", 'input': {tool.get('type')!r}}}]"
            raise Refusal(text, None, 400, kind="Bad Request")
        name = tool["function"]["name"]
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
            text = f"tools.{index}.function.name: Function name was {name} but must be a-z, A-Z, 0-9, "
            text += "or contain underscores and dashes, with a maximum length of 64."
            raise Refusal(text, None, 400, kind="BadRequestError")
    for message in body["messages"]:
        for call in message.get("tool_calls") or []:
            check_arguments(call)


def check_arguments(call):
    """Templates read the arguments of the history as JSON."""
    try:
        is_object = isinstance(json.loads(call["function"]["arguments"]), dict)
    except (ValueError, KeyError):
        is_object = False
    if not is_object:
        text = "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101]"
        raise Refusal(text, None, 500, status=500, kind="server_error")


def jinja(sentence):
    """A template that raises, as llama.cpp tells it."""
    text = "\n------------\nWhile executing CallExpression at line 85, column 32 in source:\n..."
    text += f"first %}}\u21b5        {{{{- raise_exception('{sentence[:30]}...\nError: Jinja Exception: "
    raise Refusal(text + sentence, None, 500, status=500, kind="server_error")


def check_order(messages):
    """System first and once; turns alternate; a tool is followed by the assistant."""
    earlier = None
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "developer" or role not in ROLES:
            jinja("Unexpected message role.")
        if role == "system":
            if index > 0:
                jinja("System message must be at the beginning.")
            continue
        if role == "user" and earlier == "tool":
            text = "Unexpected role 'user' after role 'tool'"
            raise Refusal(text, None, "3230", kind="invalid_request_message_order")
        expected = {None: ["user"], "user": ["assistant"], "assistant": ["user", "tool"]}
        if role not in expected.get(earlier, ["tool", "assistant"]):
            text = "Conversation roles must alternate user/assistant/user/assistant/..."
            raise Refusal(text, None, 400, kind="BadRequestError")
        earlier = role
    if not any(message["role"] == "user" for message in messages):
        text = 'Error rendering prompt with jinja template: "No user query found in messages."'
        raise Refusal(text)


CHECKS = {"openai": check_openai, "templates": check_templates}
