"""Large requests and answers: the bodies of requests by kind, and what an upstream answers with."""

import json

import upstream_wire as wire

MIB = 1024 * 1024

# What the upstream lists. `whole`, `event` and `calls` are followed by the MiB of the answer.
SIZES = (1, 4, 8, 20, 30, 60, 100)
MODELS = ["text", "slow", "tokens"] + [
    f"{kind}-{size}" for kind in ("whole", "event", "calls", "embed") for size in SIZES
]

PIECE = b"x" * 65536
TEXT = ("The quick brown fox jumps over the lazy dog, \\\"again\\\" and again.\\n" * 1000).encode()


def model_list():
    entries = [{"id": name, "object": "model", "created": 1, "owned_by": "t"} for name in MODELS]
    return wire.whole(json.dumps({"object": "list", "data": entries}).encode())


def repeated(unit, size):
    """About `size` bytes that repeat `unit`, which is not cut."""
    return unit * max(1, size // len(unit))


def completion(size):
    """A whole completion with a text of this size."""
    begin = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    begin += b'"message":{"role":"assistant","content":"'
    end = b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}'
    return [begin, *[TEXT] * max(1, size // len(TEXT)), end]


def embeddings(size):
    """One embedding whose numbers have this size."""
    unit = b"0.0123456789," * 8192
    numbers = [unit] * max(1, size // len(unit))
    begin = b'{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":['
    return [begin, *numbers, b'1]}],"usage":{"prompt_tokens":1,"total_tokens":1}}']


def chunk(delta, reason="null"):
    begin = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    return f'data: {begin}"delta":{delta},"finish_reason":{reason}}}]}}\n\n'.encode()


def events(kind, size):
    """A stream of events: pauses, and the pieces of one event before each."""
    if kind == "event":
        begin, end = chunk('{"content":"@"}').split(b"@")
        yield 0, [begin, *[TEXT] * max(1, size // len(TEXT)), end]
    elif kind == "calls":
        function = '"function":{"name":"f","arguments":"{\\"a\\":\\""}'
        yield 0, [chunk('{"tool_calls":[{"index":0,"id":"c1","type":"function",%s}]}' % function)]
        more = chunk('{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}' % PIECE.decode())
        for _ in range(max(1, size // len(PIECE))):
            yield 0, [more]
        yield 0, [chunk('{"tool_calls":[{"index":0,"function":{"arguments":"\\"}"}}]}')]
    else:
        for _ in range(20 if kind == "tokens" else 2):
            yield 0.05, [chunk('{"content":"token "}')]
    reason = '"tool_calls"' if kind == "calls" else '"stop"'
    yield 0, [chunk("{}", reason), b"data: [DONE]\n\n"]


def strings(unit, size):
    """A list of JSON texts."""
    return b"[" + repeated(unit + b",", size)[:-1] + b"]"


# The large part of a request by kind: what stands for the content of the only message, and what for tools.
KINDS = {
    "text": lambda size: (b'"' + repeated(TEXT, size) + b'"', None),
    "plain": lambda size: (b'"' + repeated(PIECE, size) + b'"', None),
    "numbers": lambda size: (b'"x"', strings(b"1", size)),
    "objects": lambda size: (b'"x"', strings(b'{"a":1}', size)),
    "nested": lambda size: (b'"x"', strings(b"[[[1]]]", size)),
    "empty": lambda size: (b'"x"', strings(b"{}", size)),
    "members": lambda size: (b'"x"', strings(b'{"abcdef":"ghijkl","mnop":[true,null]}', size)),
}


def tools(schema):
    """A list of one function whose parameters hold a large list."""
    return (
        b',"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":'
        b'{"type":"object","properties":{"p":{"type":"string","enum":' + schema + b"}}}}}]"
    )


def request(path, kind, size, model="text", stream=False, behind=False):
    """The body of a request of about this size; `behind` puts the model's name behind it."""
    if kind == "messages":
        return many_messages(path, size, model, stream)
    content, schema = KINDS["plain" if kind == "image" else kind](size)
    name = b'"model":"%s","stream":%s' % (model.encode(), b"true" if stream else b"false")
    if path == "/api/generate":
        rest = b'"prompt":' + content
        if kind == "image":
            rest = b'"prompt":"x","images":[' + image(size) + b"]"
        elif schema:
            rest += b',"options":{"stop":' + schema + b"}"
    elif path in ("/api/embed", "/v1/embeddings"):
        rest = b'"input":' + content
    elif path == "/v1/responses":
        rest = b'"store":false,"input":' + content
    elif kind == "image" and path == "/api/chat":
        rest = b'"messages":[{"role":"user","content":"x","images":[' + image(size) + b"]}]"
    elif kind == "image":
        url = b'"data:image/png;base64,' + image(size)[1:]
        part = b'{"type":"image_url","image_url":{"url":' + url + b"}}"
        rest = b'"messages":[{"role":"user","content":[' + part + b"]}]"
    else:
        rest = b'"messages":[{"role":"user","content":' + content + b"}]"
        if schema and path == "/v1/messages":
            rest += b',"max_tokens":9,"tools":[{"name":"f","input_schema":{"type":"object","x":' + schema + b"}}]"
        elif schema:
            rest += tools(schema)
        elif path == "/v1/messages":
            rest += b',"max_tokens":9'
    parts = (rest, name) if behind else (name, rest)
    return b"{" + b",".join(parts) + b"}"


def many_messages(path, size, model, stream):
    """Messages of one letter, or the same of other routes."""
    name = b'"model":"%s","stream":%s' % (model.encode(), b"true" if stream else b"false")
    one = b'{"role":"user","content":"x"}'
    if path == "/v1/messages":
        return b"{" + name + b',"max_tokens":9,"messages":' + strings(one, size) + b"}"
    if path == "/v1/responses":
        return b"{" + name + b',"store":false,"input":' + strings(one, size) + b"}"
    if path in ("/api/embed", "/v1/embeddings"):
        return b"{" + name + b',"input":' + strings(b'"x"', size) + b"}"
    return b"{" + name + b',"messages":' + strings(one, size) + b"}"


def image(size):
    """A PNG of this size, as base64."""
    return b'"iVBORw0KGgoAAAANSUhEUgAA' + b"QUJD" * (size // 4) + b'"'
