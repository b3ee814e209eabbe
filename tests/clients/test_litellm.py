"""litellm's two Ollama providers against the proxy, with the scripted upstream behind it."""

import json
import os
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Its price list is not to be fetched.

import litellm  # noqa: E402
import yaml  # noqa: E402
from checks import Journal, check, raises, run, setting  # noqa: E402

PROXY = setting("PROXY_URL")
PROVIDERS = ("ollama_chat/scripted-1", "ollama/scripted-1")
CHAT = PROVIDERS[0]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}

litellm.telemetry = False
litellm.suppress_debug_info = True
journal = Journal(setting("UPSTREAM_URL"))


def complete(model, text, **more):
    """The answer to one message, or its stream."""
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return litellm.completion(model, messages=messages, api_base=PROXY, timeout=30, **more)


def text_of(answer):
    """The text of a whole answer."""
    return answer.choices[0].message.content


@check
def whole_answers_with_usage():
    answer = complete(CHAT, "Hello there")
    assert text_of(answer) == "You said: Hello there", answer
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4), answer.usage
    assert answer.choices[0].finish_reason == "stop", answer
    answer = complete(PROVIDERS[1], "Hello there")
    assert text_of(answer).startswith("You said: "), answer
    assert answer.usage.completion_tokens > 0, answer.usage


@check
def streams_join():
    # The older provider joins the messages to one prompt, with its own template.
    wanted = ("x0 x1 x2 x3", "You said: ### User:\nslow 4 x")
    for provider, expected in zip(PROVIDERS, wanted):
        chunks = list(complete(provider, "slow 4 x", stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text.strip() == expected, (provider, text)
        assert len(chunks) > 4, (provider, chunks)
        assert chunks[-1].choices[0].finish_reason == "stop", (provider, chunks[-1])


@check
async def async_answers():
    messages = [{"role": "user", "content": "echo: yes"}]
    answer = await litellm.acompletion(CHAT, messages=messages, api_base=PROXY)
    assert text_of(answer) == "yes", answer


@check
def options_reach_the_upstream():
    sent = json.loads(text_of(complete(CHAT, "params?", temperature=0, seed=3, max_tokens=50)))
    limit = sent.pop("max_tokens", None) or sent.pop("max_completion_tokens", None)
    assert (limit, sent) == (50, {"temperature": 0, "seed": 3}), sent


@check
def formats_give_json():
    wanted = {"type": "json_object"}
    assert json.loads(text_of(complete(CHAT, "JSON?", response_format=wanted))) == {"ok": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    made = json.loads(text_of(complete(CHAT, "Who?", response_format=wanted)))
    assert made == {"name": "text", "age": 7}, made


@check
def embeddings_of_many():
    answer = litellm.embedding("ollama/scripted-embed", input=["a", "b"], api_base=PROXY)
    assert [len(one["embedding"]) for one in answer.data] == [8, 8], answer


@check
def the_model_is_known_to_call_functions():
    info = litellm.get_model_info(CHAT, api_base=PROXY)
    assert info["supports_function_calling"] is True, info
    assert info["max_input_tokens"] == 32768, info


@check
def tool_calls_arrive_and_results_find_them():
    for style in ("", ":whole", ":noindex", ":object", ":mixed"):
        messages = [{"role": "user", "content": f'call{style} add {{"a": 1, "b": 2}}'}]
        message = complete(CHAT, messages, tools=TOOLS).choices[0].message
        call = message.tool_calls[0]
        assert call.function.name == "add", call
        assert json.loads(call.function.arguments) == {"a": 1, "b": 2}, call
        messages.append(message.model_dump())
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "3"})
        text = text_of(complete(CHAT, messages, tools=TOOLS))
        assert text == 'add({"a": 1, "b": 2}) = 3', (style, text)


@check
def a_stream_gives_tool_calls():
    chunks = list(complete(CHAT, 'call add {"a": 4, "b": 5}', tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [json.loads(call.function.arguments) for call in calls] == [{"a": 4, "b": 5}], calls


@check
def reasoning_is_told_apart_from_the_answer():
    message = complete(CHAT, "think forty two", reasoning_effort="low").choices[0].message
    assert message.content == "forty two", message
    assert message.reasoning_content == "Let me think about it.", message


@check
def an_image_is_sent_with_its_type():
    picture = "data:image/jpeg;base64,iVBORw0KGgoAAAANSUhEUg=="
    parts = [
        {"type": "text", "text": "images?"},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    answer = complete(CHAT, [{"role": "user", "content": parts}])
    assert json.loads(text_of(answer)) == ["image/png"], answer


@check
async def the_file_of_scripts_clients_asks_the_proxy():
    text = (Path(__file__).resolve().parents[2] / "scripts/clients/litellm.yaml").read_text()
    text = text.replace("http://localhost:11434", PROXY).replace("gpt-4o", "scripted-1")
    router = litellm.Router(model_list=yaml.safe_load(text)["model_list"])
    messages = [{"role": "user", "content": "echo: yes"}]
    # LiteLLM leaves `stream` out where it is false, which this upstream refuses.
    chunks = [it async for it in await router.acompletion("scripted-1", messages=messages, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "yes", chunks


@check
def an_unknown_model_is_an_error():
    error = raises(litellm.exceptions.NotFoundError, complete, "ollama_chat/nope", "Hello")
    assert "not found" in str(error), error


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
