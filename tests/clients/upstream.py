#!/usr/bin/env python3
"""A scripted OpenAI-compatible upstream for tests.

It stands where a model server would, needs nothing but Python's standard library, and answers the
same way every time. What it says is driven by the last user message (see `script`). It is strict
where real servers differ in tolerance: a request that breaks the rules gets 400 with the reason, so
that a mistake of the proxy becomes a failed test. It keeps every request; GET /_requests shows them.

Usage: upstream.py [--port N] [--key KEY]; the first line of output is the port.
"""

import argparse
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHAT_MODELS = ["scripted-1", "team/other:8b"]
EMBED_MODELS = ["scripted-embed"]
CREATED = 1750000000
DIMENSIONS = 8

# What a server with OpenAI's own parameters knows, and nothing else.
SAMPLING = {
    "max_tokens": int,
    "max_completion_tokens": int,
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": int,
    "stop": list,
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
}
COMMON = {"model": str, "stream": bool, "stream_options": dict, "user": str, **SAMPLING}
CHAT_FIELDS = {
    **COMMON,
    "messages": list,
    "response_format": dict,
    "logprobs": bool,
    "top_logprobs": int,
    "tools": list,
    "reasoning_effort": str,
}
COMPLETION_FIELDS = {**COMMON, "prompt": str, "suffix": str, "logprobs": int}
EMBEDDING_FIELDS = {"model": str, "input": list, "encoding_format": str, "user": str}
MESSAGE_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}
ROLES = {"system", "developer", "user", "assistant", "tool"}


class Refusal(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(self, status, message, code=None, param=None, kind="invalid_request_error"):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def require(condition, message, param=None):
    """Refuse the request with 400 unless the condition holds."""
    if not condition:
        raise Refusal(400, message, param=param)


# --- The rules of a request ---------------------------------------------------------------------


def check_fields(body, fields):
    """Top level: known names, right types, no nulls, no empty lists."""
    require(isinstance(body, dict), "The body must be a JSON object.")
    for name, value in body.items():
        require(name in fields, f"Unrecognized request argument supplied: {name}")
        require(value is not None, f"'{name}' is null; leave it out instead.", name)
        kind = fields[name]
        is_right = isinstance(value, kind) and (isinstance(value, bool) == (kind is bool))
        require(is_right, f"Invalid type for '{name}'.", name)
        require(value != [], f"'{name}' must not be an empty list.", name)
    require("model" in body, "You must provide a model parameter.", "model")


def check_stream(body):
    """`stream` is always said; `stream_options` only with it."""
    require("stream" in body, "This upstream wants 'stream' said explicitly.", "stream")
    if "stream_options" in body:
        require(body["stream"], "'stream_options' is only allowed with 'stream': true.")
        unknown = set(body["stream_options"]) - {"include_usage"}
        require(not unknown, f"Unrecognized stream_options: {sorted(unknown)}")


def check_sampling(body):
    """Ranges, and the fields that exclude one another."""
    both = "max_tokens" in body and "max_completion_tokens" in body
    require(not both, "max_tokens and max_completion_tokens exclude each other.")
    for name in ("max_tokens", "max_completion_tokens"):
        require(body.get(name, 1) > 0, f"'{name}' must be positive.", name)
    stops = body.get("stop", [])
    require(all(isinstance(s, str) and s for s in stops), "'stop' holds an empty string.", "stop")
    require(0 <= body.get("temperature", 1) <= 2, "'temperature' is out of range.", "temperature")
    require(0 <= body.get("top_p", 1) <= 1, "'top_p' is out of range.", "top_p")


def check_message(message, where):
    """One chat message: known fields, string content (or parts with an image), no empty lists."""
    require(isinstance(message, dict), f"{where} is not an object.")
    unknown = set(message) - MESSAGE_FIELDS
    require(not unknown, f"{where} has unknown fields: {sorted(unknown)}")
    require(message.get("role") in ROLES, f"{where} has an unknown role.")
    require("content" in message or "tool_calls" in message, f"{where} has no content.")
    for name, value in message.items():
        require(value is not None, f"{where}.{name} is null; leave it out instead.")
        require(value != [], f"{where}.{name} must not be an empty list.")
    content = message.get("content", "")
    if isinstance(content, list):
        require(all(isinstance(part, dict) for part in content), f"{where}.content: odd parts.")
        kinds = [part.get("type") for part in content]
        require("image_url" in kinds, f"{where}.content: parts without an image; send a string.")
    else:
        require(isinstance(content, str), f"{where}.content must be a string.")


def check_format(wanted):
    """`response_format` in OpenAI's own form."""
    kind = wanted.get("type")
    require(kind in ("text", "json_object", "json_schema"), "Unknown response_format.type.")
    if kind == "json_schema":
        schema = wanted.get("json_schema")
        require(isinstance(schema, dict), "response_format.json_schema is missing.")
        require(bool(schema.get("name")), "response_format.json_schema.name is missing.")
        require(isinstance(schema.get("schema"), dict), "response_format: no schema given.")
        require(schema.get("strict", True) is not None, "response_format: strict is null.")


def check_model(name, known):
    """404 as OpenAI words it."""
    if name not in CHAT_MODELS + EMBED_MODELS:
        text = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(404, text, code="model_not_found")
    require(name in known, f"The model `{name}` cannot do this.", "model")


def check_chat(body):
    """The whole of a chat request."""
    check_fields(body, CHAT_FIELDS)
    check_stream(body)
    check_sampling(body)
    require("messages" in body, "Missing required parameter: 'messages'.", "messages")
    for index, message in enumerate(body["messages"]):
        check_message(message, f"messages[{index}]")
    check_format(body.get("response_format", {"type": "text"}))
    check_model(body["model"], CHAT_MODELS)


def check_completion(body):
    """The whole of a text completion request."""
    check_fields(body, COMPLETION_FIELDS)
    check_stream(body)
    check_sampling(body)
    require("prompt" in body, "Missing required parameter: 'prompt'.", "prompt")
    check_model(body["model"], CHAT_MODELS)


def check_embedding(body):
    """The whole of an embedding request."""
    check_fields(body, EMBEDDING_FIELDS)
    require("input" in body, "Missing required parameter: 'input'.", "input")
    all_texts = all(isinstance(text, str) and text for text in body["input"])
    require(all_texts, "'$.input' is invalid: it must hold non-empty strings.", "input")
    wanted = body.get("encoding_format", "float")
    require(wanted == "float", "This upstream only sends floats.", "encoding_format")
    check_model(body["model"], EMBED_MODELS)


# --- What is said -------------------------------------------------------------------------------


def sample(schema):
    """The same small value for the same JSON schema, every time."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: sample(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}))]
    return {"string": "text", "integer": 7, "number": 1.5, "boolean": True}.get(kind)


def pieces(text):
    """The text cut before each blank, so that the pieces join to the whole."""
    words = text.split(" ")
    return [words[0]] + [" " + word for word in words[1:]]


def text_of(message):
    """The text of a message, whether it is a string or in parts."""
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class Plan:
    """What one answer will be: pieces of text, a pause before each, and how it ends."""

    def __init__(self, parts, pause=0.0, finish="stop", broken=None):
        self.parts = parts
        self.pause = pause
        self.finish = finish
        self.broken = broken

    def limited(self, limit):
        """The plan cut after so many pieces, as a token limit would."""
        if limit is not None and len(self.parts) > limit:
            self.parts = self.parts[:limit]
            self.finish = "length"
        return self


def script(prompt, body):
    """The plan for the last user message.

    echo: WORDS    those words, one piece each
    slow N [WORD]  N pieces WORD0, WORD1, ... 20 ms apart
    length         a text that a limit cut off
    empty          no text at all
    error STATUS   an error with that status
    break mid      two pieces, then the connection ends without a terminal event
    fail mid       two pieces, then an error event
    system?        the system messages
    params?        the sampling parameters that arrived, as JSON
    messages?      roles and texts of all messages, as JSON
    anything else  "You said: " and the message
    """
    command, _, rest = prompt.strip(" \n").partition(" ")
    messages = body.get("messages", [])
    if command == "echo:":
        return Plan(pieces(rest))
    if command == "slow":
        count, _, word = rest.partition(" ")
        word = word or "n"
        return Plan(pieces(" ".join(f"{word}{i}" for i in range(int(count)))), pause=0.02)
    if command == "length":
        return Plan(["It", " was", " cut"], finish="length")
    if command == "empty":
        return Plan([])
    if command == "error":
        scripted_error(int(rest))
    if prompt in ("break mid", "fail mid"):
        return Plan(["Half", " an"], broken=command)
    if command == "system?":
        return Plan(pieces(" ".join(text_of(m) for m in messages if m["role"] == "system")))
    if command == "params?":
        sent = {name: value for name, value in body.items() if name in SAMPLING}
        return Plan([json.dumps(sent, sort_keys=True)])
    if command == "messages?":
        return Plan([json.dumps([[m["role"], text_of(m)] for m in messages])])
    return Plan(pieces("You said: " + prompt))


def scripted_error(status):
    """Refuse with that status, in the words of the real thing."""
    known = {
        400: ("The request was refused on purpose.", "invalid_request_error", None),
        401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
        429: ("Rate limit reached for scripted-1.", "requests", "rate_limit_exceeded"),
    }
    text, kind, code = known.get(status, ("The server had an error.", "server_error", None))
    raise Refusal(status, text, code=code, kind=kind)


def chat_plan(body):
    """The answer to a chat request."""
    users = [m for m in body["messages"] if m["role"] == "user"]
    prompt = text_of(users[-1]) if users else ""
    wanted = body.get("response_format", {"type": "text"})
    limit = body.get("max_tokens", body.get("max_completion_tokens"))
    if wanted["type"] == "json_object" and not prompt.startswith("error"):
        return Plan(['{"ok"', ": true}"]).limited(limit)
    if wanted["type"] == "json_schema":
        return Plan(pieces(json.dumps(sample(wanted["json_schema"]["schema"])))).limited(limit)
    return script(prompt, body).limited(limit)


def vector(text):
    """Eight numbers made from the text; deliberately not of unit length."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(byte - 128) / 16 for byte in digest[:DIMENSIONS]]


def words_in(texts):
    """Counts words; that is what this upstream calls a token."""
    return sum(len(text.split()) for text in texts)


# --- The server ---------------------------------------------------------------------------------


class Journal:
    """Every request seen so far, safe to use from all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.entries = []

    def add(self, entry):
        with self.lock:
            self.entries.append(entry)
        return entry

    def clear(self):
        with self.lock:
            self.entries = []

    def copy(self):
        with self.lock:
            return [dict(entry) for entry in self.entries]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    journal = Journal()
    key = None

    def log_message(self, format, *args):
        """Say nothing: the journal is the log."""

    def do_GET(self):
        if self.path == "/_requests":
            return self.send_json(200, self.journal.copy())
        return self.exchange({"/v1/models": self.models})

    def do_DELETE(self):
        if self.path == "/_requests":
            self.journal.clear()
        return self.send_json(200, {})

    def do_POST(self):
        return self.exchange(
            {
                "/v1/chat/completions": self.chat,
                "/v1/completions": self.completion,
                "/v1/embeddings": self.embedding,
            }
        )

    def exchange(self, routes):
        """Read, keep, check and answer one request."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        entry = {"method": self.command, "path": self.path, "body": None, "status": 200}
        entry["state"] = "open"
        entry["headers"] = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() not in ("authorization", "api-key")
        }
        self.entry = self.journal.add(entry)
        try:
            self.check_key()
            if self.path not in routes:
                raise Refusal(404, f"Invalid URL ({self.command} {self.path})")
            if self.command == "POST":
                self.entry["body"] = self.parse(raw)
            routes[self.path]()
            self.entry["state"] = "done"
        except Refusal as refusal:
            self.entry.update(status=refusal.status, state="done", refusal=str(refusal))
            self.send_json(refusal.status, refusal.body)
        except (BrokenPipeError, ConnectionResetError):
            self.entry["state"] = "aborted"
            self.close_connection = True
        except Exception as error:  # A mistake in this file must not look like an empty answer.
            self.entry.update(state="failed", refusal=repr(error))
            self.close_connection = True
            self.send_json(500, {"error": {"message": f"upstream.py failed: {error!r}"}})

    def check_key(self):
        if self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")

    def parse(self, raw):
        kind = self.headers.get("Content-Type", "")
        require(kind.startswith("application/json"), "Content-Type must be application/json.")
        try:
            return json.loads(raw)
        except ValueError as error:
            raise Refusal(400, f"We could not parse the JSON body: {error}") from error

    def send_json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def models(self):
        names = CHAT_MODELS + EMBED_MODELS
        data = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"}
            for name in names
        ]
        self.send_json(200, {"object": "list", "data": data})

    def chat(self):
        body = self.entry["body"]
        check_chat(body)
        count = words_in(text_of(message) for message in body["messages"])
        self.answer(body, chat_plan(body), count, Chat)

    def completion(self):
        body = self.entry["body"]
        check_completion(body)
        plan = script(body["prompt"].split("\n")[-1], body)
        # Without a limit the real endpoint stops after 16 tokens.
        plan.limited(body.get("max_tokens", 16))
        self.answer(body, plan, words_in([body["prompt"]]), Text)

    def embedding(self):
        body = self.entry["body"]
        check_embedding(body)
        data = [
            {"object": "embedding", "index": index, "embedding": vector(text)}
            for index, text in enumerate(body["input"])
        ]
        data.reverse()  # Clients must sort by index.
        count = words_in(body["input"])
        usage = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "model": body["model"], "data": data, "usage": usage}
        self.send_json(200, answer)

    def answer(self, body, plan, prompt_tokens, shape):
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(plan.parts),
            "total_tokens": prompt_tokens + len(plan.parts),
        }
        if body["stream"]:
            with_usage = body.get("stream_options", {}).get("include_usage", False)
            self.stream(body["model"], plan, usage if with_usage else None, shape)
        else:
            self.whole(body["model"], plan, usage, shape)

    def whole(self, model, plan, usage, shape):
        if plan.broken == "fail":
            raise Refusal(500, "The model gave up.", kind="server_error")
        time.sleep(plan.pause * len(plan.parts))
        choice = {"index": 0, **shape.whole("".join(plan.parts)), "finish_reason": plan.finish}
        answer = {"id": "scripted", "object": shape.name, "created": CREATED, "model": model}
        answer.update(choices=[choice], usage=usage)
        if plan.broken != "break":
            return self.send_json(200, answer)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "4096")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode()[:20])
        return self.hang_up()

    def stream(self, model, plan, usage, shape):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        base = {"id": "scripted", "object": shape.chunk_name, "created": CREATED, "model": model}
        if usage:
            base["usage"] = None
        for opening in shape.opening():
            self.event({**base, "choices": [opening]})
        for part in plan.parts:
            time.sleep(plan.pause)
            self.event({**base, "choices": [shape.piece(part)]})
        if plan.broken == "break":
            return self.hang_up()
        if plan.broken == "fail":
            error = {"message": "The model gave up.", "type": "server_error", "code": None}
            self.event({"error": error})
            return self.send_frame(b"")
        self.event({**base, "choices": [shape.closing(plan.finish)]})
        if usage:
            self.event({**base, "choices": [], "usage": usage})
        self.send_frame(b"data: [DONE]\n\n")
        return self.send_frame(b"")

    def event(self, value):
        self.send_frame(b"data: " + json.dumps(value).encode() + b"\n\n")

    def send_frame(self, data):
        """One frame of chunked framing in one write; the empty one ends the body."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def hang_up(self):
        """Close at once, in the middle of the body."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Chat:
    """The shapes of chat/completions."""

    name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    @staticmethod
    def whole(text):
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    @staticmethod
    def opening():
        delta = {"role": "assistant", "content": ""}
        return [{"index": 0, "delta": delta, "finish_reason": None}]

    @staticmethod
    def piece(text):
        return {"index": 0, "delta": {"content": text}, "finish_reason": None}

    @staticmethod
    def closing(reason):
        return {"index": 0, "delta": {}, "finish_reason": reason}


class Text:
    """The shapes of completions."""

    name = chunk_name = "text_completion"

    @staticmethod
    def whole(text):
        return {"text": text, "logprobs": None}

    @staticmethod
    def opening():
        return []

    @staticmethod
    def piece(text):
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}

    @staticmethod
    def closing(reason):
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": reason}


class Server(ThreadingHTTPServer):
    """One thread for each connection, with room for a burst of them."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that leaves is part of the tests, not news."""


def main():
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--key", help="refuse requests without this key")
    options = parser.parse_args()
    Handler.key = options.key
    server = Server(("127.0.0.1", options.port), Handler)
    print(server.server_address[1], flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
