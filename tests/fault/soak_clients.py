"""The clients of the soak test: each performs random acts one after the other.

An *act* is one thing that a client does, such as a chat or a broken upload. It returns the kind of
its outcome and the kinds that are allowed. Every token is compared, whatever the kind.
"""

import asyncio
import collections

import dialects
import scenarios_framing
import wire
from bench import Outcome, outcome

Deed = collections.namedtuple("Deed", "name kind expected spec outcome")

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
    ("bad request", 5),
    ("bad framing", 1),
    ("slow head", 1),
    ("stalled upload", 1),
]


class Client:
    """One client with its own random numbers; `number` makes ids for its specs."""

    def __init__(self, addr, dice, number, source):
        self.addr = addr
        self.dice = dice
        self.number = number
        self.source = source
        self.kept = None

    def spec(self, **members):
        number = next(self.number)
        return {
            "id": f"soak-{number}",
            "seed": number,
            "n": self.dice.choice((1, 2, 5, 20, 60)),
            "gap": self.dice.choice((0, 0, 0, 0.002, 0.02)),
            "split": self.dice.random() < 0.3,
            **members,
        }

    async def act(self):
        names, weights = zip(*ACTS)
        name = self.dice.choices(names, weights)[0]
        return await getattr(self, name.replace(" ", "_"))()

    async def ask(self, name, spec, expected):
        """A request, half of the time on a connection that is kept."""
        dialect = self.dice.choice(dialects.ALL)
        body = dialect.build(spec)
        if self.dice.random() < 0.5:
            answer = await wire.ask(self.addr, "POST", dialect.path, body, self.source)
        else:
            answer = await self.ask_kept(dialect, body)
        found = outcome(dialect, spec, answer)
        return Deed(f"{name} {dialect.name}", found.kind, expected, spec, found)

    async def ask_kept(self, dialect, body):
        if self.kept is None:
            self.kept = await wire.Wire.open(self.addr, self.source)
        await self.kept.send(wire.request("POST", dialect.path, body, close=False))
        answer = await self.kept.answer()
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
            members["n"] = 20
        found = await self.ask(name, self.spec(**members), expected)
        if name == "stall" and "stream" not in found.name and found.kind == "exact":
            # An answer in one piece may be over before the place of the stall.
            return found._replace(expected=EITHER)
        return found

    async def leave(self):
        """Reads a little of a long answer and goes; what came must be its beginning."""
        spec = self.spec(n=200, gap=0.005)
        dialect = self.dice.choice((dialects.CHAT, dialects.GENERATE, dialects.V1))
        each = await wire.Wire.open(self.addr, self.source)
        await each.send(wire.request("POST", dialect.path, dialect.build(spec)))
        answer = await each.answer(self.dice.choice((0.02, 0.1, 0.3)))
        each.reset() if self.dice.random() < 0.5 else each.close()
        if answer.status is None:
            return Deed(f"leave {dialect.name}", "left", {"left"}, spec, None)
        found = outcome(dialect, spec, answer)
        kind = "left" if found.kind == "none" else found.kind
        return Deed(f"leave {dialect.name}", kind, {"left"}, spec, found)

    async def slow_reader(self):
        spec = self.spec(n=60, gap=0)
        dialect = self.dice.choice((dialects.CHAT, dialects.V1, dialects.MESSAGES))
        each = await wire.Wire.open(self.addr, self.source, small=True)
        await each.send(wire.request("POST", dialect.path, dialect.build(spec)))
        found = outcome(dialect, spec, await each.answer(30, pause=0.01))
        each.close()
        return Deed(f"slow reader {dialect.name}", found.kind, EXACT, spec, found)

    async def bad_request(self):
        """A request that must be refused with just this status."""
        method, path, body, status = self.dice.choice(
            (
                ("POST", "/api/chat", b"{", 400),
                ("POST", "/api/chat", b'{"model":"scripted","messages":7}', 400),
                ("POST", "/api/generate", b"", 400),
                ("POST", "/v1/chat/completions", b"[]", 400),
                ("GET", "/nowhere", None, 404),
                ("DELETE", "/api/chat", None, 405),
            )
        )
        answer = await wire.ask(self.addr, method, path, body, self.source)
        kind = "refused" if answer.status == status else f"{answer.status} for {status}"
        return Deed(f"bad request {path}", kind, {"refused"}, None, Outcome(kind, answer, None))

    async def bad_framing(self):
        """Nothing follows behind it here; scenarios_framing looks at that."""
        name, data = self.dice.choice(list(scenarios_framing.BAD.items()))
        each = await wire.Wire.open(self.addr, self.source)
        await each.send(data)
        each.half_close()
        answer = await each.answer(5)
        each.reset()
        kind = f"silence at {name}" if answer.error == "timeout" else "refused"
        return Deed("bad framing", kind, {"refused"}, None, Outcome(kind, answer, None))

    async def slow_head(self):
        each = await wire.Wire.open(self.addr, self.source)
        for byte in b"POST /api/":
            await each.send(bytes([byte]))
            await asyncio.sleep(0.2)
        each.reset() if self.dice.random() < 0.5 else each.close()
        return Deed("slow head", "gone", {"gone"}, None, None)

    async def stalled_upload(self):
        each = await wire.Wire.open(self.addr, self.source)
        data = wire.request("POST", "/api/chat", b" " * 5000)
        await each.send(data[:-2000])
        await asyncio.sleep(1.5)
        each.reset() if self.dice.random() < 0.5 else each.close()
        return Deed("stalled upload", "gone", {"gone"}, None, None)
