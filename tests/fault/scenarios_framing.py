"""Request smuggling: requests whose framing two servers could read in two ways."""

import asyncio
import json

import dialects
import spec as specs
import wire
from bench import scenario

START = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"model":"scripted"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSED_WITHIN = 2


def length(value):
    return START + b"Content-Length: " + value + b"\r\n\r\n" + BODY


def coding(value):
    return START + b"Transfer-Encoding: " + value + b"\r\n\r\n" + CHUNKS


def header(line):
    return START + line + b"\r\n" + LENGTH + b"\r\n" + BODY


def chunks(data):
    return START + CHUNKED + b"\r\n" + data


BAD = {
    "length and coding": START + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "coding and length": START + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "length twice, the same": START + LENGTH + LENGTH + b"\r\n" + BODY,
    "length twice, different": START + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "a list of lengths": length(b"20, 20"),
    "a length with a plus": length(b"+20"),
    "a negative length": length(b"-1"),
    "a length with letters": length(b"20a"),
    "a hexadecimal length": length(b"0x14"),
    "an empty length": length(b""),
    "a length of two words": length(b"2 0"),
    "a length with an exponent": length(b"2e1"),
    "a length beyond 64 bits": length(b"18446744073709551636"),
    "gzip": coding(b"gzip"),
    "gzip, then chunked": coding(b"gzip, chunked"),
    "chunked twice": coding(b"chunked, chunked"),
    "chunked twice, two lines": START + CHUNKED + CHUNKED + b"\r\n" + CHUNKS,
    "identity": coding(b"identity"),
    "an unknown coding": coding(b"xchunked"),
    "an empty coding": coding(b""),
    # Not tested: white space other than a blank or a tab at either end of a value (a vertical tab
    # before `chunked`, say), which tiny_http strips before the check sees it.
    "a blank before the colon": START + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
    "a folded header": header(b"X-Fold: a\r\n b"),
    "a bare CR in a value": header(b"X-Bare: a\rb"),
    "a bare LF in a value": header(b"X-Bare: a\nX-Other: b"),
    "a bare LF ends a line": header(b"X-Bare: a\nTransfer-Encoding: chunked"),
    "NUL in a value": header(b"X-Nul: a\x00b"),
    "NUL in a name": header(b"X-N\x00ul: a"),
    "a header without a colon": header(b"X-None"),
    "a header without a name": header(b": a"),
    "a blank in a name": header(b"X Y: a"),
    "150 headers": START
    + b"".join(b"X-%d: a\r\n" % n for n in range(150))
    + LENGTH
    + b"\r\n"
    + BODY,
    "a request line of 17 KiB": b"GET /"
    + b"a" * 17 * 1024
    + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a chunk of hexadecimal 0x": chunks(b"0x14\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a negative chunk": chunks(b"-14\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk of letters": chunks(b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": chunks(b"10000000000000014\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk longer than it says": chunks(b"10\r\n" + BODY + b"\r\n0\r\n\r\n"),
}


@scenario(
    "framing-bad",
    "ambiguous framing is 400 and the connection closed; nothing smuggled behind it is answered",
    2,
    lane="quiet",
)
async def framing_bad(bench):
    slots = asyncio.Semaphore(8)

    async def attempt(place, name, data):
        async with slots:
            spec = bench.spec(f"smuggled{place}")
            each = await wire.Wire.open(bench.addr)
            try:
                await each.send(data + bench.opening(spec, close=False))
                first = await each.answer(5)
                second = await each.answer(1) if first.whole else first
                ended = second.error in ("closed", "cut") or await each.ends(CLOSED_WITHIN)
            except OSError as error:
                bench.check(False, f"{name}: {type(error).__name__}")
                return 0
            finally:
                each.close()
            wrong = [
                what
                for what, is_so in (
                    (f"{first.status} ({first.error})", first.status != 400),
                    ("a second answer", first is not second and second.status is not None),
                    ("the connection stays open", not ended),
                    ("what was smuggled was carried out", await bench.journal(spec["id"])),
                )
                if is_so
            ]
            return int(bench.check(not wrong, f"{name}: {', '.join(wrong)}"))

    found = await asyncio.gather(
        *(attempt(place, name, data) for place, (name, data) in enumerate(BAD.items()))
    )
    bench.figure(f"{sum(found)} of {len(BAD)} refused as they must be")


@scenario(
    "framing-good",
    "unusual but right framing is served: pipelines, chunk extensions, capitals, many headers",
    2,
    lane="quiet",
)
async def framing_good(bench):
    def body(spec):
        return json.dumps(dialects.CHAT.build(spec)).encode()

    def with_length(extra):
        return lambda data: START + extra + b"Content-Length: %d\r\n\r\n" % len(data) + data

    def with_chunks(coding, extension=b"", trailer=b""):
        def build(data):
            half = len(data) // 2
            pieces = b"".join(
                b"%X%s\r\n%s\r\n" % (len(part), extension, part)
                for part in (data[:half], data[half:])
            )
            end = b"0%s\r\n%s\r\n" % (extension, trailer)
            return START + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + pieces + end

        return build

    ways = {
        "plain": with_length(b""),
        "90 headers": with_length(b"".join(b"X-%d: a\r\n" % n for n in range(90))),
        "an empty value": with_length(b"X-Empty:\r\n"),
        "a tab in a value": with_length(b"X-Tab: a\tb\r\n"),
        "a long value": with_length(b"X-Long: " + b"a" * 8000 + b"\r\n"),
        "chunked": with_chunks(b"chunked"),
        "Chunked": with_chunks(b"Chunked"),
        "chunk extensions": with_chunks(b"chunked", b";name=value"),
    }
    served = 0
    for name, build in ways.items():
        each = await wire.Wire.open(bench.addr)
        specs_sent = [bench.spec(), bench.spec()]
        # Two at once: a framing that is misread by a byte shows in the second.
        await each.send(b"".join(build(body(spec)) for spec in specs_sent))
        for place, spec in enumerate(specs_sent):
            answer = await each.answer(5)
            reading = dialects.CHAT.read(answer.body)
            good = reading.done and specs.damage(spec, reading.text) == specs.NONE
            served += bench.check(good, f"{name}, request {place + 1}: {answer}")
        each.close()
    long = await wire.get(bench.addr, "/" + "a" * 15_000)
    bench.check(long.status == 404, f"a request line of 15 KB: {long}")
    bench.figure(f"{served} of {2 * len(ways)} served")
