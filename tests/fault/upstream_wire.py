"""Bytes and JSON of the scripted upstream; nothing here waits or fails on purpose."""

import collections
import json

import spec as specs

Request = collections.namedtuple("Request", "method target body has_client_key")

CREATED = 1_750_000_000
REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}


def take_request(buffer):
    """Takes a whole request off the buffer; None while it is not whole."""
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
    has_client_key = any(specs.CLIENT_KEY in value for value in headers.values())
    return Request(words[0], words[1], body, has_client_key)


def take_chunks(buffer, at):
    if not buffer.endswith(b"0\r\n\r\n"):
        # Saves a walk over the chunks of a long body at each piece of it: nothing follows a request.
        return None
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
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, dict):
            return "".join(part.get("text", "") for part in found[-1]["content"])
        return first
    return request.get("prompt")


def filler_of(request):
    """The long text of an upload: what the system says."""
    said = request.get("messages") or request.get("input")
    if said and isinstance(said, list) and isinstance(said[0], dict):
        content = said[0].get("content")
        is_list = isinstance(content, list)
        return "".join(part.get("text", "") for part in content) if is_list else content
    return request.get("system")


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
    return whole(b'{"detail":"Not Found"}', 404)


def refusal(status, retry_after):
    body = json.dumps({"error": {"message": f"scripted refusal {status}", "type": "scripted"}})
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    return whole(body.encode(), status, headers)


def pieces(path, request, spec):
    """Head and body as the pieces in which they are written."""
    if path.endswith("/embeddings"):
        events = [json.dumps(embeddings(request, spec)).encode()]
        kind = "application/json"
    elif path.endswith("/responses"):
        events = [response_event(it) for it in response_events(spec)]
        kind = "text/event-stream"
        if not request.get("stream"):
            events = [json.dumps(response(spec, "completed")).encode()]
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


def response(spec, status):
    """A response object; its output is there when it is completed."""
    found = {"id": f"resp_{spec['id']}", "object": "response", "created_at": CREATED}
    found.update(status=status, model=specs.MODEL, error=None, output=[], usage=None)
    if status == "completed":
        asked, made = specs.counts(spec)
        found["output"] = [response_item(spec, specs.text(spec["seed"], spec["n"]))]
        found["usage"] = {"input_tokens": asked, "output_tokens": made, "total_tokens": asked + made}
    return found


def response_item(spec, text):
    part = {"type": "output_text", "text": text, "annotations": []}
    content = [] if text is None else [part]
    status = "in_progress" if text is None else "completed"
    item = {"type": "message", "id": f"msg_{spec['id']}", "role": "assistant"}
    return {**item, "status": status, "content": content}


def response_events(spec):
    text = specs.text(spec["seed"], spec["n"])
    place = {"item_id": f"msg_{spec['id']}", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    yield {"type": "response.created", "response": response(spec, "in_progress")}
    added = {"output_index": 0, "item": response_item(spec, None)}
    yield {"type": "response.output_item.added", **added}
    yield {"type": "response.content_part.added", **place, "part": part}
    for token in specs.tokens(spec["seed"], spec["n"]):
        yield {"type": "response.output_text.delta", **place, "delta": token}
    yield {"type": "response.output_text.done", **place, "text": text}
    yield {"type": "response.content_part.done", **place, "part": {**part, "text": text}}
    done = {"output_index": 0, "item": response_item(spec, text)}
    yield {"type": "response.output_item.done", **done}
    yield {"type": "response.completed", "response": response(spec, "completed")}


def response_event(event):
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


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
