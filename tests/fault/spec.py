"""What a request asks of the scripted upstream, and what its answer must therefore be.

A prompt is a JSON object, the *spec*. Seed and number of tokens decide the answer exactly, so that
upstream and checker need not speak to each other. Each token names its seed and its place: what is
lost, duplicated or taken from another answer shows by itself.
"""

import collections
import json
import random
import re
import zlib

MODEL = "scripted"
DIMENSIONS = 8
# What all keys of clients begin with: no upstream may see one.
CLIENT_KEY = "client-key-"
TAILS = ["", "a", "é", "日本", "😀", "\n", '"', "\\", "<b>", "\t", "data: ", "{}", "\u2028", " "]
MARK = re.compile(r"\[(\d+)\.(\d+)\]")


def tokens(seed, count):
    """The tokens of an answer; together they are its text."""
    random_source = random.Random(seed)
    return [f"[{seed}.{place}]{random_source.choice(TAILS)}" for place in range(count - 1)] + [
        f"[{seed}.{count - 1}]"
    ]


def at_replica(spec, number):
    """The spec as the upstream of this number answers it: no two give the same tokens."""
    return {**spec, "seed": spec["seed"] * 10 + number} if number else spec


def text(seed, count):
    return "".join(tokens(seed, count))


def vector(seed, place):
    """An embedding of unit length, so that the proxy passes it unchanged."""
    at = (seed + place) % DIMENSIONS
    return [1.0 if index == at else 0.0 for index in range(DIMENSIONS)]


def counts(spec):
    """Tokens of the prompt and of the response, as in the upstream's usage."""
    return 3 + spec["seed"] % 7, spec["n"]


def checksum(filler):
    """Length and checksum of the long text of an upload, as its spec tells them."""
    data = (filler or "").encode("utf-8", "surrogatepass")
    return [len(data), zlib.crc32(data)]


def prompt(spec):
    return json.dumps(spec)


def parse(prompt_text):
    """The spec in a prompt; a short plain answer for any other prompt."""
    try:
        spec = json.loads(prompt_text)
        if isinstance(spec, dict) and "seed" in spec:
            return {"id": "?", "n": 3, **spec}
    except (TypeError, ValueError):
        pass
    return {"id": "?", "seed": 1, "n": 3}


Damage = collections.namedtuple("Damage", "lost duplicated altered")
NONE = Damage(0, 0, 0)


def damage(spec, found, whole=True):
    """How many tokens of `found` are lost, duplicated or altered. What is not whole may end early,
    but only that: it must be the beginning of the true text."""
    true = text(spec["seed"], spec["n"])
    if found == true or (not whole and true.startswith(found)):
        return NONE
    seen = collections.Counter(
        int(place) for seed, place in MARK.findall(found) if int(seed) == spec["seed"]
    )
    last = spec["n"] - 1 if whole else max(seen, default=-1)
    lost = sum(1 for place in range(last + 1) if not seen[place])
    duplicated = sum(times - 1 for times in seen.values())
    altered = 0 if lost or duplicated else 1
    return Damage(lost, duplicated, altered)
