"""llama-index's chat model and embeddings for Ollama, with the scripted upstream behind the proxy."""

import base64
import json

from checks import Journal, check, run, setting
from llama_index.core.base.llms.types import ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel

PROXY = setting("PROXY_URL")
MODEL = "scripted-1"
journal = Journal(setting("UPSTREAM_URL"))


def model(**more):
    """A chat model with the settings of the check."""
    return Ollama(model=MODEL, base_url=PROXY, request_timeout=30, **more)


def user(text):
    """A conversation of one message."""
    return [ChatMessage(role="user", content=text)]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@check
def the_window_is_read_from_show():
    assert model().metadata.context_window == 32768


@check
def chat_and_complete():
    answer = model().chat(user("Hello there"))
    assert answer.message.content == "You said: Hello there", answer
    assert answer.raw["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
    }, answer.raw
    assert model().complete("echo: yes").text == "yes"


@check
def streams_grow():
    texts = [chunk.message.content for chunk in model().stream_chat(user("echo: a b c"))]
    assert texts[-1] == "a b c" and texts == sorted(texts, key=len), texts
    assert "".join(chunk.delta for chunk in model().stream_complete("echo: a b")) == "a b"


@check
async def async_chat_and_stream():
    llm = model()
    assert (await llm.achat(user("echo: yes"))).message.content == "yes"
    stream = await llm.astream_chat(user("echo: a b"))
    assert [chunk.message.content async for chunk in stream][-1] == "a b"


@check
def json_mode_and_structured_prediction():
    assert json.loads(model(json_mode=True).chat(user("JSON?")).message.content) == {"ok": True}
    made = model(is_function_calling_model=False).structured_predict(Person, PromptTemplate("Who?"))
    assert made == Person(name="text", age=7), made


@check
def embeddings_of_one_and_of_many():
    embedding = OllamaEmbedding(model_name="scripted-embed", base_url=PROXY)
    many = embedding.get_text_embedding_batch(["a", "b", "c"])
    assert [len(vector) for vector in many] == [8, 8, 8], many
    assert embedding.get_query_embedding("b") == many[1]


@check
def tool_calls_arrive_whole_and_results_without_ids_find_them():
    for style in ("", ":whole", ":noindex", ":object", ":mixed"):
        llm = model()
        asked = user(f'call{style} add {{"a": 1, "b": 2}}')
        answer = llm.chat_with_tools([ADD], chat_history=list(asked))
        calls = llm.get_tool_calls_from_response(answer)
        assert [(c.tool_name, c.tool_kwargs) for c in calls] == [("add", {"a": 1, "b": 2})], style
        # This client sends neither ids nor names: results belong to the calls in their order.
        history = [*asked, answer.message, ChatMessage(role="tool", content="3")]
        final = llm.chat_with_tools([ADD], chat_history=history)
        assert final.message.content == 'add({"a": 1, "b": 2}) = 3', (style, final)


@check
def a_stream_gives_whole_tool_calls():
    stream = model().stream_chat_with_tools([ADD], user_msg='call add {"a": 4, "b": 5}')
    last = list(stream)[-1]
    calls = [block for block in last.message.blocks if isinstance(block, ToolCallBlock)]
    assert [block.tool_kwargs for block in calls] == [{"a": 4, "b": 5}], last


@check
def predict_and_call_runs_the_function():
    answer = model().predict_and_call([ADD], user_msg='call add {"a": 20, "b": 22}')
    assert answer.response == "42", answer


@check
def thinking_is_a_block_of_its_own():
    for style in ("", ":short", ":inline"):
        answer = model(thinking=True).chat(user(f"think{style} forty two"))
        assert answer.message.content == "forty two", (style, answer)
        thoughts = [b.content for b in answer.message.blocks if isinstance(b, ThinkingBlock)]
        assert [thought.strip() for thought in thoughts] == ["Let me think about it."], thoughts


@check
def an_image_is_sent_with_its_type():
    picture = base64.b64decode("iVBORw0KGgoAAAANSUhEUg==")
    blocks = [TextBlock(text="images?"), ImageBlock(image=picture, image_mimetype="image/jpeg")]
    answer = model().chat([ChatMessage(role="user", blocks=blocks)])
    assert json.loads(answer.message.content) == ["image/png"], answer


@check
def every_request_obeyed_the_rules_of_the_upstream():
    journal.check_rules()


if __name__ == "__main__":
    run()
