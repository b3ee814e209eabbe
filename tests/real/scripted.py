#!/usr/bin/env python3
"""The scripted upstream of tests/clients behind another proxy.

That upstream demands `stream` in every request, which the proxy under test always sends and other
proxies leave out where it is false.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients"))

import upstream  # noqa: E402


class Handler(upstream.Handler):
    """One connection."""

    def parse(self, raw):
        body = super().parse(raw)
        if self.path != "/v1/embeddings":
            body.setdefault("stream", False)
        return body


def main():
    """Serve on a free port until the process is ended; the first line of output is the port."""
    server = upstream.Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
