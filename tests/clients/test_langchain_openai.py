"""langchain-openai against the proxy's /v1, with the scripted upstream behind it."""

import json

import openai
from checks import Journal, check, raises, run, setting
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

WHERE = {"base_url": setting("PROXY_URL") + "/v1", "api_key": "theirs", "max_retries": 0}
MODEL = "scripted-1"
EMBED_MODEL = "scripted-embed"
journal = Journal(setting("UPSTREAM_URL"))


def model(**more):
    """A chat model with the settings of the check."""
    return ChatOpenAI(model=MODEL, **WHERE, **more)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def joined(chunks):
    """The whole of a stream."""
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


@check
def invoke_gives_text_and_usage():
    for name in (MODEL, "scripted-1:latest"):
        answer = ChatOpenAI(model=name, **WHERE).invoke("Hello there")
        assert answer.content == "You said: Hello there", answer
        usage = answer.usage_metadata
        assert (usage["input_tokens"], usage["output_tokens"]) == (2, 4), usage
        assert answer.response_metadata["finish_reason"] == "stop", answer.response_metadata
        assert journal.entries()[-1]["body"]["model"] == MODEL


@check
def invoke_sends_roles_and_parameters():
    messages = [SystemMessage("Be brief."), HumanMessage("messages?")]
    seen = json.loads(model().invoke(messages).content)
    assert seen == [["system", "Be brief."], ["user", "messages?"]], seen
    sent = json.loads(model(temperature=0, seed=3, max_tokens=50).invoke("params?").content)
    limit = sent.pop("max_tokens", None) or sent.pop("max_completion_tokens", None)
    assert (limit, sent) == (50, {"temperature": 0, "seed": 3}), sent


@check
def stream_gives_pieces_that_join():
    chunks = list(model(stream_usage=True).stream("echo: one two three"))
    texts = [chunk.content for chunk in chunks if chunk.content]
    assert texts == ["one", " two", " three"], texts
    assert joined(chunks).usage_metadata["output_tokens"] == 3, chunks


@check
async def async_invoke_and_stream():
    assert (await model().ainvoke("echo: yes")).content == "yes"
    texts = [chunk.content async for chunk in model().astream("echo: a b")]
    assert "".join(texts) == "a b", texts


@check
def a_tool_goes_round_whole_and_streamed():
    for stream in (False, True):
        bound = model().bind_tools([add], tool_choice="auto")
        messages = [HumanMessage('call add {"a": 1, "b": 2}')]
        answer = joined(bound.stream(messages)) if stream else bound.invoke(messages)
        assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("add", {"a": 1, "b": 2})]
        messages += [answer, add.invoke(answer.tool_calls[0])]
        assert bound.invoke(messages).content == 'add({"a": 1, "b": 2}) = 3', stream
        sent = journal.entries()[-1]["body"]["messages"][1]
        assert sent["content"] is None, "null goes through as it came"


@check
def parallel_calls_are_told_apart():
    answer = joined(model().bind_tools([add]).stream("calls:mixed 3"))
    assert [call["args"]["a"] for call in answer.tool_calls] == [0, 1, 2], answer
    assert len({call["id"] for call in answer.tool_calls}) == 3, answer


@check
def a_schema_gives_an_object():
    for method in ("json_schema", "function_calling"):
        made = model().with_structured_output(Person, method=method)
        asked = "Who?" if method == "json_schema" else 'call Person {"name": "text", "age": 7}'
        assert made.invoke(asked) == Person(name="text", age=7), method
    kind = model().with_structured_output(Person, method="json_mode", include_raw=True)
    assert kind.invoke("Who, in JSON?")["raw"].content == '{"ok": true}'


@check
def embeddings_of_one_and_of_many():
    # Tokens instead of texts are for OpenAI's own models only.
    more = {"check_embedding_ctx_length": False, "model_kwargs": {"encoding_format": "float"}}
    embeddings = OpenAIEmbeddings(model=EMBED_MODEL, **more, **WHERE)
    assert len(embeddings.embed_query("b")) == 8
    assert [len(vector) for vector in embeddings.embed_documents(["a", "b"])] == [8, 8]


@check
def responses_answer_and_stream():
    chat = model(use_responses_api=True)
    assert chat.invoke("Hello there").text == "You said: Hello there"
    assert joined(chat.stream("echo: one two")).text == "one two"
    bound = chat.bind_tools([add])
    messages = [HumanMessage('call add {"a": 1, "b": 2}')]
    answer = bound.invoke(messages)
    messages += [answer, add.invoke(answer.tool_calls[0])]
    assert bound.invoke(messages).text == 'add({"a": 1, "b": 2}) = 3'


@check
def errors_are_raised():
    error = raises(openai.RateLimitError, model().invoke, "error 429")
    assert error.code == "rate_limit_exceeded", error
    error = raises(openai.NotFoundError, ChatOpenAI(model="nope", **WHERE).invoke, "Hello")
    assert "nope" in str(error), error
    for words in ("break mid", "fail mid"):
        raises(Exception, lambda words=words: list(model().stream(words)))


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
