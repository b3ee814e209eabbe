"""The clients of the soak test: each performs random acts one after the other.

An *act* is one thing that a client does, such as a chat or a broken upload. It returns the kind of
its outcome and the kinds that are allowed. Every token is compared, whatever the kind.
"""

import asyncio
import base64
import collections
import time

import dialects
import scenarios_framing
import soak_uploads
import spec as specs
import wire
from bench import Outcome, outcome
from replicas import MODELS

# `spec` is None where no answer is compared, `replica` is the upstream that answered, if it is known.
Deed = collections.namedtuple("Deed", "name dialect kind expected spec outcome replica once")

EXACT = {"exact"}
FAILS = {"error", "busy"}
# A stream that was cut behind its last token may be whole, but for its counts.
EITHER = EXACT | FAILS | {"uncounted"}

# What may go wrong upstream, and what a client may then see.
FAULTS = [
    ("reset", {"fault": "reset"}, FAILS),
    ("close", {"fault": "close"}, FAILS),
    ("garbage", {"fault": "garbage"}, FAILS),
    ("429", {"fault": "status", "status": 429}, FAILS),
    ("503", {"fault": "status", "status": 503}, FAILS),
    ("reset once", {"fault": "reset", "times": 1}, EXACT),
    ("429 once", {"fault": "status", "status": 429, "times": 1}, EXACT),
    ("503 once", {"fault": "status", "status": 503, "times": 1}, EXACT),
    ("stale", {"after": "close"}, EXACT),
    ("cut", {"fault": "cut"}, EITHER),
    ("cut, reset", {"fault": "cutreset"}, EITHER),
    ("cut, no frames", {"fault": "cut", "frame": "close"}, EITHER),
    ("late head", {"wait": 0.7}, EXACT),
    ("stall", {"fault": "stall", "at": 3}, FAILS),
]

ACTS = [
    ("plain", 60),
    ("fault", 20),
    ("leave", 8),
    ("slow reader", 4),
    ("upload", 2),
    ("lists", 3),
    ("wrong key", 3),
    ("turning key", 3),
    ("bad request", 5),
    ("bad framing", 1),
    ("slow head", 1),
    ("stalled upload", 1),
]


class Stage:
    """What all clients share: the address, the plan, the numbers of specs, and the texts of uploads."""

    def __init__(self, addr, plan, numbers, fillers):
        self.addr = addr
        self.plan = plan
        self.numbers = numbers
        self.fillers = fillers
        self.uploaded = 0

    def judged(self, dialect, spec, answer):
        """The outcome, the spec as the upstream that answered has it, and that upstream."""
        name = answer.headers.get("x-upstream")
        replica = next((each for each in self.plan.replicas if each.name == name), None)
        sent = specs.at_replica(spec, replica.number if replica else 0)
        return outcome(dialect, sent, answer), sent, replica


def other(name, kind, expected, answer=None):
    """A deed whose answer has no tokens."""
    found = answer and Outcome(kind, answer, None)
    return Deed(name, None, kind, expected, None, found, None, False)


class Client:
    """One client with its own random numbers, address and key."""

    def __init__(self, stage, dice, source, key):
        self.stage = stage
        self.addr = stage.addr
        self.dice = dice
        self.source = source
        self.key = key
        self.kept = None

    def spec(self, **members):
        number = next(self.stage.numbers)
        split = self.dice.random() < 0.3
        return {
            "id": f"soak-{number}",
            "seed": number,
            "n": self.dice.choice((1, 2, 5, 20, 60)),
            # Between pieces of some bytes, a longer one would be long in all.
            "gap": self.dice.choice((0, 0, 0, 0.002, 0.002 if split else 0.02)),
            "split": split,
            **members,
        }

    async def act(self):
        names, weights = zip(*ACTS)
        name = self.dice.choices(names, weights)[0]
        return await getattr(self, name.replace(" ", "_"))()

    def headers(self, key):
        """The key in one of the ways in which clients send it."""
        way = self.dice.randrange(4)
        if way == 0:
            return [("x-api-key", key)]
        if way == 1:
            both = base64.b64encode(f"user:{key}".encode()).decode()
            return [("Authorization", f"Basic {both}")]
        return [("Authorization", f"Bearer {key}")]

    def request(self, dialect, spec, close=True, key=None):
        """The bytes of a request for one of the models."""
        body = {**dialect.build(spec), "model": self.dice.choice((*MODELS, "turning"))}
        return wire.request("POST", dialect.path, body, self.headers(key or self.key), close)

    def deed(self, name, dialect, expected, spec, answer, once=False):
        found, sent, replica = self.stage.judged(dialect, spec, answer)
        return Deed(name, dialect, found.kind, expected, sent, found, replica, once)

    async def ask(self, name, spec, expected, key=None):
        """A request, half of the time on a connection that is kept."""
        dialect = self.dice.choice(dialects.EVERY)
        close = self.dice.random() < 0.5
        data = self.request(dialect, spec, close, key)
        answer = await (self.ask_once(data) if close else self.ask_kept(data))
        return self.deed(name, dialect, expected, spec, answer)

    async def ask_once(self, data, timeout=30):
        each = await wire.Wire.open(self.addr, self.source)
        try:
            return await each.exchange(data, timeout)
        finally:
            each.close()

    async def ask_kept(self, data):
        if self.kept is None:
            self.kept = await wire.Wire.open(self.addr, self.source)
        answer = await self.kept.exchange(data)
        if not answer.whole or answer.headers.get("connection") == "close":
            self.drop()
        return answer

    def drop(self):
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    async def plain(self):
        return await self.ask("plain", self.spec(), EXACT)

    async def fault(self):
        name, members, expected = self.dice.choice(FAULTS)
        if name == "stall" and self.dice.random() < 0.8:
            # It takes its time; the others are worth more.
            return await self.plain()
        members = dict(members)
        if members.get("fault") in ("cut", "cutreset"):
            members["at"] = self.dice.randrange(1, 3000)
        if name == "stall":
            # Behind some tokens, and not within the head, where each upstream would be waited for.
            members.update(n=20, split=False)
        found = await self.ask(name, self.spec(**members), expected)
        if name == "stall" and found.kind == "exact":
            # An answer in one piece may be over before the place of the stall.
            return found._replace(expected=EITHER)
        return found

    async def leave(self):
        """Reads a little of a long answer and goes; what came must be its beginning."""
        spec = self.spec(n=200, gap=0.005)
        dialect = self.dice.choice(
            (dialects.CHAT, dialects.GENERATE, dialects.V1, dialects.TEXT, dialects.RESPONSES)
        )
        each = await wire.Wire.open(self.addr, self.source)
        began = time.monotonic()
        await each.send(self.request(dialect, spec))
        answer = await each.answer(self.dice.choice((0.02, 0.1, 0.3)))
        answer.began = began
        each.reset() if self.dice.random() < 0.5 else each.close()
        found = self.deed("leave", dialect, {"left"}, spec, answer)
        if answer.status is None:
            return found._replace(kind="left", spec=None)
        return found._replace(kind="left" if found.kind == "none" else found.kind)

    async def slow_reader(self):
        spec = self.spec(n=60, gap=0)
        dialect = self.dice.choice((dialects.CHAT, dialects.V1, dialects.MESSAGES))
        each = await wire.Wire.open(self.addr, self.source, small=True)
        answer = await each.exchange(self.request(dialect, spec), pause=0.01)
        each.close()
        return self.deed("slow reader", dialect, EXACT, spec, answer)

    async def upload(self):
        """A request of some MiB; the upstream compares the long text with its checksum."""
        filler = self.dice.choice(self.stage.fillers)
        dialect = self.dice.choice(soak_uploads.DIALECTS)
        model_first = self.dice.random() < 0.5
        spec = self.spec(upload=filler.checksum)
        model = self.dice.choice((*MODELS, "turning"))
        body = soak_uploads.body(dialect, spec, model, filler, model_first)
        data = wire.request("POST", dialect.path, body, self.headers(self.key))
        answer = await self.ask_once(data)
        self.stage.uploaded += len(body)
        once = soak_uploads.is_streamed(dialect, model_first)
        return self.deed("upload", dialect, EXACT, spec, answer, once)

    async def lists(self):
        """What is asked beside answers: each is whole JSON that names the models."""
        path = self.dice.choice(("/api/tags", "/v1/models", "/api/ps", "/api/version"))
        data = wire.request("GET", path, None, self.headers(self.key))
        answer = await self.ask_once(data)
        is_list = path in ("/api/tags", "/v1/models")
        good = answer.status == 200 and answer.whole and bool(answer.json())
        good = good and (not is_list or all(name.encode() in answer.body for name in MODELS))
        return other("lists", "listed" if good else f"no list at {path}", {"listed"}, answer)

    async def wrong_key(self):
        """A key that is none: refused, and nothing goes upstream."""
        dialect = self.dice.choice(dialects.EVERY)
        body = dialect.build(self.spec(id="nobody"))
        key = self.dice.choice((self.key[:-1], self.key + "0", "client-key-none", "x" * 3000))
        headers = self.headers(key) if self.dice.random() < 0.8 else []
        data = wire.request("POST", dialect.path, body, headers)
        return self.refused("wrong key", await self.ask_once(data), (401, 429))

    async def turning_key(self):
        """The key that changes with each reload, or one that was taken away."""
        plan = self.stage.plan
        epoch = plan.epoch
        if plan.retired and self.dice.random() < 0.5:
            key, kinds = self.dice.choice(plan.retired), {"denied"}
        else:
            key, kinds = plan.turning, EXACT
        found = await self.ask("turning key", self.spec(), kinds, key)
        if found.outcome.answer.status in (401, 429):
            found = found._replace(kind="denied", spec=None)
        if epoch % 2 or epoch != plan.epoch:
            found = found._replace(expected=EXACT | {"denied"})
        return found

    def refused(self, name, answer, statuses):
        kind = "refused" if answer.status in statuses else f"{answer.status} for {statuses}"
        return other(name, kind, {"refused"}, answer)

    async def bad_request(self):
        """A request that must be refused with just this status."""
        method, path, body, status = self.dice.choice(
            (
                ("POST", "/api/chat", b"{", 400),
                ("POST", "/api/chat", b'{"model":"scripted","messages":7}', 400),
                ("POST", "/api/generate", b"", 400),
                ("POST", "/v1/chat/completions", b"[]", 400),
                ("POST", "/v1/messages", b'{"model":"scripted","messages":[]}', 400),
                ("GET", "/nowhere", None, 404),
                ("DELETE", "/api/chat", None, 405),
            )
        )
        data = wire.request(method, path, body, self.headers(self.key))
        return self.refused(f"bad request {path}", await self.ask_once(data), (status,))

    async def bad_framing(self):
        """Nothing follows behind it here; scenarios_framing looks at that."""
        name, data = self.dice.choice(list(scenarios_framing.BAD.items()))
        each = await wire.Wire.open(self.addr, self.source)
        await each.send(data)
        each.half_close()
        answer = await each.answer(5)
        each.reset()
        kind = f"silence at {name}" if answer.error == "timeout" else "refused"
        return other("bad framing", kind, {"refused"}, answer)

    async def slow_head(self):
        each = await wire.Wire.open(self.addr, self.source)
        for byte in b"POST /api/":
            await each.send(bytes([byte]))
            await asyncio.sleep(0.2)
        each.reset() if self.dice.random() < 0.5 else each.close()
        return other("slow head", "gone", {"gone"})

    async def stalled_upload(self):
        each = await wire.Wire.open(self.addr, self.source)
        data = wire.request("POST", "/api/chat", b" " * 5000, self.headers(self.key))
        await each.send(data[:-2000])
        await asyncio.sleep(1.5)
        each.reset() if self.dice.random() < 0.5 else each.close()
        return other("stalled upload", "gone", {"gone"})
