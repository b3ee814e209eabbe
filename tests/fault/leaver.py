#!/usr/bin/env python3
"""A client that asks and then waits to be killed: leaver.py PORT, with its request on standard
input. It prints `sent` after it has sent the request."""

import socket
import sys


def main():
    data = sys.stdin.buffer.read()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
        sock.sendall(data)
        print("sent", flush=True)
        while sock.recv(65536):
            pass


if __name__ == "__main__":
    main()
