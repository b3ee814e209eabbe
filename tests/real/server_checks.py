"""What is checked of each server behind the proxy, over Ollama's and OpenAI's APIs."""

import json
import math
import os
import subprocess
from dataclasses import dataclass

from harness import Api, Failure

QUESTION = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 24}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@dataclass
class Upstream:
    """A running server and what is expected of it.

    tools    calls: the model calls a tool that it is told to call; taken: tools are no error
    schema   kept: the server keeps to a schema; taken: a schema is no error
    any_name   true: the server answers to any model's name
    counts   true: the server counts tokens in a stream
    prefill  what a request must hold that continues the last message; None: any text will do
    asked    a log of the server and a line in it that shows a request of the proxy
    """

    url: str
    chat: str = ""
    embed: str = ""
    key: str = None
    family: str = "generic"
    context_length: int = 0
    tools: str = "taken"
    schema: str = "taken"
    any_name: bool = False
    counts: bool = True
    prefill: dict = None
    asked: tuple = None


class Checks:
    """The checks over one running server and the proxy in front of it."""

    def __init__(self, context, upstream):
        self.context = context
        self.upstream = upstream
        self.proxy = context.proxy(upstream.url, upstream.key)
        self.api = Api(self.proxy)
        self.names = {}

    # --- Lists ----------------------------------------------------------------------------------

    def is_recognised(self):
        """`--check` prints the family."""
        settings = {"OPENAI_API_BASE_URL": self.upstream.url, "PATH": os.environ["PATH"]}
        if self.upstream.key:
            settings["OPENAI_API_KEY"] = self.upstream.key
        command = [str(self.context.binary), "--check"]
        folder = self.context.folder
        settings["PROXY_STATE"] = str(folder / "check.json")
        done = subprocess.run(
            command, env=settings, cwd=folder, capture_output=True, text=True, timeout=120
        )
        line = next((x for x in done.stdout.splitlines() if x.startswith("upstream:")), done.stderr)
        assert f", family {self.upstream.family}," in line, line

    def is_listed(self):
        """/api/tags and /v1/models list each model."""
        listed = [model["name"] for model in self.api.get("/api/tags").ok().json()["models"]]
        ids = [model["id"] for model in self.api.get("/v1/models").ok().json()["data"]]
        for model in filter(None, (self.upstream.chat, self.upstream.embed)):
            name = next(name for name in listed if name.removesuffix(":latest") == model)
            assert model in ids, (model, ids)
            self.names[model] = name

    def is_shown(self):
        """/api/show tells the capabilities, and the context length where the server tells it."""
        for model, name in self.names.items():
            shown = self.api.post("/api/show", {"model": name}).ok().json()
            wanted = "completion" if model == self.upstream.chat else "embedding"
            # A server that tells nothing of a model is believed to chat.
            if self.upstream.chat and not (model == self.upstream.embed):
                assert wanted in shown["capabilities"], shown["capabilities"]
            if model == self.upstream.chat and self.upstream.context_length:
                architecture = shown["model_info"]["general.architecture"]
                found = shown["model_info"].get(f"{architecture}.context_length")
                assert found == self.upstream.context_length, shown["model_info"]

    def was_asked(self):
        """The server's log shows the request for details."""
        log, line = self.upstream.asked
        assert line in self.context.log_file(log).read_text(), f"no {line} in the log"

    # --- Ollama's chat --------------------------------------------------------------------------

    def chat(self, messages=QUESTION, options=None, **more):
        body = {"model": self.names[self.upstream.chat], "messages": messages, "stream": False}
        return self.api.post("/api/chat", {**body, "options": {**GREEDY, **(options or {})}, **more})

    def text(self, *arguments, **more):
        """The text of a whole response."""
        answer = self.chat(*arguments, **more).ok().json()
        assert answer["done"] is True and answer["done_reason"] in ("stop", "length"), answer
        for name in ("eval_count", "prompt_eval_count", "total_duration"):
            assert isinstance(answer[name], int) and answer[name] > 0, answer
        return answer["message"]["content"]

    def chats_whole(self):
        assert self.text(), "no text"

    def chats_in_a_stream(self):
        """The pieces are those of the whole response."""
        lines = self.chat(stream=True).ok().lines()
        assert not [line for line in lines if "error" in line], lines
        assert lines[-1]["done"] is True, lines[-1]
        assert lines[-1]["eval_count"] > 0 or not self.upstream.counts, lines[-1]
        streamed = "".join(line["message"]["content"] for line in lines)
        whole = self.text()
        assert streamed == whole, (streamed, whole)

    def generates(self):
        body = {"model": self.names[self.upstream.chat], "prompt": "Hello", "options": GREEDY}
        answer = self.api.post("/api/generate", {**body, "stream": False}).ok().json()
        assert answer["response"] and answer["done"] is True, answer

    def takes_tools(self):
        """A call where the model can be told to, else a text; or Ollama's refusal."""
        messages = [{"role": "user", "content": 'call weather {"city": "Paris"}'}]
        answer = self.chat(messages, tools=[TOOL])
        if self.upstream.tools == "calls":
            calls = answer.ok().json()["message"]["tool_calls"]
            function = calls[0]["function"]
            assert (function["name"], function["arguments"]) == ("weather", {"city": "Paris"}), calls
            messages += [answer.json()["message"]]
            messages += [{"role": "tool", "tool_name": "weather", "content": "sunny"}]
            answer = self.chat(messages, tools=[TOOL]).ok().json()
            assert "sunny" in answer["message"]["content"], answer
        elif answer.status == 400:
            assert "does not support tools" in answer.json()["error"], answer.text
        else:
            assert answer.ok().json()["done"] is True, answer.text

    def keeps_to_a_schema(self):
        messages = [{"role": "user", "content": "Describe a box as JSON."}]
        text = self.text(messages, {"num_predict": 120}, format=SCHEMA)
        if self.upstream.schema == "kept" or self.upstream.tools == "calls":
            value = json.loads(text)
            assert set(value) == {"ok", "size"}, value
            assert isinstance(value["ok"], bool) and value["size"] in ("small", "large"), value

    def takes_json(self):
        self.text(format="json")

    def continues_a_prefill(self):
        """The same text as the server's own continuation."""
        messages = [*QUESTION, {"role": "assistant", "content": "My three colours are"}]
        found = self.text(messages)
        if self.upstream.prefill is None:
            return
        body = {"model": self.upstream.chat, "messages": messages, "temperature": 0, "seed": 1}
        body.update(max_tokens=GREEDY["num_predict"], **self.upstream.prefill)
        direct = Api(self.upstream.url, self.upstream.key).post("/v1/chat/completions", body)
        wanted = direct.ok().json()["choices"][0]["message"]["content"]
        assert found.strip() == wanted.strip(), (found, wanted)

    def stops_at_the_fifth_stop(self):
        """More stops than some servers take; the last one ends the text."""
        whole = self.text()
        if self.upstream.tools == "calls":  # Scripted, and deaf to stops.
            self.text(options={"stop": ["%1", "%2", "%3", "%4", "%5"]})
            return
        start = len(whole) // 2
        stop = whole[start : start + 3]
        answer = self.chat(options={"stop": ["%1", "%2", "%3", "%4", stop]}).ok().json()
        # Without counts, where the proxy itself ended the text before the server's last event.
        found = answer["message"]["content"]
        wanted = whole[: whole.index(stop)]
        assert found.strip() == wanted.strip(), (stop, found, wanted)
        assert answer["done_reason"] == "stop", answer

    def takes_extreme_options(self):
        """`top_p: 0` and the like, which some servers refuse."""
        assert self.text(options={"top_p": 0}), "no text"
        assert self.text(options={"top_k": 0, "min_p": 0, "repeat_penalty": 1}), "no text"
        assert self.text(options={"num_predict": -1, "stop": ["a", "e", "i", "o", " "]}) is not None

    def is_unknown(self):
        """An unknown model is 404 in Ollama's words, and over OpenAI's API the server's own error."""
        chat = ["/api/chat", "/api/generate"] if self.upstream.chat else []
        embed = ["/api/embed", "/api/embeddings"] if self.upstream.embed else []
        for path in (*chat, *embed, "/api/show"):
            body = {"model": "nix", "messages": QUESTION, "prompt": "x", "input": "x"}
            answer = self.api.post(path, body)
            # The routes of Ollama differ in their quotes, and in what they advise.
            error = answer.json().get("error", "").replace('"', "'")
            error = error.removesuffix(", try pulling it first").replace("nix:latest", "nix")
            assert (answer.status, error) == (404, "model 'nix' not found"), (path, answer)
        path, body = "/v1/embeddings", {"input": "x"}
        if chat:
            path, body = "/v1/chat/completions", {"messages": QUESTION}
        answer = self.api.post(path, {"model": "nix", **body})
        assert 400 <= answer.status < 500 and "nix" in answer.text, answer

    # --- OpenAI's API ---------------------------------------------------------------------------

    def openai_chat(self, **more):
        body = {"model": self.upstream.chat, "messages": QUESTION, "max_tokens": 24}
        return self.api.post("/v1/chat/completions", {**body, "temperature": 0, **more})

    def passes_chat_whole(self):
        answer = self.openai_chat().ok().json()
        assert answer["choices"][0]["message"]["content"], answer

    def passes_chat_in_a_stream(self):
        answer = self.openai_chat(stream=True).ok()
        choices = [chunk["choices"] for chunk in answer.lines() if chunk.get("choices")]
        text = "".join(each[0]["delta"].get("content") or "" for each in choices)
        assert text, answer.text[:500]

    # --- Embeddings -----------------------------------------------------------------------------

    def embeds(self):
        """Unit vectors in order, and one of the older route."""
        name = self.names[self.upstream.embed]
        texts = ["The cat sleeps.", "Stock markets fell sharply today.", "The cat sleeps."]
        found = self.api.post("/api/embed", {"model": name, "input": texts}).ok().json()
        vectors = found["embeddings"]
        assert len(vectors) == 3 and len(vectors[0]) > 1, found
        for vector in vectors:
            assert math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-3), vector
        same = math.dist(vectors[0], vectors[2])
        assert same < 1e-3 < math.dist(vectors[0], vectors[1]), vectors
        old = self.api.post("/api/embeddings", {"model": name, "prompt": texts[0]}).ok().json()
        assert len(old["embedding"]) == len(vectors[0]), old

    def passes_embeddings(self):
        body = {"model": self.upstream.embed, "input": ["a", "b"]}
        found = self.api.post("/v1/embeddings", body).ok().json()["data"]
        assert len(found) == 2 and len(found[0]["embedding"]) > 1, found

    def cuts_a_long_text(self):
        """What is too long for the model is cut, as Ollama cuts it."""
        name = self.names[self.upstream.embed]
        text = "All work and no play makes a dull day. " * 800
        found = self.api.post("/api/embed", {"model": name, "input": text}).ok().json()
        assert len(found["embeddings"]) == 1, found

    def tells_what_is_missing(self):
        """An endpoint that the server lacks is named, and the base URL is not blamed."""
        if self.upstream.chat:
            body = {"model": self.names[self.upstream.chat], "input": "x"}
            answer = self.api.post("/api/embed", body)
        else:
            body = {"model": self.names[self.upstream.embed], "messages": QUESTION}
            answer = self.api.post("/api/chat", body)
        error = answer.json()["error"]
        assert 400 <= answer.status <= 502 and "base URL" not in error, answer
        return f"{answer.status} {error}"

    def refuses_other_routes(self):
        """A route that neither has is an error of a client, and the base URL is not blamed."""
        model = self.upstream.chat or self.upstream.embed
        for path in ("/api/nix", "/v1/nix"):
            answer = self.api.post(path, {"model": model})
            assert answer.status in (404, 405) and "base URL" not in answer.text, (path, answer)

    # --- All ------------------------------------------------------------------------------------

    def plan(self):
        """The checks in their order, each with what it shows."""
        upstream = self.upstream
        yield f"is recognised as {upstream.family}", self.is_recognised
        yield "is listed", self.is_listed
        yield "is shown", self.is_shown
        if upstream.asked:
            yield f"was asked {upstream.asked[1]}", self.was_asked
        if not upstream.any_name:
            yield "an unknown model is 404 in Ollama's words", self.is_unknown
        if upstream.chat:
            yield "/api/chat, whole", self.chats_whole
            yield "/api/chat, stream", self.chats_in_a_stream
            yield "/api/generate", self.generates
            yield f"tools: {upstream.tools}", self.takes_tools
            yield "format json", self.takes_json
            yield f"format with a schema: {upstream.schema}", self.keeps_to_a_schema
            yield "a prefill is continued", self.continues_a_prefill
            yield "five stops", self.stops_at_the_fifth_stop
            yield "top_p 0 and other extremes", self.takes_extreme_options
            yield "/v1/chat/completions, whole", self.passes_chat_whole
            yield "/v1/chat/completions, stream", self.passes_chat_in_a_stream
        if upstream.embed:
            yield "/api/embed and /api/embeddings", self.embeds
            yield "/v1/embeddings", self.passes_embeddings
            yield "/api/embed cuts a long text", self.cuts_a_long_text
        yield "other routes are refused", self.refuses_other_routes
        if not (upstream.chat and upstream.embed):
            yield "a missing endpoint is named", self.tells_what_is_missing


def run(context, start):
    """Start the server and the proxy, and check."""
    try:
        upstream = start(context)
        checks = Checks(context, upstream)
    except Failure as reason:
        context.report.fail("starts", reason)
        return
    context.report.check("starts", lambda: True)
    for what, function in checks.plan():
        context.report.check(what, function)
