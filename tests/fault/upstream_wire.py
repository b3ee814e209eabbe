"""Bytes and JSON of the scripted upstream; nothing here waits or fails on purpose."""

import json

import spec as specs

CREATED = 1_750_000_000
REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}


def take_request(buffer):
    """Takes a whole request off the buffer: method, target, body; None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = buffer[:end].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ValueError(f"a request line with {len(words)} words")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    start = end + 4
    if "chunked" in headers.get("transfer-encoding", ""):
        found = take_chunks(buffer, start)
        if found is None:
            return None
        body, end = found
    else:
        end = start + int(headers.get("content-length", 0))
        if len(buffer) < end:
            return None
        body = bytes(buffer[start:end])
    del buffer[:end]
    return words[0], words[1], body


def take_chunks(buffer, at):
    body = bytearray()
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        length = int(bytes(buffer[at:line]).split(b";")[0], 16)
        at = line + 2
        if len(buffer) < at + length + 2:
            return None
        body += buffer[at : at + length]
        at += length + 2
        if length == 0:
            return bytes(body), at


def prompt_of(request):
    """The text that holds the spec: the last message, the prompt, or the input."""
    if "messages" in request:
        content = request["messages"][-1].get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        return content
    if "input" in request:
        found = request["input"]
        return found[0] if isinstance(found, list) and found else found
    return request.get("prompt")


def head(status, kind, headers=()):
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body, status=200, headers=()):
    return head(status, "application/json", [("Content-Length", len(body)), *headers]) + body


def models():
    entry = {"id": specs.MODEL, "object": "model", "created": CREATED, "owned_by": "tests"}
    return whole(json.dumps({"object": "list", "data": [entry]}).encode())


def missing():
    return whole(b'{"error":{"message":"no such path"}}', 404)


def refusal(status, retry_after):
    body = json.dumps({"error": {"message": f"scripted refusal {status}", "type": "scripted"}})
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    return whole(body.encode(), status, headers)


def pieces(path, request, spec):
    """Head and body as the pieces in which they are written."""
    if path.endswith("/embeddings"):
        events = [json.dumps(embeddings(request, spec)).encode()]
        kind = "application/json"
    elif request.get("stream"):
        events = [f"data: {json.dumps(it)}\n\n".encode() for it in chunks(path, request, spec)]
        events.append(b"data: [DONE]\n\n")
        kind = "text/event-stream"
    else:
        events = [json.dumps(answer(path, spec)).encode()]
        kind = "application/json"
    frame = spec.get("frame") or ("chunked" if request.get("stream") else "length")
    if frame == "chunked":
        framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events] + [b"0\r\n\r\n"]
        return [head(200, kind, [("Transfer-Encoding", "chunked")]), *framed]
    if frame == "length":
        length = sum(map(len, events))
        return [head(200, kind, [("Content-Length", length)]), *events]
    return [head(200, kind, [("Connection", "close")]), *events]


def usage(spec):
    asked, made = specs.counts(spec)
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


def base(spec, kind):
    return {"id": f"cmpl-{spec['id']}", "object": kind, "created": CREATED, "model": specs.MODEL}


def chunks(path, request, spec):
    chat = path.endswith("/chat/completions")
    kind = "chat.completion.chunk" if chat else "text_completion"

    def chunk(content, reason=None, role=False):
        if chat:
            delta = {"role": "assistant"} if role else {}
            choice = {"delta": {**delta, **({} if content is None else {"content": content})}}
        else:
            choice = {"text": content or ""}
        return {**base(spec, kind), "choices": [{"index": 0, **choice, "finish_reason": reason}]}

    if chat:
        yield chunk("", role=True)
    for token in specs.tokens(spec["seed"], spec["n"]):
        yield chunk(token)
    yield chunk(None, "stop")
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**base(spec, kind), "choices": [], "usage": usage(spec)}


def answer(path, spec):
    text = specs.text(spec["seed"], spec["n"])
    if path.endswith("/chat/completions"):
        kind, choice = "chat.completion", {"message": {"role": "assistant", "content": text}}
    else:
        kind, choice = "text_completion", {"text": text}
    choices = [{"index": 0, **choice, "finish_reason": "stop"}]
    return {**base(spec, kind), "choices": choices, "usage": usage(spec)}


def embeddings(request, spec):
    inputs = request["input"]
    count = len(inputs) if isinstance(inputs, list) else 1
    data = [
        {"object": "embedding", "index": place, "embedding": specs.vector(spec["seed"], place)}
        for place in range(count)
    ]
    asked = specs.counts(spec)[0]
    tokens = {"prompt_tokens": asked, "total_tokens": asked}
    return {"object": "list", "model": specs.MODEL, "data": data, "usage": tokens}
