#!/usr/bin/env python3
"""A scripted upstream that plays a session of work with a coding agent.

It has models, chat completions and embeddings, and nothing else. Each request is checked as strictly as
OpenAI checks it, or with --mode templates as servers with strict chat templates do (agent_rules.py); what
it says is told in agent_session.py. To run an agent by hand, in three terminals:

    tests/clients/agent_upstream.py --port 9000
    OPENAI_API_BASE_URL=http://127.0.0.1:9000/v1 target/release/ollama-openai-proxy
    OPENAI_BASE_URL=http://127.0.0.1:11434/v1 YOUR-AGENT "do task:work in folder:$PWD"

GET /_requests shows every request, with the refusal if there was one.

Usage: agent_upstream.py [--port N] [--mode openai|templates]; the first line of output is the port.
"""

import argparse
import json
import sys

import agent_rules
from agent_rules import EMBED_MODELS, MODELS, Refusal
from agent_session import FINAL, History, block_answer, next_answer, side_answer, summary_of
from upstream import CREATED, Chat, Handler, Server
from upstream_plans import vector


class AgentHandler(Handler):
    """One connection."""

    mode = "openai"
    broken = set()
    known = {}

    def exchange(self, routes):
        """Read, keep, check and answer one request."""
        try:
            super().exchange(routes)
        finally:
            if self.entry.get("refusal"):
                self.log_refusal()

    def log_refusal(self):
        print(f"{self.path} {self.entry['status']} {self.entry['refusal']}", file=sys.stderr, flush=True)

    def do_GET(self):
        if self.path.startswith("/v1/models/"):
            name = self.path.removeprefix("/v1/models/")
            return super().exchange({self.path: lambda: self.model(name)})
        return super().do_GET()

    def check_key(self):
        """Any key will do."""

    def models(self):
        self.send_json(200, {"object": "list", "data": [model(n) for n in [*MODELS, *EMBED_MODELS]]})

    def model(self, name):
        agent_rules.check_model(name, [*MODELS, *EMBED_MODELS])
        self.send_json(200, model(name))

    def chat(self):
        body = self.entry["body"]
        agent_rules.CHECKS[self.mode](body)
        history = History(body, self.known)
        self.check_window(history)
        plan = self.plan(history)
        wanted = {"stream": bool(body.get("stream")), "stream_options": body.get("stream_options") or {}}
        self.answer({"model": body["model"], **wanted}, plan, tokens_of(body), Chat)

    def check_window(self, history):
        """The task `overflow` fills the window until its history has been summarised."""
        is_full = history.task == "overflow" and "one" in history.finished
        if not is_full or history.is_summarised or history.wants_summary() or not history.tools:
            return
        self.entry["step"] = "overflow"
        window = MODELS[history.body["model"]][0]
        if self.mode == "templates":
            text = f"request ({window + 2345} tokens) exceeds the available context size ({window} "
            counts = {"n_prompt_tokens": window + 2345, "n_ctx": window}
            text += "tokens), try increasing it"
            raise Refusal(text, None, 400, kind="exceed_context_size_error", **counts)
        text = f"This model's maximum context length is {window} tokens. However, your messages resulted in "
        text += f"{window + 2345} tokens. Please reduce the length of the messages."
        raise Refusal(text, "messages", "context_length_exceeded")

    def plan(self, history):
        """The answer, with ids that belong to this place of the session."""
        self.entry["step"] = "side"
        if history.wants_summary() and not history.wants_blocks():
            self.entry["step"] = "summary"
            answer = summary_of(history)
        elif not history.tools and not history.wants_blocks():
            answer = side_answer(history)
        else:
            self.entry["step"] = "session"
            key = (history.task, history.folder)
            say = block_answer if history.wants_blocks() else next_answer
            answer = say(history, key in self.broken)
            if answer.broken:
                self.entry["step"] = "break"
                self.broken.add(key)
            if FINAL in "".join([*answer.parts, *(str(call) for call in answer.calls)]):
                self.entry["step"] = "final"
        return answer.named(f"{history.folder} {len(history.calls)} {sorted(history.finished)}", self.mode)

    def embedding(self):
        body = self.entry["body"]
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"object": "embedding", "index": index, "embedding": vector(str(text))}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens_of(body), "total_tokens": tokens_of(body)}
        self.send_json(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})

    def completion(self):
        raise Refusal(f"Invalid URL ({self.command} {self.path})", status=404)


def model(name):
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"}


def tokens_of(body):
    """About as many tokens as a real model would count."""
    return len(json.dumps(body)) // 4


def main():
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--mode", choices=agent_rules.CHECKS, default="openai", help="what it refuses")
    options = parser.parse_args()
    AgentHandler.mode = options.mode
    server = Server(("127.0.0.1", options.port), AgentHandler)
    print(server.server_address[1], flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
