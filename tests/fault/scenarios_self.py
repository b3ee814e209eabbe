"""Tests of the checker itself: it must detect every kind of wrong response."""

import asyncio
import json

import dialects
import spec as specs
import upstream_wire
import wire
from bench import outcome, scenario


def lines(spec, tokens, end=True, counts=None):
    """An answer of /api/chat with these tokens, in frames."""
    asked, made = counts or specs.counts(spec)
    found = [{"message": {"content": token}, "done": False} for token in tokens]
    if end:
        found.append(
            {
                "message": {"content": ""},
                "done": True,
                "prompt_eval_count": asked,
                "eval_count": made,
            }
        )
    data = [json.dumps(line).encode() + b"\n" for line in found]
    return b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in data) + b"0\r\n\r\n"


@scenario(
    "self-check",
    "the checker tells exact answers from lost, doubled, altered, foreign and truncated ones",
    0,
    lane="quiet",
    witness=None,
)
async def self_check(bench):
    spec = bench.spec(n=6)
    true = specs.tokens(spec["seed"], 6)
    foreign = specs.tokens(spec["seed"] + 1, 6)
    ways = {
        "exact": ("exact", lines(spec, true)),
        "one lost": ("damaged", lines(spec, true[:2] + true[3:])),
        "the last lost": ("damaged", lines(spec, true[:-1])),
        "one doubled": ("damaged", lines(spec, true[:3] + true[2:])),
        "two exchanged": ("damaged", lines(spec, [true[1], true[0], *true[2:]])),
        "one altered": ("damaged", lines(spec, [*true[:-1], true[-1] + "x"])),
        "another's token": ("damaged", lines(spec, [*true[:3], foreign[3], *true[4:]])),
        "wrong counts": ("damaged", lines(spec, true, counts=(1, 5))),
        "no end": ("truncated", lines(spec, true, end=False)),
        "cut in a frame": ("error", lines(spec, true)[:-20]),
        "cut before the last frame": ("error", lines(spec, true)[:-5]),
    }
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + answers.pop())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    addr = server.sockets[0].getsockname()
    right = 0
    for name, (kind, body) in ways.items():
        answers.append(body)
        found = outcome(dialects.CHAT, spec, await wire.ask(addr, "POST", "/api/chat", {}))
        right += bench.check(found.kind == kind, f"{name}: taken for {found.kind}")
    server.close()
    for text, expected in (
        ("".join(true[:2] + true[3:]), (1, 0, 0)),
        ("".join(true[:3] + true[2:]), (0, 1, 0)),
        ("".join(true) + "x", (0, 0, 1)),
    ):
        found = tuple(specs.damage(spec, text))
        right += bench.check(found == expected, f"damage {found} instead of {expected}")
    await sees_who_leaves(bench)
    bench.figure(f"{right} of {len(ways) + 3} judged rightly")


async def sees_who_leaves(bench):
    """Whether the upstream notes at once that its peer left, in each way and stage."""
    bench.start()
    upstream = bench.upstream.addr
    for how in ("close", "reset"):
        for fault in ({"fault": "hang"}, {"fault": "stall", "at": 2}):
            spec = bench.spec("left", **fault)
            each = await wire.Wire.open(upstream)
            data = dialects.V1.build(spec)
            await each.send(wire.request("POST", "/v1/chat/completions", data))
            await bench.seen(spec)
            getattr(each, how)()
            await asyncio.sleep(0.2)
            entry = (await bench.journal(spec["id"]))[spec["id"]]
            bench.check(entry["gone"], f"{fault}, {how}: the upstream did not see it")
    # And that it notes nothing while its peer stays.
    spec = bench.spec("stays", fault="hang")
    each = await wire.Wire.open(upstream)
    await each.send(wire.request("POST", "/v1/chat/completions", dialects.V1.build(spec)))
    await asyncio.sleep(0.5)
    entry = (await bench.journal(spec["id"]))[spec["id"]]
    bench.check(not entry["gone"], "the upstream saw somebody leave who stayed")
    each.close()


@scenario(
    "self-check-routes",
    "the readers of OpenAI's routes tell exact answers from damaged and unfinished ones",
    0,
    lane="quiet",
    witness=None,
)
async def self_check_routes(bench):
    checked = 0
    for dialect in (
        dialects.V1,
        dialects.V1_WHOLE,
        dialects.TEXT,
        dialects.TEXT_WHOLE,
        dialects.RESPONSES,
        dialects.RESPONSES_WHOLE,
    ):
        spec = {**bench.spec(n=6), "frame": "close"}
        pieces = upstream_wire.pieces(dialect.path, dialect.build(spec), spec)[1:]
        body = b"".join(pieces)
        token = f"[{spec['seed']}.2]".encode()
        half = body[: len(body) // 2]
        ways = {
            "exact": ("exact", body),
            "one lost": ("damaged", body.replace(token, b"")),
            "one doubled": ("damaged", body.replace(token, token * 2)),
            "one lost on the way": ("damaged", body.replace(token, b"", 1)),
            "cut": ("error", half),
        }
        if len(pieces) == 1:
            del ways["one lost on the way"]
        for name, (expected, data) in ways.items():
            answer = wire.Answer()
            answer.status, answer.body = 200, data
            answer.error = "cut" if data is half else None
            found = outcome(dialect, spec, answer).kind
            what = f"{dialect.name}, {name}: {found} instead of {expected}"
            checked += bench.check(found == expected, what)
    bench.figure(f"{checked} judged rightly")
