#!/usr/bin/env python3
"""A scripted OpenAI-compatible upstream for tests.

It stands where a model server would, needs nothing but Python's standard library, and answers the
same way every time. What it says is driven by the last message (upstream_plans.py, see `script`
there). It is strict where real servers differ in tolerance: a request that breaks the rules
(upstream_rules.py) gets 400 with the reason, so that a mistake of the proxy becomes a failed test.
It keeps every request; GET /_requests shows them.

Usage: upstream.py [--port N] [--key KEY]; the first line of output is the port.
"""

import argparse
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from upstream_plans import chat_plan, completion_plan, logprobs, text_of, vector, words_in
from upstream_rules import (
    CHAT_MODELS,
    EMBED_MODELS,
    Refusal,
    check_chat,
    check_completion,
    check_embedding,
    require,
)

CREATED = 1750000000
REQUEST_ID = "req_scripted"


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
        self.send_header("X-Request-Id", REQUEST_ID)
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
        self.answer(body, completion_plan(body), words_in([body["prompt"]]), Text)

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

    def answer(self, body, plan, prompt_tokens, kind):
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": plan.tokens(),
            "total_tokens": prompt_tokens + plan.tokens(),
        }
        wanted = body.get("logprobs")
        # Chat has a flag and a number of alternatives; the older endpoint only the number.
        count = body.get("top_logprobs", 0) if wanted is True else wanted
        shape = kind(plan, count if wanted else None)
        if body["stream"]:
            with_usage = body.get("stream_options", {}).get("include_usage", False)
            self.stream(body["model"], plan, usage if with_usage else None, shape)
        else:
            self.whole(body["model"], plan, usage, shape)

    def whole(self, model, plan, usage, shape):
        if plan.broken == "fail":
            raise Refusal(500, "The model gave up.", kind="server_error")
        time.sleep(plan.pause * len(plan.parts))
        choice = {"index": 0, **shape.whole(), "finish_reason": plan.finish}
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
        self.send_header("X-Request-Id", REQUEST_ID)
        self.end_headers()
        base = {"id": "scripted", "object": shape.chunk_name, "created": CREATED, "model": model}
        if usage:
            base["usage"] = None
        for choice in shape.opening():
            self.event({**base, "choices": [choice]})
        for part in plan.parts:
            time.sleep(plan.pause)
            self.event({**base, "choices": [shape.piece(part)]})
        if plan.broken == "break":
            return self.hang_up()
        if plan.broken == "fail":
            error = {"message": "The model gave up.", "type": "server_error", "code": None}
            self.event({"error": error})
            return self.send_frame(b"")
        for choice in shape.closing():
            self.event({**base, "choices": [choice]})
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
    """The shapes of chat/completions; `count` is how many alternatives each token has, or None."""

    name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def __init__(self, plan, count):
        self.plan = plan
        self.count = count

    def whole(self):
        plan = self.plan
        # With calls and no text the content is null, as the real thing has it.
        text = None if plan.calls and not plan.parts else "".join(plan.parts)
        message = {"role": "assistant", "content": text, "refusal": None}
        if plan.thinking:
            message[plan.field] = "".join(plan.thinking)
        if plan.calls:
            message["tool_calls"] = plan.whole_calls()
        return {"message": message, "logprobs": self.logprobs(plan.parts)}

    def logprobs(self, parts):
        return None if self.count is None else logprobs(parts, self.count)

    @staticmethod
    def delta(finish=None, **members):
        return {"index": 0, "delta": members, "finish_reason": finish}

    def opening(self):
        yield self.delta(role="assistant", content="")
        for thought in self.plan.thinking:
            yield self.delta(**{self.plan.field: thought})

    def piece(self, text):
        return {**self.delta(content=text), "logprobs": self.logprobs([text])}

    def closing(self):
        for calls in self.plan.call_deltas() if self.plan.calls else []:
            yield self.delta(tool_calls=calls)
        yield self.delta(finish=self.plan.finish)


class Text:
    """The shapes of completions."""

    name = chunk_name = "text_completion"

    def __init__(self, plan, count):
        self.plan = plan
        self.count = count

    def whole(self):
        return {"text": "".join(self.plan.parts), "logprobs": self.logprobs(self.plan.parts)}

    def logprobs(self, parts):
        if self.count is None:
            return None
        content = logprobs(parts, self.count)["content"]
        tops = [{top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in content]
        values = [one["logprob"] for one in content]
        return {"tokens": parts, "token_logprobs": values, "top_logprobs": tops}

    def opening(self):
        return []

    def piece(self, text):
        logprobs = self.logprobs([text])
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}

    def closing(self):
        yield {"index": 0, "text": "", "logprobs": None, "finish_reason": self.plan.finish}


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
