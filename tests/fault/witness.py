#!/usr/bin/env python3
"""A normal client: a short chat five times a second until standard input ends.

witness.py PORT SOURCE [KEY [REPLICAS]]. Each chat has a connection of its own, as with curl, and its answer is
compared with the truth. At the end one line of JSON says what was seen.
"""

import json
import select
import socket
import sys
import time

import dialects
import spec as specs

PAUSE = 0.2
PATIENCE = 8
SLOW = 1.0
REMEMBERED = 2000


def chat(port, source, key, replicas, number):
    """One chat; gives None or what was wrong."""
    spec = {"id": f"witness-{number}", "seed": 100_000 + number, "n": 4}
    body = json.dumps(dialects.CHAT.build(spec)).encode()
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        + (f"Authorization: Bearer {key}\r\n" if key else "")
    )
    received = b""
    with socket.socket() as sock:
        sock.settimeout(PATIENCE)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        sock.sendall(head.encode() + b"\r\n" + body)
        while data := sock.recv(65536):
            received += data
    if not received.startswith(b"HTTP/1.1 200 "):
        return received[:60].decode("latin-1") or "closed without an answer"
    # Frame lengths stand on lines of their own, and no JSON object does.
    reading = dialects.CHAT.read(received)
    true = [specs.at_replica(spec, place) for place in range(1, replicas + 1)] or [spec]
    exact = any(specs.damage(each, reading.text) == specs.NONE for each in true)
    if not reading.done or not exact:
        return f"an answer that is not exact: {reading}"
    return None


def main():
    port, source, key, replicas = (*sys.argv[1:], "", "")[:4]
    port, replicas = int(port), int(replicas or 0)
    times, wrong, slow, late = [], [], [], 0.0
    number = 0
    while True:
        due = time.monotonic() + PAUSE
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            break
        late = max(late, time.monotonic() - due)
        began = time.monotonic()
        number += 1
        try:
            problem = chat(port, source, key, replicas, number)
        except OSError as error:
            problem = type(error).__name__ + f" {error}"
        taken = time.monotonic() - began
        times.append(taken)
        if problem:
            wrong.append(f"{problem} ({taken:.2f} s)")
        if (problem or taken >= SLOW) and len(slow) < REMEMBERED:
            slow.append((began, taken, problem))
    times.sort()
    print(
        json.dumps(
            {
                "served": len(times) - len(wrong),
                "failed": len(wrong),
                "wrong": wrong[:3],
                "slow": slow,
                "worst": times[-1] if times else 0,
                "middle": times[len(times) // 2] if times else 0,
                "late": late,
            }
        )
    )


if __name__ == "__main__":
    main()
