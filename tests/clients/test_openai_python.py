"""The official openai client for Python against the proxy's /v1, over the scripted upstream."""

import json
import urllib.request

import openai
from checks import Journal, check, raises, run, setting

PROXY = setting("PROXY_URL")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "required": ["b", "a"],
                "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}},
            },
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

journal = Journal(setting("UPSTREAM_URL"))
client = openai.OpenAI(base_url=f"{PROXY}/v1", api_key="anything", max_retries=0, timeout=30)


def complete(text, model="scripted-1", stream=False, **more):
    """The answer to one message, or its stream."""
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, stream=stream, **more)


def text_of(answer):
    """The text of a whole answer."""
    return answer.choices[0].message.content


@check
def models_are_the_upstreams_own():
    ids = [model.id for model in client.models.list()]
    assert "scripted-1" in ids, ids
    model = client.models.retrieve("scripted-1")
    assert (model.id, model.owned_by) == ("scripted-1", "scripted"), model
    error = raises(openai.NotFoundError, client.models.retrieve, "org/none")
    assert error.type == "not_found_error", error.body
    assert "model 'org/none:latest' not found" in str(error), error


@check
def whole_answers_with_usage():
    answer = complete("Hello there")
    assert text_of(answer) == "You said: Hello there", answer
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4), answer.usage
    assert answer.id == "scripted", answer


@check
def another_spelling_of_the_model_is_the_same_model():
    assert text_of(complete("Hi", model="scripted-1:latest")) == "You said: Hi"
    assert journal.entries()[-1]["body"]["model"] == "scripted-1"


@check
def streams_join_and_count():
    chunks = list(complete("slow 4 x", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "x0 x1 x2 x3", text
    assert chunks[-1].usage.completion_tokens == 4, chunks[-1]


@check
def tools_keep_the_order_of_their_schema():
    answer = complete('call add {"a": 1, "b": 2}', tools=TOOLS)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": 2})
    assert answer.choices[0].finish_reason == "tool_calls", answer
    sent = journal.entries()[-1]["body"]["tools"]
    assert json.dumps(sent) == json.dumps(TOOLS), sent


@check
def calls_come_in_pieces_as_the_upstream_cuts_them():
    chunks = list(complete('call add {"a": 1, "b": 2}', stream=True, tools=TOOLS))
    calls = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert len(calls) > 2, calls
    arguments = "".join(call.function.arguments for call in calls)
    assert json.loads(arguments) == {"a": 1, "b": 2}, arguments


@check
def structured_output_is_asked_for_as_it_was():
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    answer = complete("A person, as JSON", response_format=wanted)
    assert set(json.loads(text_of(answer))) == {"name", "age"}, answer


@check
def embeddings_come_in_the_form_that_the_upstream_has():
    # The client requests base64, which this upstream refuses: the proxy repairs the request.
    answer = client.embeddings.create(model="scripted-embed", input=["a", "b"])
    assert [len(item.embedding) for item in answer.data] == [8, 8], answer
    assert "encoding_format" not in journal.entries()[-1]["body"]


@check
def completions_keep_their_prompt():
    answer = client.completions.create(
        model="scripted-1", prompt="Once upon a time", max_tokens=50, stream=False
    )
    assert answer.choices[0].text, answer
    assert journal.entries()[-1]["body"]["prompt"] == "Once upon a time"


@check
def errors_keep_their_status_and_their_body():
    for status, kind in [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ]:
        error = raises(kind, complete, f"error {status}")
        assert error.status_code == status, error
        assert error.body["message"], error.body


@check
def errors_of_the_proxy_have_openais_shape():
    error = raises(openai.BadRequestError, complete, "Hi", model="")
    assert (error.type, error.param, error.code) == ("invalid_request_error", None, None)
    error = raises(openai.PermissionDeniedError, complete, "Hi", model="x:cloud")
    assert "cloud is disabled" in str(error), error


@check
def a_stream_that_breaks_off_raises():
    for text in ("break mid", "fail mid"):
        raises(openai.APIError, lambda text=text: list(complete(text, stream=True)))


@check
def headers_of_the_upstream_are_there():
    answer = client.chat.completions.with_raw_response.create(
        model="scripted-1", messages=[{"role": "user", "content": "Hi"}], stream=False
    )
    assert answer.headers["x-request-id"], answer.headers
    assert answer.http_response.headers["content-type"] == "application/json"
    assert text_of(answer.parse()) == "You said: Hi"


@check
def a_virtual_model_brings_its_system_prompt():
    body = {"model": "mario-v1", "from": "scripted-1", "system": "You are Mario.", "stream": False}
    request = urllib.request.Request(f"{PROXY}/api/create", json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=30).read()
    assert "mario-v1" in [model.id for model in client.models.list()]
    assert text_of(complete("system?", model="mario-v1")) == "You are Mario."
    request = urllib.request.Request(
        f"{PROXY}/api/delete", json.dumps({"model": "mario-v1"}).encode(), method="DELETE"
    )
    urllib.request.urlopen(request, timeout=30).read()


run()
