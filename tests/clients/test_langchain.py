"""langchain-ollama against the proxy, with the scripted upstream behind it."""

import json

from checks import Journal, check, raises, run, setting
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel

PROXY = setting("PROXY_URL")
MODEL = "scripted-1"
EMBED_MODEL = "scripted-embed"
journal = Journal(setting("UPSTREAM_URL"))


def model(**more):
    """A chat model with the settings of the check."""
    return ChatOllama(model=MODEL, base_url=PROXY, **more)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


# --- Text ---------------------------------------------------------------------------------------


@check
def invoke_gives_text_and_usage():
    answer = model().invoke("Hello there")
    assert answer.content == "You said: Hello there", answer
    assert answer.usage_metadata["input_tokens"] == 2, answer.usage_metadata
    assert answer.usage_metadata["output_tokens"] == 4, answer.usage_metadata
    assert answer.response_metadata["done_reason"] == "stop", answer.response_metadata
    assert answer.response_metadata["model"] == MODEL, answer.response_metadata


@check
def invoke_sends_roles_and_options():
    messages = [SystemMessage("Be brief."), HumanMessage("messages?")]
    seen = json.loads(model().invoke(messages).content)
    assert seen == [["system", "Be brief."], ["user", "messages?"]], seen
    sent = json.loads(model(temperature=0, seed=3, num_predict=50).invoke("params?").content)
    limit = sent.pop("max_tokens", None) or sent.pop("max_completion_tokens", None)
    assert (limit, sent) == (50, {"temperature": 0, "seed": 3}), sent


@check
def stream_gives_pieces_that_join():
    chunks = list(model().stream("echo: one two three"))
    assert len(chunks) >= 3, chunks
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == "one two three", whole
    assert whole.usage_metadata["output_tokens"] == 3, whole


@check
async def async_invoke_and_stream():
    assert (await model().ainvoke("echo: yes")).content == "yes"
    texts = [chunk.content async for chunk in model().astream("echo: a b")]
    assert "".join(texts) == "a b", texts


@check
def the_completion_model_uses_generate():
    llm = OllamaLLM(model=MODEL, base_url=PROXY)
    assert llm.invoke("Hello") == "You said: Hello"
    assert "".join(llm.stream("echo: a b c")) == "a b c"


@check
def odd_characters_survive():
    odd = "a\u2028b c\u2029d e\u0085f \U0001f600"
    assert "".join(chunk.content for chunk in model().stream("echo: " + odd)) == odd


@check
def errors_are_raised():
    import ollama

    error = raises(ollama.ResponseError, model().invoke, "error 429")
    assert error.status_code == 429, error
    raises(ollama.ResponseError, model().invoke, "fail mid")


# --- The model list -----------------------------------------------------------------------------


@check
def validation_finds_the_model_with_and_without_a_tag():
    for name in (MODEL, "scripted-1:latest", "team/other:8b"):
        ChatOllama(model=name, base_url=PROXY, validate_model_on_init=True)
    OllamaEmbeddings(model=EMBED_MODEL, base_url=PROXY, validate_model_on_init=True)


@check
def validation_misses_an_unknown_model():
    error = raises(
        ValueError, ChatOllama, model="nope", base_url=PROXY, validate_model_on_init=True
    )
    assert "not found" in str(error), error


# --- Embeddings ---------------------------------------------------------------------------------


@check
def embeddings_of_one_and_of_many():
    embeddings = OllamaEmbeddings(model=EMBED_MODEL, base_url=PROXY)
    many = embeddings.embed_documents(["a", "b", "c"])
    assert [len(vector) for vector in many] == [8, 8, 8], many
    assert embeddings.embed_query("b") == many[1]


# --- Structured output --------------------------------------------------------------------------


@check
def a_schema_gives_an_object():
    made = model().with_structured_output(Person).invoke("Who?")
    assert made == Person(name="text", age=7), made
    kind = model().with_structured_output(Person, method="json_mode", include_raw=True)
    assert kind.invoke("Who, in JSON?")["raw"].content == '{"ok": true}'


@check
def a_schema_by_a_tool_call_gives_an_object():
    made = model().with_structured_output(Person, method="function_calling")
    assert made.invoke('call Person {"name": "Ann", "age": 3}') == Person(name="Ann", age=3)


# --- Tools --------------------------------------------------------------------------------------


@check
def tool_calls_arrive_whole_and_results_find_them():
    bound = model().bind_tools([add, shout])
    for style in ("", ":whole", ":noindex", ":object", ":mixed"):
        messages = [HumanMessage(f'call{style} add {{"a": 1, "b": 2}}')]
        answer = bound.invoke(messages)
        assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("add", {"a": 1, "b": 2})]
        messages += [answer, add.invoke(answer.tool_calls[0])]
        assert bound.invoke(messages).content == 'add({"a": 1, "b": 2}) = 3', style


@check
def parallel_calls_of_one_tool_keep_their_results_apart():
    bound = model().bind_tools([add])
    messages = [HumanMessage("calls:mixed 3")]
    answer = bound.invoke(messages)
    assert [call["args"]["a"] for call in answer.tool_calls] == [0, 1, 2], answer
    messages.append(answer)
    # The official client drops the ids: results are matched by order.
    for call in answer.tool_calls:
        messages.append(ToolMessage(f"r{call['args']['a']}", tool_call_id=call["id"]))
    text = bound.invoke(messages).content
    assert [part.rsplit(" ", 1)[1] for part in text.split("; ")] == ["r0", "r1", "r2"], text


@check
def a_stream_gives_whole_tool_calls():
    whole = None
    for chunk in model().bind_tools([add]).stream('call add {"a": 4, "b": 5}'):
        whole = chunk if whole is None else whole + chunk
    assert [call["args"] for call in whole.tool_calls] == [{"a": 4, "b": 5}], whole


@check
def definitions_reach_the_upstream():
    sent = json.loads(model().bind_tools([add]).invoke("tools?").content)
    assert [one["function"]["name"] for one in sent] == ["add"], sent
    assert sent[0]["function"]["parameters"]["required"] == ["a", "b"], sent


# --- Thinking -----------------------------------------------------------------------------------


@check
def reasoning_is_told_apart_from_the_answer():
    for style in ("", ":short", ":inline"):
        answer = model(reasoning=True).invoke(f"think{style} forty two")
        assert answer.content == "forty two", (style, answer)
        thought = answer.additional_kwargs["reasoning_content"]
        assert thought.strip() == "Let me think about it.", (style, thought)


@check
def reasoning_off_hides_it():
    for style in ("", ":inline"):
        answer = model(reasoning=False).invoke(f"think{style} forty two")
        assert answer.content == "forty two", (style, answer)
        assert "reasoning_content" not in answer.additional_kwargs, (style, answer)


# --- Images -------------------------------------------------------------------------------------


@check
def an_image_is_sent_with_its_type():
    picture = "data:image/jpeg;base64,iVBORw0KGgoAAAANSUhEUg=="  # It is a PNG, whatever this says.
    parts = [{"type": "text", "text": "images?"}, {"type": "image_url", "image_url": picture}]
    assert json.loads(model().invoke([HumanMessage(parts)]).content) == ["image/png"]


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
