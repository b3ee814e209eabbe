#!/usr/bin/env python3
"""A tiny MCP server over standard input and output, with one tool that adds two numbers."""

import json
import sys

TOOL = {
    "name": "add",
    "description": "Adds two numbers.",
    "inputSchema": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
}


def result_of(method, params):
    """The result of a request."""
    if method == "initialize":
        version = params.get("protocolVersion", "2025-06-18")
        server = {"name": "tiny", "version": "1.0.0"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        numbers = params["arguments"]
        text = f"{numbers['a'] + numbers['b']}"
        return {"content": [{"type": "text", "text": text}], "isError": False}
    return {}


def main():
    """Answer each line until the client leaves."""
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        result = result_of(request.get("method"), request.get("params") or {})
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
