"""Anthropic's own Python client against the proxy, with the scripted upstream behind it."""

import base64
import json

import anthropic
from checks import Journal, check, raises, run, setting

PROXY = setting("PROXY_URL")
MODEL = "scripted-1"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
TOOLS = [
    {
        "name": "add",
        "description": "Add two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    }
]

journal = Journal(setting("UPSTREAM_URL"))
client = anthropic.Anthropic(base_url=PROXY, api_key="theirs", max_retries=0, timeout=30)


def asked(content, **more):
    """The arguments of `create` and `stream` for one message, or for a conversation."""
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    return {"model": MODEL, "max_tokens": 100, "messages": messages, **more}


def create(content, **more):
    """The answer to one message, or to a conversation."""
    return client.messages.create(**asked(content, **more))


def text_of(message):
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


@check
def whole_answers_with_usage():
    message = create("Hello there")
    assert text_of(message) == "You said: Hello there", message
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL), message
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None), message
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 4), message.usage
    assert message.id.startswith("msg_"), message


@check
def streams_join_to_the_same_message():
    with client.messages.stream(**asked("slow 4 x")) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) == 4 and "".join(texts) == "x0 x1 x2 x3", texts
    assert text_of(message) == "x0 x1 x2 x3", message
    assert message.stop_reason == "end_turn", message
    assert message.usage.output_tokens == 4, message.usage


@check
def raw_events_come_in_order():
    kinds = [event.type for event in create("echo: Hi", stream=True)]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", *block, "message_delta", "message_stop"], kinds


@check
async def async_answers():
    async with anthropic.AsyncAnthropic(base_url=PROXY, api_key="theirs") as asynchronous:
        message = await asynchronous.messages.create(**asked("echo: yes"))
        assert text_of(message) == "yes", message
        async with asynchronous.messages.stream(**asked("echo: yes again")) as stream:
            assert "".join([text async for text in stream.text_stream]) == "yes again"


@check
def system_prompts_and_parameters_arrive():
    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    blocks.append({"type": "text", "text": "Be kind."})
    assert text_of(create("system?", system=blocks)) == "Be brief.\n\nBe kind."
    assert text_of(create("system?", system="Be kind.")) == "Be kind."
    # Newer versions of the package no longer name these two.
    older = {"temperature": 0.5, "top_p": 0.9}
    sent = text_of(create("params?", stop_sequences=["END"], extra_body=older))
    wanted = {"max_tokens": 100, "stop": ["END"], "temperature": 0.5, "top_p": 0.9}
    assert json.loads(sent) == wanted, sent


@check
def a_limit_is_told():
    assert create("length").stop_reason == "max_tokens"


@check
def tools_go_round():
    for stream in (False, True):
        history = [{"role": "user", "content": 'call add {"a": 2, "b": 3}'}]
        more = {"tools": TOOLS, "tool_choice": {"type": "any"}}
        if stream:
            with client.messages.stream(**asked(history, **more)) as events:
                message = events.get_final_message()
        else:
            message = create(history, **more)
        assert message.stop_reason == "tool_use", message
        (call,) = message.content
        assert (call.type, call.name, call.input) == ("tool_use", "add", {"a": 2, "b": 3}), call
        history.append({"role": "assistant", "content": message.content})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "5"}
        history.append({"role": "user", "content": [result]})
        answer = create(history, tools=TOOLS)
        assert text_of(answer) == 'add({"a": 2, "b": 3}) = 5', answer
        sent = [entry["body"] for entry in journal.entries() if entry["body"]]
        assert (sent[-2]["tool_choice"], "tool_choice" in sent[-1]) == ("required", False), sent


@check
def results_with_errors_and_images_arrive():
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "b": 1}}
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}]
    failed = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "No.", "is_error": True}
    answer = create([*history, {"role": "user", "content": [failed]}], tools=TOOLS)
    assert text_of(answer) == 'add({"a": 1, "b": 1}) = Error: No.', answer
    image = {"type": "base64", "media_type": "image/png", "data": PNG}
    content = [{"type": "image", "source": image}, {"type": "text", "text": "images?"}]
    assert text_of(create([{"role": "user", "content": content}])) == '["image/png"]'


@check
def thinking_comes_in_blocks_of_its_own():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = create("think echo", thinking=thinking, max_tokens=2000)
    assert [block.type for block in message.content] == ["thinking", "text"], message
    assert message.content[0].thinking == "Let me think about it.", message
    more = {"thinking": thinking, "max_tokens": 2000}
    with client.messages.stream(**asked("think echo", **more)) as stream:
        thoughts = [event.thinking for event in stream if event.type == "thinking"]
        final = stream.get_final_message()
    assert "".join(thoughts) == "Let me think about it.", thoughts
    assert [block.type for block in final.content] == ["thinking", "text"], final
    hidden = create("think echo", thinking={"type": "disabled"})
    assert [block.type for block in hidden.content] == ["text"], hidden
    again = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": message.content}]
    answer = create([*again, {"role": "user", "content": "echo: fine"}])
    assert text_of(answer) == "fine", answer


@check
def tokens_are_counted():
    messages = [{"role": "user", "content": "x" * 40}]
    count = client.messages.count_tokens(model=MODEL, messages=messages, system="s" * 40)
    assert count.input_tokens == 20, count


@check
def errors_have_their_classes():
    kinds = {
        400: anthropic.BadRequestError,
        401: anthropic.AuthenticationError,
        429: anthropic.RateLimitError,
        500: anthropic.InternalServerError,
    }
    for status, kind in kinds.items():
        error = raises(kind, create, f"error {status}")
        assert error.status_code == status, error
        assert error.body["type"] == "error" and error.body["error"]["message"], error.body
    missing = raises(anthropic.NotFoundError, create, "Hi", model="nobody")
    assert missing.body["error"]["type"] == "not_found_error", missing.body
    assert missing.body["error"]["message"] == "model: nobody", missing.body
    refused = raises(anthropic.BadRequestError, create, "Hi", max_tokens=0)
    assert "max_tokens is required and must be positive" in str(refused), refused


@check
def streams_that_fail_raise():
    for words in ("break mid", "fail mid"):
        error = raises(anthropic.APIError, lambda: list(create(words, stream=True)))
        assert error.body["error"]["message"], error


@check
def the_upstream_saw_nothing_odd():
    journal.check_rules()


run()
