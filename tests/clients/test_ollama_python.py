"""The official Python client against the proxy, with the scripted upstream behind it."""

import asyncio
import base64
import json
import math
import tempfile
import time
from pathlib import Path

import ollama
from checks import Journal, check, raises, run, setting
from pydantic import BaseModel
from upstream_plans import vector

PROXY = setting("PROXY_URL")
UPSTREAM = setting("UPSTREAM_URL")
MODEL = "scripted-1"
EMBED_MODEL = "scripted-embed"
NAMES = {"scripted-1:latest", "scripted-embed:latest", "team/other:8b"}
COUNTERS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]

# The first bytes of each format; the rest is not read.
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 "
GIF = b"GIF89a\x01\x00\x01\x00"
STYLES = ("", ":whole", ":noindex", ":object", ":mixed")
THOUGHT = "Let me think about it."

client = ollama.Client(host=PROXY, timeout=30)
journal = Journal(UPSTREAM)


def a_client():
    """An async client; one for each event loop."""
    return ollama.AsyncClient(host=PROXY, timeout=60)


def user(text):
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def say(text, **more):
    """The text of a whole chat response."""
    return client.chat(MODEL, user(text), **more).message.content


def check_final(answer):
    """Assert the members of the last object of a response."""
    assert answer.done is True, answer
    assert answer.model == MODEL, answer.model
    for name in COUNTERS:
        assert isinstance(answer[name], int) and answer[name] >= 1, (name, answer[name])
    assert answer.created_at, answer


def check_lines(lines, text_of, expected):
    """A stream: one final line, at its end, and the right text."""
    assert len(lines) > 1, lines
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True], lines
    assert "".join(text_of(line) for line in lines) == expected, lines
    check_final(lines[-1])


def chat_text(line):
    return line.message.content


def generate_text(line):
    return line.response


def close(left, right):
    """Whether two vectors are the same but for rounding."""
    return len(left) == len(right) and all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(left, right)
    )


def unit(values):
    """The vector at length one."""
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def running():
    return {model.model for model in client.ps().models}


# --- Listing and information --------------------------------------------------------------------


@check
def list_names_every_model_with_a_tag():
    models = client.list().models
    assert {model.model for model in models} == NAMES, models


@check
def list_fills_every_field():
    models = client.list().models
    for model in models:
        assert len(model.digest) == 64 and int(model.digest, 16) >= 0, model
        assert model.size is not None and model.size >= 0, model
        assert model.modified_at.tzinfo is not None, model
        assert isinstance(model.details.family, str), model
        assert isinstance(model.details.parameter_size, str), model
        assert isinstance(model.details.quantization_level, str), model
    assert len({model.digest for model in models}) == len(models), "equal digests"


@check
def show_tells_capabilities_and_architecture():
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities, shown.capabilities
    assert "embedding" not in shown.capabilities, shown.capabilities
    assert isinstance(shown.modelinfo["general.architecture"], str), shown.modelinfo


@check
def show_accepts_the_listed_names():
    for name in NAMES:
        assert client.show(name).capabilities, name


@check
def show_knows_an_embedding_model():
    capabilities = client.show(EMBED_MODEL).capabilities
    assert "embedding" in capabilities and "completion" not in capabilities, capabilities


@check
def show_of_an_unknown_model_is_404():
    error = raises(ollama.ResponseError, client.show, "nope")
    assert error.status_code == 404, error.status_code
    assert error.error == "model 'nope:latest' not found", error.error


@check
def load_and_unload_by_generate_show_in_ps():
    loaded = client.generate(MODEL, keep_alive="10m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", ""), loaded
    assert "scripted-1:latest" in running(), running()
    unloaded = client.generate(MODEL, keep_alive=0)
    assert (unloaded.done, unloaded.done_reason) == (True, "unload"), unloaded
    assert "scripted-1:latest" not in running(), running()


@check
def load_and_unload_by_chat_show_in_ps():
    loaded = client.chat(MODEL, [])
    assert (loaded.done_reason, loaded.message.content) == ("load", ""), loaded
    assert "scripted-1:latest" in running(), running()
    assert client.chat(MODEL, [], keep_alive="0s").done_reason == "unload"
    assert "scripted-1:latest" not in running(), running()


@check
def ps_fills_every_field():
    say("Hello", keep_alive="5m")
    entry = next(model for model in client.ps().models if model.model == "scripted-1:latest")
    listed = next(model for model in client.list().models if model.model == entry.model)
    assert entry.digest == listed.digest, entry
    assert entry.expires_at.timestamp() > time.time(), entry
    assert entry.size_vram is not None and entry.context_length is not None, entry


# --- Chat ---------------------------------------------------------------------------------------


@check
def chat_whole():
    answer = client.chat(MODEL, user("Hello there"))
    assert answer.message.role == "assistant", answer
    assert answer.message.content == "You said: Hello there", answer
    assert answer.done_reason == "stop", answer
    check_final(answer)
    assert (answer.prompt_eval_count, answer.eval_count) == (2, 4), answer


@check
def chat_stream():
    lines = list(client.chat(MODEL, user("echo: one two three"), stream=True))
    check_lines(lines, chat_text, "one two three")
    assert len(lines) == 4, lines
    assert (lines[-1].prompt_eval_count, lines[-1].eval_count) == (4, 3), lines[-1]
    assert lines[-1].done_reason == "stop", lines[-1]


@check
def chat_takes_every_spelling_of_a_name():
    for name in (MODEL, "scripted-1:latest", "team/other:8b"):
        answer = client.chat(name, user("echo: yes"))
        assert (answer.model, answer.message.content) == (name, "yes"), answer


@check
def chat_sends_the_whole_history():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "messages?"},
    ]
    seen = json.loads(client.chat(MODEL, messages).message.content)
    assert seen == [[message["role"], message["content"]] for message in messages], seen


@check
def chat_forwards_the_options_that_openai_knows():
    options = {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 0,
        "stop": ["END"],
        "num_predict": 99,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "num_ctx": 2048,
        "num_keep": 4,
    }
    sent = json.loads(say("params?", options=options))
    limit = sent.pop("max_tokens", None) or sent.pop("max_completion_tokens", None)
    assert limit == 99, sent
    assert sent == {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 0,
        "stop": ["END"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }, sent


@check
def chat_forwards_no_default_options():
    assert json.loads(say("params?")) == {}
    assert json.loads(say("params?", options={"num_predict": -1, "seed": -1})) == {}


@check
def chat_survives_the_options_that_openai_does_not_know():
    options = {"top_k": 20, "min_p": 0.05, "repeat_penalty": 1.2, "mirostat": 1, "num_gpu": 1}
    assert say("echo: fine", options=options) == "fine"


@check
def num_predict_gives_done_reason_length():
    answer = client.chat(MODEL, user("echo: a b c d"), options={"num_predict": 2})
    assert (answer.message.content, answer.done_reason) == ("a b", "length"), answer
    assert answer.eval_count == 2, answer


@check
def a_cut_answer_gives_done_reason_length():
    lines = list(client.chat(MODEL, user("length"), stream=True))
    check_lines(lines, chat_text, "It was cut")
    assert lines[-1].done_reason == "length", lines[-1]


@check
def an_empty_answer_is_an_answer():
    answer = client.chat(MODEL, user("empty"))
    assert (answer.message.content, answer.done) == ("", True), answer
    lines = list(client.chat(MODEL, user("empty"), stream=True))
    assert lines[-1].done and not any(line.message.content for line in lines), lines


@check
def odd_characters_survive_a_stream():
    odd = "h\u00e9llo \u4f60\u597d \U0001f600 a\u2028b c\u2029d e\u0085f <b>&amp; \\ \" tab\t."
    lines = list(client.chat(MODEL, user("echo: " + odd), stream=True))
    check_lines(lines, chat_text, odd)
    assert say("echo: " + odd) == odd


@check
def format_json_asks_for_a_json_object():
    assert json.loads(say("Give me JSON.", format="json")) == {"ok": True}
    lines = list(client.chat(MODEL, user("Give me JSON."), format="json", stream=True))
    check_lines(lines, chat_text, '{"ok": true}')


@check
def format_schema_reaches_the_upstream_whole():
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    journal.forget()
    assert json.loads(say("Who?", format=schema)) == {"name": "text", "age": 7}
    sent = journal.entries()[-1]["body"]["response_format"]["json_schema"]["schema"]
    assert sent == schema, sent


# --- Generate -----------------------------------------------------------------------------------


@check
def generate_whole():
    answer = client.generate(MODEL, "Hello")
    assert (answer.response, answer.done_reason) == ("You said: Hello", "stop"), answer
    check_final(answer)


@check
def generate_stream():
    lines = list(client.generate(MODEL, "echo: one two three", stream=True))
    check_lines(lines, generate_text, "one two three")
    assert len(lines) == 4, lines


@check
def generate_ends_with_a_context():
    context = client.generate(MODEL, "Hello").context
    assert context and all(isinstance(item, int) for item in context), context
    again = client.generate(MODEL, "echo: again", context=context)
    assert again.response == "again", again


@check
def generate_sends_the_system_prompt():
    assert client.generate(MODEL, "system?", system="Be brief.").response == "Be brief."


@check
def generate_takes_options_and_formats():
    answer = client.generate(MODEL, "echo: a b c d", options={"num_predict": 2})
    assert (answer.response, answer.done_reason) == ("a b", "length"), answer
    assert json.loads(client.generate(MODEL, "JSON?", format="json").response) == {"ok": True}


@check
def generate_raw_is_a_text_completion():
    journal.forget()
    words = " ".join(f"w{number}" for number in range(30))
    answer = client.generate(MODEL, f"echo: {words}", raw=True)
    assert answer.response == words, answer.response
    assert answer.done_reason == "stop", answer
    assert journal.entries()[-1]["path"] == "/v1/completions"
    lines = list(client.generate(MODEL, "echo: one two", raw=True, stream=True))
    check_lines(lines, generate_text, "one two")


# --- Embeddings ---------------------------------------------------------------------------------


@check
def embed_one_text():
    answer = client.embed(EMBED_MODEL, "Hello there")
    assert len(answer.embeddings) == 1, answer
    assert close(answer.embeddings[0], unit(vector("Hello there"))), answer
    assert answer.model == EMBED_MODEL and answer.prompt_eval_count == 2, answer
    assert answer.total_duration >= 1 and answer.load_duration >= 1, answer


@check
def embed_keeps_the_order_of_many():
    texts = [f"text {number}" for number in range(40)]
    answer = client.embed(EMBED_MODEL, texts)
    assert len(answer.embeddings) == len(texts), len(answer.embeddings)
    for text, values in zip(texts, answer.embeddings):
        assert close(values, unit(vector(text))), text
    assert answer.prompt_eval_count == 80, answer.prompt_eval_count


@check
def embed_of_nothing_is_nothing():
    assert list(client.embed(EMBED_MODEL, []).embeddings) == []
    assert list(client.embed(EMBED_MODEL, "").embeddings) == []


@check
def embed_keeps_an_empty_text_in_its_place():
    answer = client.embed(EMBED_MODEL, ["a", "", "b"])
    assert len(answer.embeddings) == 3, answer
    assert close(answer.embeddings[0], unit(vector("a"))), answer
    assert close(answer.embeddings[2], unit(vector("b"))), answer


@check
def embed_cuts_to_the_wanted_dimensions():
    answer = client.embed(EMBED_MODEL, "Hello", dimensions=4)
    assert close(answer.embeddings[0], unit(vector("Hello")[:4])), answer


@check
def embeddings_gives_the_vector_of_one_text():
    values = client.embeddings(EMBED_MODEL, "Hello").embedding
    assert close(values, vector("Hello")) or close(values, unit(vector("Hello"))), values
    assert list(client.embeddings(EMBED_MODEL, "").embedding) == []


# --- Tools --------------------------------------------------------------------------------------


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
      a: the first
      b: the second

    Returns:
      int: their sum
    """
    return a + b


def shout(text: str) -> str:
    """
    Say it louder.

    Args:
      text: what to say
    """
    return text.upper()


def called(message):
    """Names and arguments of the calls."""
    return [(c.function.name, dict(c.function.arguments)) for c in message.tool_calls or []]


def answered(messages, message):
    """The conversation with the calls and what the functions gave, by name only."""
    known = {"add": add, "shout": shout}
    messages.append(message)
    for name, arguments in called(message):
        content = str(known[name](**arguments))
        messages.append({"role": "tool", "tool_name": name, "content": content})
    return messages


@check
def python_functions_become_tools():
    sent = json.loads(say("tools?", tools=[add, shout]))
    assert [tool["function"]["name"] for tool in sent] == ["add", "shout"], sent
    parameters = sent[0]["function"]["parameters"]
    assert parameters["required"] == ["a", "b"], parameters
    assert parameters["properties"]["a"] == {"type": "integer", "description": "the first"}


@check
def definitions_keep_what_ollama_does_not_know():
    parameters = {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["C", "F"], "default": "C"}},
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"model": MODEL, "messages": user("tools?"), "tools": [tool], "stream": False}
    # Not through the client's own types, which would drop it.
    sent = client._request_raw("POST", "/api/chat", json=body).json()["message"]["content"]
    assert json.loads(sent)[0]["function"]["parameters"] == parameters, sent


@check
def a_call_arrives_whole_however_it_was_streamed():
    for style in STYLES:
        messages = user(f'call{style} add {{"a": 1, "b": 2}}')
        answer = client.chat(MODEL, messages, tools=[add])
        assert called(answer.message) == [("add", {"a": 1, "b": 2})], (style, answer)
        assert answer.done_reason == "stop", (style, answer)
        lines = list(client.chat(MODEL, messages, tools=[add], stream=True))
        calls = [line for line in lines if line.message.tool_calls]
        assert [line.done for line in calls] == [False], (style, lines)
        assert called(calls[0].message) == [("add", {"a": 1, "b": 2})], (style, lines)
        check_final(lines[-1])
        assert lines[-1].message.content == "", (style, lines)


@check
def a_call_without_arguments_has_an_empty_object():
    for style in STYLES:
        answer = client.chat(MODEL, user(f"call{style} add"), tools=[add])
        assert called(answer.message) == [("add", {})], (style, answer)


@check
def results_find_their_calls_by_name():
    messages = user('call add {"a": 1, "b": 2}')
    answered(messages, client.chat(MODEL, messages, tools=[add, shout]).message)
    final = client.chat(MODEL, messages, tools=[add, shout])
    assert final.message.content == 'add({"a": 1, "b": 2}) = 3', final


@check
def results_find_their_calls_by_order():
    for style in STYLES:
        messages = user(f"calls{style} 4")
        message = client.chat(MODEL, messages, tools=[add, shout]).message
        assert [name for name, _ in called(message)] == ["add", "shout"] * 2, message
        answered(messages, message)
        for answer in messages[2:]:
            del answer["tool_name"]  # As Home Assistant sends them.
        text = client.chat(MODEL, messages, tools=[add, shout]).message.content
        values = [part.rsplit(" ", 1)[1] for part in text.split("; ")]
        assert values == ["0", "TEXT", "4", "TEXT"], (style, text)


@check
def results_by_name_may_come_in_another_order():
    messages = user("calls 2")
    answered(messages, client.chat(MODEL, messages, tools=[add, shout]).message)
    messages[2:] = reversed(messages[2:])
    text = client.chat(MODEL, messages, tools=[add, shout]).message.content
    assert text.endswith("= TEXT") and "add(" in text and "= 0;" in text, text


@check
async def async_tools_in_a_stream():
    async with a_client() as c:
        asked = user('call add {"a": 1, "b": 2}')
        stream = await c.chat(MODEL, asked, tools=[add], stream=True)
        calls = [call async for line in stream for call in called(line.message)]
        assert calls == [("add", {"a": 1, "b": 2})], calls


# --- Thinking -----------------------------------------------------------------------------------


@check
def thinking_is_told_apart_however_it_arrives():
    for style in ("", ":short", ":inline"):
        for think in (True, "low", "high", None):
            answer = client.chat(MODEL, user(f"think{style} forty two"), think=think)
            assert answer.message.content == "forty two", (style, think, answer)
            assert answer.message.thinking.strip() == THOUGHT, (style, think, answer)


@check
def a_stream_thinks_first_and_answers_then():
    for style in ("", ":short", ":inline"):
        lines = list(client.chat(MODEL, user(f"think{style} a b"), think=True, stream=True))
        check_lines(lines, chat_text, "a b")
        thoughts = [bool(line.message.thinking) for line in lines]
        assert thoughts == sorted(thoughts, reverse=True), (style, thoughts)
        whole = "".join(line.message.thinking or "" for line in lines)
        assert whole.strip() == THOUGHT, (style, whole)


@check
def think_false_hides_it():
    for style in ("", ":short", ":inline"):
        answer = client.chat(MODEL, user(f"think{style} forty two"), think=False)
        assert answer.message.content == "forty two", (style, answer)
        assert not answer.message.thinking, (style, answer)


@check
def generate_thinks_too():
    answer = client.generate(MODEL, "think forty two", think=True)
    assert (answer.response, answer.thinking) == ("forty two", THOUGHT), answer


@check
def earlier_thinking_stays_here():
    messages = [*user("One"), {"role": "assistant", "content": "Two", "thinking": "Hm."}]
    seen = json.loads(client.chat(MODEL, messages + user("messages?")).message.content)
    assert seen == [["user", "One"], ["assistant", "Two"], ["user", "messages?"]], seen


# --- Images -------------------------------------------------------------------------------------


@check
def images_get_their_type_from_their_bytes():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(JPEG)
        pictures = [PNG, str(path), path, WEBP, base64.b64encode(GIF).decode()]
        message = {"role": "user", "content": "images?", "images": pictures}
        kinds = json.loads(client.chat(MODEL, [message]).message.content)
        assert kinds == [f"image/{k}" for k in ("png", "jpeg", "jpeg", "webp", "gif")], kinds
        kinds = json.loads(client.generate(MODEL, "images?", images=[PNG]).response)
        assert kinds == ["image/png"], kinds


@check
def a_large_image_arrives():
    message = {"role": "user", "content": "images?", "images": [PNG + bytes(8 << 20)]}
    assert json.loads(client.chat(MODEL, [message]).message.content) == ["image/png"]


# --- Structured output --------------------------------------------------------------------------


class Friend(BaseModel):
    name: str
    age: int


class Friends(BaseModel):
    friends: list[Friend]


@check
def a_pydantic_schema_gives_its_object():
    text = say("Who?", format=Friends.model_json_schema())
    assert Friends.model_validate_json(text) == Friends(friends=[Friend(name="text", age=7)])
    text = client.generate(MODEL, "Who?", format=Friend.model_json_schema()).response
    assert Friend.model_validate_json(text) == Friend(name="text", age=7)


# --- Logprobs -----------------------------------------------------------------------------------


def check_logprobs(items, texts, alternatives):
    """The tokens with their bytes, and so many alternatives of each, the likeliest first."""
    assert [item.token for item in items] == texts, items
    for item in items:
        assert item.logprob <= 0, item
        tops = item.top_logprobs or []
        assert len(tops) == alternatives, item
        values = [top.logprob for top in tops]
        assert values == sorted(values, reverse=True), item


@check
def logprobs_whole_and_streamed():
    for count in (0, 3):
        more = {"logprobs": True, "top_logprobs": count}
        answer = client.chat(MODEL, user("echo: one two"), **more)
        check_logprobs(answer.logprobs, ["one", " two"], count)
        lines = list(client.chat(MODEL, user("echo: one two"), stream=True, **more))
        check_logprobs([i for x in lines for i in x.logprobs or []], ["one", " two"], count)
        answer = client.generate(MODEL, "echo: one two", **more)
        check_logprobs(answer.logprobs, ["one", " two"], count)


@check
def no_logprobs_unless_asked():
    assert client.chat(MODEL, user("echo: one two")).logprobs is None


# --- Models of the proxy's own ------------------------------------------------------------------


@check
def a_created_model_is_listed_shown_and_talks():
    made = client.create(
        "mario",
        from_=MODEL,
        system="You are Mario.",
        license="MIT",
        parameters={"temperature": 0.5, "stop": ["END"]},
        messages=[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me!"}],
    )
    assert made.status == "success", made
    try:
        listed = {model.model: model for model in client.list().models}
        assert set(listed) == NAMES | {"mario:latest"}, listed
        assert len(listed["mario:latest"].digest) == 64, listed
        shown = client.show("mario")
        assert "SYSTEM You are Mario.\n" in shown.modelfile, shown.modelfile
        assert shown.parameters.splitlines()[0].split() == ["stop", '"END"'], shown.parameters
        assert shown.license == "MIT", shown
        sent = json.loads(client.chat("mario", user("messages?")).message.content)
        assert sent[:3] == [
            ["system", "You are Mario."],
            ["user", "Who?"],
            ["assistant", "Me!"],
        ], sent
        sent = json.loads(client.chat("mario", user("params?")).message.content)
        assert sent == {"temperature": 0.5, "stop": ["END"]}, sent
        assert client.generate("mario", "system?").response == "You are Mario."
        assert client.generate("mario").done_reason == "load"
        assert "mario:latest" in running(), running()
    finally:
        assert client.delete("mario").status == "success"
    assert {model.model for model in client.list().models} == NAMES
    assert raises(ollama.ResponseError, client.show, "mario").status_code == 404


@check
def create_tells_its_progress():
    lines = [line.status for line in client.create("a", from_=MODEL, system="x", stream=True)]
    assert lines[-2:] == ["writing manifest", "success"] and len(lines) == 4, lines
    client.delete("a")


@check
def what_cannot_be_created_is_refused():
    error = raises(ollama.ResponseError, client.create, "a", from_=MODEL, quantize="q4_0")
    assert (error.status_code, "quantize" in error.error) == (400, True), error
    error = raises(ollama.ResponseError, client.create, "a", from_="nope")
    assert "file does not exist" in error.error, error
    error = raises(ollama.ResponseError, client.create, "a")
    assert error.status_code == 400, error


@check
def a_copy_is_another_name():
    assert client.copy(MODEL, "gpt-4").status == "success"
    assert client.chat("gpt-4", user("echo: yes")).message.content == "yes"
    assert client.copy("gpt-4", "team/again:v1").status == "success"
    for name in ("gpt-4", "team/again:v1"):
        assert client.delete(name).status == "success"
    error = raises(ollama.ResponseError, client.copy, "nope", "b")
    assert (error.status_code, error.error) == (404, 'model "nope" not found'), error


@check
def only_the_proxy_s_own_models_can_be_deleted():
    error = raises(ollama.ResponseError, client.delete, MODEL)
    assert (error.status_code, "belongs to the upstream" in error.error) == (403, True), error
    error = raises(ollama.ResponseError, client.delete, "nope")
    assert (error.status_code, error.error) == (404, "model 'nope' not found"), error


@check
def pull_succeeds_for_what_is_there():
    assert client.pull(MODEL).status == "success"
    lines = [line.status for line in client.pull("team/other:8b", stream=True)]
    assert lines[0] == "pulling manifest" and lines[-1] == "success", lines
    for more in ({}, {"stream": True}):
        error = raises(ollama.ResponseError, client.pull, "nope", **more)
        assert error.error == "pull model manifest: file does not exist", error


@check
def push_says_that_there_is_nowhere_to_push_to():
    for more in ({}, {"stream": True}):
        error = raises(ollama.ResponseError, client.push, MODEL, **more)
        assert "no registry" in error.error, error


@check
def blobs_are_taken():
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"abc")
        file.flush()
        digest = client.create_blob(file.name)
        assert digest.startswith("sha256:ba7816bf"), digest
        assert client.create_blob(file.name) == digest


@check
def a_cloud_model_is_forbidden():
    error = raises(ollama.ResponseError, client.chat, "gpt-oss:120b-cloud", user("Hello"))
    assert error.status_code == 403 and "cloud is disabled" in error.error, error


# --- Errors -------------------------------------------------------------------------------------


@check
def an_unknown_model_is_404():
    for call in (
        lambda: client.chat("nope", user("Hello")),
        lambda: client.chat("nope", user("Hello"), stream=True),
        lambda: client.generate("nope", "Hello"),
    ):
        error = raises(ollama.ResponseError, call)
        assert error.status_code == 404, error.status_code
        assert error.error == "model 'nope' not found", error.error
    error = raises(ollama.ResponseError, client.embed, "nope", "Hello")
    assert (error.status_code, "not found" in error.error) == (404, True), error


@check
def upstream_429_passes_through():
    for more in ({}, {"stream": True}):
        error = raises(ollama.ResponseError, client.chat, MODEL, user("error 429"), **more)
        assert error.status_code == 429, error.status_code
        assert error.error == "Rate limit reached for scripted-1.", error.error


@check
def upstream_400_passes_through():
    for more in ({}, {"stream": True}):
        error = raises(ollama.ResponseError, client.generate, MODEL, "error 400", **more)
        assert error.status_code == 400, error.status_code
        assert error.error == "The request was refused on purpose.", error.error


@check
def upstream_500_is_a_server_error():
    error = raises(ollama.ResponseError, client.chat, MODEL, user("error 500"))
    assert error.status_code in (500, 502), error.status_code
    assert error.error == "The server had an error.", error.error


@check
def a_refused_key_is_told_without_the_key():
    error = raises(ollama.ResponseError, client.chat, MODEL, user("error 401"))
    assert error.status_code in (401, 502), error.status_code
    assert error.error and "test-key" not in error.error, "the key leaked"


@check
def a_broken_stream_is_an_error_after_the_text():
    for command, says in (("break mid", ""), ("fail mid", "The model gave up.")):
        got = []
        try:
            for line in client.chat(MODEL, user(command), stream=True):
                got.append(line)
        except ollama.ResponseError as error:
            assert says in error.error and error.error, error
        else:
            raise AssertionError(f"{command}: no error")
        assert "".join(map(chat_text, got)) == "Half an", got
        assert not any(line.done for line in got), got


@check
def a_broken_whole_answer_is_a_server_error():
    for command in ("break mid", "fail mid"):
        error = raises(ollama.ResponseError, client.chat, MODEL, user(command))
        assert 500 <= error.status_code < 600, (command, error.status_code)


# --- Leaving early ------------------------------------------------------------------------------


@check
def an_abandoned_stream_ends_upstream_too():
    journal.forget()
    stream = client.chat(MODEL, user("slow 500 left"), stream=True)
    first = [next(stream), next(stream)]
    stream.close()
    assert "".join(map(chat_text, first)).startswith("left0"), first
    assert say("echo: still here") == "still here"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        states = [e["state"] for e in journal.entries() if is_slow(e)]
        if states == ["aborted"]:
            return
        time.sleep(0.1)
    raise AssertionError(f"the upstream was not told: {states}")


def is_slow(entry):
    return "slow" in json.dumps(entry["body"])


# --- Async --------------------------------------------------------------------------------------


@check
async def async_list_show_and_ps():
    async with a_client() as c:
        assert {model.model for model in (await c.list()).models} == NAMES
        assert "completion" in (await c.show(MODEL)).capabilities
        assert (await c.generate(MODEL)).done_reason == "load"
        assert "scripted-1:latest" in {model.model for model in (await c.ps()).models}
        assert (await c.chat(MODEL, [], keep_alive=0)).done_reason == "unload"


@check
async def async_chat_and_generate():
    async with a_client() as c:
        answer = await c.chat(MODEL, user("Hello"))
        assert answer.message.content == "You said: Hello", answer
        check_final(answer)
        answer = await c.generate(MODEL, "system?", system="Be brief.")
        assert answer.response == "Be brief.", answer
        check_final(answer)
        lines = [line async for line in await c.generate(MODEL, "echo: a b", stream=True)]
        check_lines(lines, generate_text, "a b")


@check
async def async_embeddings():
    async with a_client() as c:
        answer = await c.embed(EMBED_MODEL, ["a", "b"])
        assert close(answer.embeddings[1], unit(vector("b"))), answer
        assert len((await c.embeddings(EMBED_MODEL, "a")).embedding) == 8


@check
async def async_errors():
    async with a_client() as c:
        for call, status in (
            (c.show("nope"), 404),
            (c.chat(MODEL, user("error 429")), 429),
            (c.generate(MODEL, "error 400"), 400),
        ):
            try:
                await call
            except ollama.ResponseError as error:
                assert error.status_code == status, error
            else:
                raise AssertionError(f"no error where {status} was due")
        try:
            async for _ in await c.chat(MODEL, user("break mid"), stream=True):
                pass
        except ollama.ResponseError:
            return
        raise AssertionError("the broken stream raised nothing")


async def one_stream(c, number):
    """One of many streams: its text, and whether it is the right one."""
    lines = []
    async for line in await c.chat(MODEL, user(f"slow 25 s{number}-"), stream=True):
        lines.append(line)
    check_lines(lines, chat_text, " ".join(f"s{number}-{i}" for i in range(25)))


@check
async def twenty_streams_at_once_keep_their_texts():
    async with a_client() as c:
        await asyncio.gather(*(one_stream(c, number) for number in range(20)))


@check
async def abandoned_async_streams_leave_the_server_fine():
    async with a_client() as c:
        for _ in range(5):
            async for _ in await c.chat(MODEL, user("slow 500 x"), stream=True):
                break
    async with a_client() as c:
        await asyncio.gather(*(one_stream(c, number) for number in range(5)))


# --- The other side -----------------------------------------------------------------------------


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
