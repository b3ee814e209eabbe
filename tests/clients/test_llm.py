"""The `llm` tool with its plugin llm-ollama, with the scripted upstream behind the proxy."""

import json
import os
import tempfile
from pathlib import Path

from checks import Journal, check, run, setting

# Both are read when the packages are loaded.
os.environ["OLLAMA_HOST"] = setting("PROXY_URL")
FOLDER = tempfile.TemporaryDirectory(prefix="llm-user-")
os.environ["LLM_USER_PATH"] = FOLDER.name

import llm  # noqa: E402

journal = Journal(setting("UPSTREAM_URL"))


def model():
    """The chat model by its short name."""
    return llm.get_model("scripted-1")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@check
def chat_models_are_known_by_every_spelling():
    known = {one.model_id for one in llm.get_models()}
    assert {"scripted-1:latest", "team/other:8b"} <= known, known
    assert "scripted-embed:latest" not in known, known
    assert model().model_id == "scripted-1:latest"


@check
def every_digest_is_a_file_of_its_own_in_its_cache():
    cached = {path.name for path in Path(FOLDER.name).rglob("*") if path.is_file()}
    assert cached, "nothing was cached"


@check
def a_prompt_streamed_and_whole():
    for stream in (True, False):
        answer = model().prompt("Hello there", stream=stream)
        assert answer.text() == "You said: Hello there", answer.text()
        usage = answer.usage()
        assert (usage.input, usage.output) == (2, 4), usage


@check
def system_prompt_options_and_conversation():
    assert model().prompt("system?", system="Be brief.").text() == "Be brief."
    sent = json.loads(model().prompt("params?", temperature=0.0, seed=3).text())
    assert sent == {"temperature": 0.0, "seed": 3}, sent
    talk = model().conversation()
    talk.prompt("echo: one").text()
    seen = json.loads(talk.prompt("messages?").text())
    assert seen == [["user", "echo: one"], ["assistant", "one"], ["user", "messages?"]], seen


@check
def a_schema_gives_an_object():
    made = json.loads(model().prompt("Who?", schema=llm.schema_dsl("name, age int")).text())
    assert made == {"name": "text", "age": 7}, made


@check
async def async_prompt():
    answer = await llm.get_async_model("scripted-1").prompt("echo: yes").text()
    assert answer == "yes", answer


@check
def embeddings():
    vector = llm.get_embedding_model("scripted-embed").embed("Hello")
    assert len(list(vector)) == 8, vector


@check
def a_tool_chain_runs_the_function():
    assert model().supports_tools, "the model must claim tools"
    for style in ("", ":whole", ":noindex", ":object", ":mixed"):
        chain = model().chain(f'call{style} add {{"a": 1, "b": 2}}', tools=[add])
        text = chain.text()
        assert text == 'add({"a": 1, "b": 2}) = 3', (style, text)


@check
def parallel_calls_of_one_tool_keep_their_order():
    text = model().chain("calls 3", tools=[add]).text()
    assert [part.rsplit(" ", 1)[1] for part in text.split("; ")] == ["0", "2", "4"], text


@check
def thinking_stays_out_of_the_text():
    for style in ("", ":inline"):
        assert model().prompt(f"think{style} forty two", think=True).text() == "forty two"
        assert model().prompt(f"think{style} forty two", think=False).text() == "forty two"


@check
def an_image_is_sent_with_its_type():
    picture = llm.Attachment(content=b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", type="image/png")
    answer = model().prompt("images?", attachments=[picture]).text()
    assert json.loads(answer) == ["image/png"], answer


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
