"""`responses` of the `openai` package against the proxy, over a scripted upstream without that route."""

import json
from typing import Literal

import openai
from checks import Journal, check, raises, run, setting
from pydantic import BaseModel

MODEL = "scripted-1"
ADD = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="

client = openai.OpenAI(base_url=setting("PROXY_URL") + "/v1", api_key="any", max_retries=0)
journal = Journal(setting("UPSTREAM_URL"))


class Person(BaseModel):
    """What a parsed answer holds."""

    name: str
    kind: Literal["a", "b"]


def fits(value):
    """Sees that a value is what its type says, but for counts that Ollama does not tell."""
    members = value.to_dict()
    for holder in (members, members.get("response", {})):
        if holder.get("usage"):
            holder["usage"]["input_tokens_details"]["cache_write_tokens"] = 0
    return type(value).model_validate(members)


def create(text, **more):
    """The answer to one input, or its stream."""
    return client.responses.create(model=MODEL, input=text, **more)


@check
def a_whole_answer_with_usage():
    answer = create("Hello there")
    assert answer.output_text == "You said: Hello there", answer
    assert answer.status == "completed" and answer.model == MODEL, answer
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 4), answer.usage


@check
def the_package_s_own_types_take_the_whole_object():
    answer = create("call add {}", tools=[ADD], instructions="Be brief.", reasoning={"effort": "low"})
    assert fits(answer).output[-1].name == "add", answer


@check
def events_in_order_up_to_the_whole_object():
    events = list(create("echo: one two", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert texts == ["one", " two"], texts
    assert kinds[-1] == "response.completed", kinds
    assert events[-1].response.output_text == "one two", events[-1]
    for event in events:
        fits(event)


@check
def the_stream_helper_gathers_the_answer():
    with client.responses.stream(model=MODEL, input="think yes indeed") as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    assert "response.reasoning_summary_text.delta" in kinds, kinds
    assert answer.output_text == "yes indeed", answer
    assert answer.output[0].summary[0].text == "Let me think about it.", answer


@check
def a_tool_round_trip_streamed_and_whole():
    for streamed in (False, True):
        talk = [{"role": "user", "content": "calls 2"}]
        answer = create(talk, tools=[ADD], stream=streamed)
        if streamed:
            answer = list(answer)[-1].response
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [call.name for call in calls] == ["add", "add"], answer
        talk += answer.output
        for call in calls:
            total = sum(json.loads(call.arguments).values())
            made = {"type": "function_call_output", "call_id": call.call_id, "output": str(total)}
            talk.append(made)
        answer = create(talk, tools=[ADD])
        assert "0" in answer.output_text and "2" in answer.output_text, answer.output_text


@check
def a_choice_of_tools_goes_along():
    create("Hello", tools=[ADD], tool_choice="required")
    create("Hello", tools=[ADD], tool_choice={"type": "function", "name": "add"})
    sent = [entry["body"].get("tool_choice") for entry in journal.entries() if entry["body"]]
    named = {"type": "function", "function": {"name": "add"}}
    assert sent[-2:] == ["required", named], sent


@check
def instructions_images_and_sampling():
    assert create("system?", instructions="Be brief.").output_text == "Be brief."
    parts = [
        {"type": "input_text", "text": "images?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
    ]
    answer = create([{"role": "user", "content": parts}])
    assert json.loads(answer.output_text) == ["image/png"], answer.output_text
    asked = create("params?", temperature=0.5, top_p=0.9, max_output_tokens=9)
    sent = json.loads(asked.output_text)
    assert sent == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 9}, sent


@check
def a_parsed_answer():
    answer = client.responses.parse(model=MODEL, input="Who?", text_format=Person)
    assert answer.output_parsed == Person(name="text", kind="a"), answer.output_parsed


@check
def errors_before_and_inside_a_stream():
    error = raises(openai.BadRequestError, client.responses.create, model="", input="Hello")
    assert "model is required" in str(error), error
    raises(openai.NotFoundError, client.responses.create, model="nobody", input="Hello")
    for text in ("break mid", "fail mid"):
        last = list(create(text, stream=True))[-1]
        assert last.type == "response.failed" and last.response.status == "failed", last
        assert last.response.error.code and last.response.error.message, last


@check
async def async_events():
    async with openai.AsyncOpenAI(base_url=str(client.base_url), api_key="any") as other:
        stream = await other.responses.create(model=MODEL, input="echo: yes", stream=True)
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed", kinds


@check
def the_upstream_was_asked_for_the_route_only_once():
    asked = [entry["path"] for entry in journal.entries()]
    assert asked.count("/v1/responses") <= 1, asked


run()
