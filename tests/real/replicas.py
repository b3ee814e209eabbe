"""Two llama.cpp servers as replicas of a model, and LiteLLM's proxy in front of one of them, in one file.

A conversation must stay at the replica that has its prompt in the cache, go on at the other one while that
is stopped, and come back. llama.cpp tells how many tokens of a prompt it had in the cache.
"""

import json
import subprocess

from harness import HERE, Api, Failure, Subject, wait_until
from servers import LITELLM_KEY, start_litellm

CHAT, OPENAI, ANTHROPIC = "/api/chat", "/v1/chat/completions", "/v1/messages"
MODEL = "smollm2:135m"
STICKY = "colours"
LOCAL_MODEL = HERE.parent.parent / "scripts" / "local-model"
WORDS = 8  # Tokens of a response, so that a slow machine is quick enough.
CONVERSATIONS = 12  # Enough for each replica to get one: all go to the same once in 2048 runs.


class Replica:
    """A llama.cpp server that can be stopped and started again on its port."""

    def __init__(self, context, name):
        self.context = context
        self.name = name
        self.port = 0
        self.begin()

    def begin(self):
        """Start it; `url` waits until it listens."""
        command = [self.context.python("local-model"), LOCAL_MODEL, "--quiet", "--context", 1024]
        # Two that wait for each other are slow on a busy machine.
        command += ["--threads", 1, "--port", self.port]
        log = open(self.context.log_file(f"{self.name}-server"), "ab")
        self.program = self.context.start(
            command, self.name, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def url(self):
        line = self.program.stdout.readline().strip()
        if not line:
            raise Failure(f"no server: {self.context.tail(f'{self.name}-server')}")
        self.port = int(line.removesuffix("/v1").rsplit(":", 1)[1])
        return line

    def stop(self):
        self.program.terminate()
        self.program.wait(20)


def upstream(name, base_url, *lines):
    return "\n".join(["[[upstream]]", f'name = "{name}"', f'base_url = "{base_url}"', *lines, ""])


def configuration(urls, litellm):
    """The configuration file: the replicas, LiteLLM, and a model that stays at one replica."""
    parts = [upstream(name, url) for name, url in urls.items()]
    parts.append(upstream("litellm", f"{litellm}/v1", 'api_key = "${BEHIND_KEY}"'))
    use = ", ".join(f'"{name}/{MODEL}"' for name in urls)
    parts += ["[[model]]", f'name = "{STICKY}"', f"use = [{use}]", 'strategy = "sticky"', ""]
    return "\n".join(parts)


class Conversation:
    """A conversation with a system prompt of its own, so that nothing of it is in another's cache."""

    def __init__(self, api, number, route=OPENAI):
        self.api = api
        self.route = route
        rules = [f"file {number * 31 + rule} goes to shelf {rule * 17 + number}" for rule in range(8)]
        self.system = f"{number} is your office. Its rules: {'; '.join(rules)}."
        self.messages = []
        self.asked = 0

    def body(self, model, messages):
        system = {"role": "system", "content": self.system}
        if self.route == CHAT:
            options = {"num_predict": WORDS, "temperature": 0}
            more = {"messages": [system, *messages], "options": options}
        elif self.route == OPENAI:
            more = {"messages": [system, *messages], "max_tokens": WORDS, "temperature": 0}
        else:
            more = {"system": self.system, "messages": messages, "max_tokens": WORDS}
        return {"model": model, "stream": False, **more}

    def ask(self, model, messages):
        """The response: its text, the upstream, the tokens of the prompt and those in the cache."""
        found = self.api.post(self.route, self.body(model, messages)).ok()
        answer = found.json()
        if self.route == CHAT:
            text, counts = answer["message"]["content"], (answer["prompt_eval_count"], None)
        elif self.route == OPENAI:
            text, usage = answer["choices"][0]["message"]["content"], answer["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            counts = usage["prompt_tokens"], cached
        else:
            text, usage = answer["content"][0]["text"], answer["usage"]
            cached = usage["cache_read_input_tokens"]
            counts = usage["input_tokens"] + cached, cached
        assert text.strip(), answer
        return text, found.headers["X-Upstream"], *counts

    def turn(self):
        """The next turn: the upstream that answered, and the part of the last prompt in its cache."""
        question = "Name another colour." if self.messages else "Name a colour."
        self.messages.append({"role": "user", "content": question})
        text, name, asked, cached = self.ask(STICKY, self.messages)
        self.messages.append({"role": "assistant", "content": text})
        before, self.asked = self.asked or asked, asked
        return name, None if cached is None else cached / before

    def part_elsewhere(self, name):
        """The part of the prompt in the cache of a replica that is asked by its name."""
        _, by, asked, cached = self.ask(f"{name}/{MODEL}", self.messages[:-1])
        assert by == name, by
        return cached / asked


def check_lists(api):
    """The configured model first, and each id once."""
    ids = [model["id"] for model in api.get("/v1/models").ok().json()["data"]]
    assert ids[0].split(":")[0] == STICKY and ids.count(MODEL) == 1, ids
    names = [model["name"] for model in api.get("/api/tags").ok().json()["models"]]
    assert names[0].split(":")[0] == STICKY and names.count(MODEL) == 1, names


def begin_conversations(api):
    """Conversations until each replica has one; they by the name of the replica."""
    homes = {}
    for number in range(CONVERSATIONS):
        conversation = Conversation(api, number)
        name, cached = conversation.turn()
        assert cached < 0.5, f"{cached:.0%} of a new prompt at {name} were in the cache"
        homes.setdefault(name, []).append(conversation)
        if len(homes) == 2:
            return homes
    raise AssertionError(f"all at {list(homes)}")


def check_second_turns(homes):
    """Each second turn is where the first one was, and finds the prompt in the cache."""
    for home, conversations in homes.items():
        for conversation in conversations:
            name, cached = conversation.turn()
            assert name == home, f"went from {home} to {name}"
            assert cached > 0.9, f"only {cached:.0%} of the prompt at {name} were in the cache"


def check_other_replica(homes):
    """Whether the other replica knows nothing of it, so that the cache proves something."""
    first, second = homes
    cached = homes[first][0].part_elsewhere(second)
    assert cached < 0.5, f"{cached:.0%} of the prompt were in the cache of {second}, too"


def check_route(api, route):
    """Two turns over another route."""
    conversation = Conversation(api, 100 + len(route), route)
    first, _ = conversation.turn()
    second, cached = conversation.turn()
    assert first == second, f"went from {first} to {second}"
    assert cached is None or cached > 0.9, f"only {cached:.0%} were in the cache"
    return conversation, first


def check_litellm(api, route):
    """LiteLLM is asked by its name, although the others list this model before it."""
    conversation = Conversation(api, 200 + len(route), route)
    messages = [{"role": "user", "content": "Name a colour."}]
    body = conversation.body(f"litellm/{MODEL}", messages)
    name = api.post(route, body).ok().headers["X-Upstream"]
    assert name == "litellm", name
    name = api.post(route, conversation.body(MODEL, messages)).ok().headers["X-Upstream"]
    assert name == "llama-a", name


def check_streams_on(api, conversation, away):
    """A stream of a conversation whose replica is stopped."""
    messages = [*conversation.messages, {"role": "user", "content": "And one more?"}]
    body = {**conversation.body(STICKY, messages), "stream": True}
    found = api.post(conversation.route, body).ok()
    lines = found.lines()
    assert found.headers["X-Upstream"] != away, found.headers
    assert lines[-1]["done"] and len(lines) > 2, lines


def check_goes_on(homes, stopped):
    """Conversations of the stopped replica go on at the other one; those of that stay there."""
    other = next(name for name in homes if name != stopped)
    name, _ = homes[stopped][0].turn()
    assert name == other, name
    name, cached = homes[other][0].turn()
    assert name == other and cached > 0.9, f"{cached:.0%} at {name}"


def check_health(api, stopped):
    """The others are well, so all is well."""

    def found():
        answer = api.get("/openai/health")
        states = {each["name"]: each["status"] for each in answer.json()["upstreams"]}
        wrong = [name for name, status in states.items() if (status == "healthy") == (name == stopped)]
        return answer.status == 200 and not wrong and len(states) == 3

    wait_until(found, "the health that tells of the stopped replica only")


def check_comes_home(homes, replica):
    """The conversation is at its replica again as soon as that answers."""
    replica.begin()
    replica.url()
    conversation = homes[replica.name][0]
    wait_until(lambda: conversation.turn()[0] == replica.name, "back at its replica", 60)


def run(context):
    """The whole subject."""
    check = context.report.check
    replicas = {name: Replica(context, name) for name in ("llama-a", "llama-b")}
    urls = {name: replica.url() for name, replica in replicas.items()}
    access = {"model": f"openai/{MODEL}", "api_base": urls["llama-b"], "api_key": "any"}
    models = [{"model_name": MODEL, "litellm_params": access, "model_info": {"mode": "chat"}}]
    litellm = start_litellm(context, models)
    file = context.folder / "proxy.toml"
    file.write_text(configuration(urls, litellm))
    api = Api(context.proxy(None, more={"PROXY_CONFIG": str(file), "BEHIND_KEY": LITELLM_KEY}))
    check("lists each model once", check_lists, api)
    for route in (CHAT, OPENAI, ANTHROPIC):
        check(f"{route}: LiteLLM is asked by its name", check_litellm, api, route)
    homes = check("both replicas get conversations", begin_conversations, api)
    if homes is None:
        return
    check("second turns have cached tokens", check_second_turns, homes)
    check("the other replica has none", check_other_replica, homes)
    check(f"{ANTHROPIC}: the second turn has cached tokens", check_route, api, ANTHROPIC)
    native = check(f"{CHAT}: the second turn is at the same replica", check_route, api, CHAT)
    conversation, stopped = native or (None, "llama-a")
    replicas[stopped].stop()
    if conversation:
        check(f"{CHAT}: a stream goes on at the other replica", check_streams_on, api, conversation, stopped)
    check("conversations go on at the other replica", check_goes_on, homes, stopped)
    check("the health tells of the stopped one", check_health, api, stopped)
    check("a conversation comes home", check_comes_home, homes, replicas[stopped])


SUBJECTS = {
    "replicas": Subject(
        "two of llama.cpp, sticky, and LiteLLM in one file", run, python=["local-model", "litellm"]
    )
}
