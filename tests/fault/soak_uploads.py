"""Large requests of the soak test: which text they carry, and in which form they are sent."""

import json
import random

import dialects
import spec as specs

MIB = 1024 * 1024
SIZES = (1, 1, 1.5, 1.5, 2, 4, 8, 16)
PIECES = ["word ", "é", "日本", "😀", '"', "\\", "\n", "{}", "\u2028", "data: ", "x" * 60]


class Filler:
    """A long text, as JSON, with its checksum."""

    def __init__(self, size, dice):
        block = "".join(dice.choice(PIECES) for _ in range(4000))
        block_size = len(json.dumps(block, ensure_ascii=False).encode())
        text = block * max(1, int(size * MIB / block_size)) + f"{dice.random()}"
        self.json = json.dumps(text, ensure_ascii=False).encode()
        self.checksum = specs.checksum(text)


def fillers(seed):
    dice = random.Random(f"{seed}-fillers")
    return [Filler(size, dice) for size in SIZES]


# The routes of uploads, and where their long text stands.
MESSAGES = (dialects.CHAT, dialects.CHAT_WHOLE, dialects.V1, dialects.V1_WHOLE)
MEMBERS = {
    dialects.GENERATE: "system",
    dialects.MESSAGES: "system",
    dialects.MESSAGES_WHOLE: "system",
}
# Not as instructions, which each event that holds a response repeats.
DIALECTS = [*MESSAGES, *MEMBERS, dialects.RESPONSES]


def body(dialect, spec, model, filler, model_first):
    """The request, with the model before the long text or behind it.

    A request of `/v1/chat/completions` with the model first is passed on while it arrives."""
    members = {**dialect.build(spec)}
    del members["model"]
    if dialect in MEMBERS:
        long = b'"%s":%s' % (MEMBERS[dialect].encode(), filler.json)
    else:
        list_name = "messages" if "messages" in members else "input"
        said = members.pop(list_name)
        first = b'{"role":"system","content":%s}' % filler.json
        rest = b"".join(b"," + json.dumps(message).encode() for message in said)
        long = b'"%s":[%s%s]' % (list_name.encode(), first, rest)
    name = b'"model":' + json.dumps(model).encode()
    others = json.dumps(members).encode()[1:-1]
    parts = [name, long, others] if model_first else [long, others, name]
    return b"{" + b",".join(parts) + b"}"


def is_streamed(dialect, model_first):
    """Whether it goes up while it arrives, so that it can be sent once only."""
    return dialect.path.startswith("/v1/chat") and model_first
