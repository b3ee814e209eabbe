"""The upstream of the agents refuses what OpenAI and strict templates refuse, and plays its session."""

import copy
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from agent_rules import CHECKS, Refusal
from agent_session import FINAL, filled
from checks import check, run

HERE = Path(__file__).resolve().parent
SHELL = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "why": {"type": "string"}},
    "required": ["command", "why"],
}
GOOD = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "Go."}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ],
    "tools": [{"type": "function", "function": {"name": "bash", "parameters": SHELL}}],
    "max_tokens": 16384,
    "stop": ["a", "b", "c", "d"],
    "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
CALL = "messages.2.tool_calls.0"
FUNCTION = "tools.0.function"
# A place in the body, the value put there, and what the refusal says.
OPENAI = [
    ("thinking", {}, "Unrecognized request argument supplied: thinking"),
    ("temperature", "1", "Invalid type for 'temperature': expected a decimal, but got a string"),
    ("temperature", 3, "Expected a value <= 2, but got 3 instead"),
    ("max_tokens", 32000, "max_tokens is too large: 32000. This model supports at most 16384"),
    ("max_completion_tokens", 5, "at the same time is not supported"),
    ("reasoning_effort", "low", "Unrecognized request argument supplied: reasoning_effort"),
    ("stop", ["a"] * 5, "Invalid 'stop': array too long. Expected an array with maximum length 4"),
    ("stream", False, "The 'stream_options' parameter is only allowed when 'stream' is enabled"),
    ("prompt_cache_key", "k" * 65, "Invalid 'prompt_cache_key': string too long"),
    ("metadata", {"a": "b"}, "'metadata' parameter is only allowed when 'store' is enabled"),
    ("model", "gpt-9", "The model `gpt-9` does not exist"),
    ("messages", [], "Invalid 'messages': empty array"),
    ("messages.0.role", "narrator", "Invalid value: 'narrator'. Supported values are"),
    ("messages.2.reasoning_content", "Hm", "Unknown parameter: 'messages[2].reasoning_content'."),
    ("messages.1.content", [], "Invalid 'messages[1].content': empty array"),
    ("messages.1.content.0.cache_control", {}, "Unknown parameter: 'messages[1].content[0].cache_control'."),
    ("messages.1.content.0.type", "input_text", "Invalid value: 'input_text'."),
    ("messages.3.content", [{"type": "image_url", "image_url": {"url": "https://a/b"}}], "only allowed for"),
    ("messages.1.content.0", {"type": "image_url", "image_url": {"url": "a.png"}}, "Invalid image URL"),
    ("messages.3.tool_call_id", "call_2", "must be a response to a preceeding message"),
    ("messages.3", {"role": "user", "content": "No."}, "did not have response messages: call_1"),
    (f"{CALL}.id", "c" * 41, "string too long. Expected a string with maximum length 40"),
    (f"{CALL}.index", 0, "Unknown parameter: 'messages[2].tool_calls[0].index'."),
    (f"{CALL}.function.name", "a.b", "'messages[2].tool_calls[0].function.name': string does not match"),
    (f"{CALL}.function.arguments", {}, "expected a string, but got an object instead"),
    ("messages.2.tool_calls", [], "Invalid 'messages[2].tool_calls': empty array"),
    ("tools", [], "Invalid 'tools': empty array"),
    (f"{FUNCTION}.name", "multi_agent.spawn", "Invalid 'tools[0].function.name': string does not match"),
    (f"{FUNCTION}.name", "n" * 65, "Expected a string with maximum length 64"),
    (f"{FUNCTION}.defer_loading", True, "Unknown parameter: 'tools[0].function.defer_loading'."),
    (f"{FUNCTION}.parameters", {"type": "object"}, "In context=(), object schema missing properties."),
    (f"{FUNCTION}.parameters", {"properties": {}}, "schema must be a JSON Schema of 'type: \"object\"'"),
    (f"{FUNCTION}.parameters.properties.command", {"type": "array"}, "array schema missing items."),
    (f"{FUNCTION}.strict", True, "'additionalProperties' is required to be supplied and to be false."),
    ("tools.0", {"type": "custom", "custom": {"name": "apply_patch"}}, "Supported values are: 'function'."),
    ("tools.0", {"type": "web_search"}, "Invalid value: 'web_search'."),
    ("tool_choice", {"type": "function", "function": {"name": "x"}}, "not found in 'tools' parameter"),
    ("response_format", {"type": "json_object"}, "must contain the word 'json'"),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
     "got 'type: \"array\"'"),
]  # fmt: skip
USER = {"role": "user", "content": "And?"}
TEMPLATES = [
    ("max_tokens", 32000, "the valid range of max_tokens is [1, 16384]"),
    ("messages.1.role", "system", "System message must be at the beginning."),
    ("messages.0.role", "developer", "Unexpected message role."),
    ("messages.0", USER, "Conversation roles must alternate"),
    ("messages.4", USER, "Unexpected role 'user' after role 'tool'"),
    (f"{FUNCTION}.name", "a.b", "Function name was a.b"),
    (f"{CALL}.function.arguments", "{", "Failed to parse tool call arguments as JSON"),
    ("tools.0", {"type": "custom", "custom": {"name": "apply_patch"}}, "Input should be 'function'"),
]


def changed(path, value):
    """The good request with one value changed; a list grows by one at its end."""
    body = copy.deepcopy(GOOD)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = body
    for step in steps:
        place = place[step]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return body


def refused(mode, table):
    """Each row of a table must be refused with its words."""
    for path, value, words in table:
        try:
            CHECKS[mode](changed(path, value))
        except Refusal as refusal:
            assert words in str(refusal), f"{path}: {refusal}"
            assert refusal.body["error"]["message"] == str(refusal)
        else:
            raise AssertionError(f"{path}: {value!r} is taken")


@check
def a_correct_request_is_taken():
    for mode in CHECKS:
        CHECKS[mode](copy.deepcopy(GOOD))


@check
def openai_refuses_what_it_refuses():
    refused("openai", OPENAI)


@check
def strict_templates_refuse_what_they_refuse():
    refused("templates", TEMPLATES)


@check
def templates_ignore_what_they_do_not_know():
    CHECKS["templates"](changed("thinking", {}))
    CHECKS["templates"](changed("messages.2.reasoning_content", "Hm"))


@check
def reasoning_models_have_rules_of_their_own():
    body = changed("model", "gpt-5.5")
    del body["stop"]
    for path, value, words in [
        ("max_tokens", 5, "Use 'max_completion_tokens' instead."),
        ("temperature", 0.5, "'temperature' does not support 0.5 with this model"),
        ("reasoning_effort", "high", "Function tools with reasoning_effort are not supported"),
        ("reasoning_effort", "hyper", "'reasoning_effort' does not support 'hyper'"),
    ]:
        wrong = {name: each for name, each in body.items() if name != "max_tokens"} | {path: value}
        try:
            CHECKS["openai"](wrong)
        except Refusal as refusal:
            assert words in str(refusal), refusal
        else:
            raise AssertionError(f"{path} is taken")


@check
def arguments_are_filled_in_by_their_names():
    schema = {
        "type": "object",
        "properties": {
            "edits": {"type": "array", "items": {"$ref": "#/$defs/edit"}},
            "file_path": {"type": "string"},
            "force": {"type": "boolean"},
            "timeout": {"type": "integer"},
        },
        "required": ["edits", "file_path", "force"],
        "$defs": {"edit": {"type": "object", "properties": {
            "oldText": {"type": "string"}, "newText": {"type": "string"}}}},
    }  # fmt: skip
    values = {"path": "/a", "old": "x", "new": "y"}
    wanted = {"edits": [{"oldText": "x", "newText": "y"}], "file_path": "/a", "force": True}
    assert filled(schema, values) == wanted, filled(schema, values)


class Server:
    """The upstream in one mode, for one check."""

    def __init__(self, mode):
        command = [sys.executable, str(HERE / "agent_upstream.py"), "--mode", mode]
        out = subprocess.PIPE
        self.program = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, text=True)
        self.url = f"http://127.0.0.1:{self.program.stdout.readline().strip()}/v1/chat/completions"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.kill()
        self.program.wait()

    def ask(self, body):
        """The message of an answer, or the text of the error."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)["choices"][0]["message"]
        except urllib.error.HTTPError as error:
            return json.load(error)["error"]["message"]


def played(server, task):
    """The answers of a session whose tools all succeed."""
    messages = [{"role": "user", "content": f"Do {task} in folder:/tmp/nowhere."}]
    tools = [
        {"type": "function", "function": {"name": "bash", "parameters": SHELL}},
        {"type": "function", "function": {"name": "mcp__tiny__add", "parameters": {
            "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}}},
    ]  # fmt: skip
    for _ in range(9):
        answer = server.ask({"model": "gpt-4o", "messages": messages, "tools": tools})
        yield answer
        if isinstance(answer, str):
            prompt = {"role": "user", "content": "Create a detailed summary of the conversation."}
            between = {"role": "assistant", "content": "OK."}
            summary = server.ask({"model": "gpt-4o", "messages": [*messages, between, prompt]})
            messages = [{"role": "user", "content": summary["content"]}]
            continue
        calls = answer.get("tool_calls", [])
        if not calls:
            return
        messages.append({"role": "assistant", "content": answer["content"], "tool_calls": calls})
        for call in calls:
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "42"})


@check
def the_session_of_work_goes_its_way():
    for mode in CHECKS:
        with Server(mode) as server:
            answers = list(played(server, "task:work+mcp"))
        calls = [[call["function"]["name"] for call in each.get("tool_calls", [])] for each in answers]
        assert calls == [["bash"], ["bash", "bash"], ["bash"], ["mcp__tiny__add"], []], calls
        assert answers[-1]["content"] == f"{FINAL} The sum is 42", answers[-1]
        assert answers[0]["reasoning_content"], answers[0]


@check
def a_full_context_is_refused_until_there_is_a_summary():
    for mode in CHECKS:
        with Server(mode) as server:
            answers = list(played(server, "task:overflow"))
        assert [isinstance(each, str) for each in answers] == [False, True, False, False], answers
        assert "context" in answers[1] and answers[-1]["content"] == FINAL, answers


if __name__ == "__main__":
    os.environ["NO_PROXY"] = "*"
    run()
