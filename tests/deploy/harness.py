"""What the deployment tests share: a scripted upstream, a client that sees every frame, programs.

The client reads HTTP by hand, because the question is whether an answer ended or broke off, and
libraries differ in whether they tell.
"""

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 20  # Seconds after which a test that waits has failed.
PR_SET_PDEATHSIG = 1  # From <sys/prctl.h>.


class Failure(Exception):
    """A failed check; the text is the reason."""


def require(condition, text):
    if not condition:
        raise Failure(text)


def run(checks):
    """Run named checks in order, print a line for each and the totals last; then exit."""
    failed = 0
    for name, check in checks:
        try:
            note = check()
            print(f"PASS {name}" + (f": {note}" if note else ""), flush=True)
        except Exception as error:  # A check may fail in any way.
            failed += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL {name}: {type(error).__name__} {error} (line {frame.lineno})", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


class Upstream:
    """An OpenAI-compatible server in this process.

    `script(text)` gives the pieces of the answer to a last message; as a generator it may wait.
    """

    def __init__(self, script, host="127.0.0.1", port=0, tls=None):
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                """Say nothing."""

            def do_GET(self):
                found = self.path == "/v1/models"
                body = {"object": "list", "data": [{"id": "m", "object": "model"}]}
                self.whole(200 if found else 404, body if found else {"error": "not found"})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                text = json.loads(body)["messages"][-1]["content"]
                try:
                    self.stream(upstream.script(text))
                except OSError:
                    self.close_connection = True

            def whole(self, status, body):
                body = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self, pieces):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in pieces:
                    self.event({"content": piece}, None)
                self.event({}, "stop")
                self.frame(b"data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")

            def event(self, delta, reason):
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                event["choices"] = [choice]
                self.frame(f"data: {json.dumps(event)}\n\n".encode())

            def frame(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_):
                """Ignore clients that disconnect: they are part of the test."""

        self.script = script
        self.server = Server((host, port), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.base = f"http{'s' if tls else ''}://{host}:{self.port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Stream:
    """One `POST /api/chat` that streams, read frame by frame."""

    def __init__(self, port, text, tls=None, more=None):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **(more or {})}
        body = json.dumps(body).encode()
        head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.file = self.socket.makefile("rb")
        self.words = []
        self.end = None  # How it ended, in one word; see `read_all`.
        self.done = False
        self.error = None
        self.status = None

    def head(self):
        line = self.file.readline()
        require(line.startswith(b"HTTP/1.1 "), f"no answer but {line!r}")
        self.status = int(line.split()[1])
        headers = http.client.parse_headers(self.file)
        self.chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.length = int(headers.get("Content-Length", -1))
        return self.status

    def frame(self):
        """The next frame's bytes; None at the end that was sent as one."""
        size = self.file.readline()
        require(size.endswith(b"\r\n"), "broken off")
        size = int(size, 16)
        data = self.file.read(size + 2)
        require(len(data) == size + 2 and data.endswith(b"\r\n"), "broken off")
        return data[:-2] if size else None

    def take(self, data):
        for line in data.splitlines():
            line = json.loads(line)
            self.done = self.done or line.get("done", False)
            self.error = line.get("error", self.error)
            if word := line.get("message", {}).get("content"):
                self.words.append(word)

    def read_all(self):
        """Read to the end. `end` is then `complete`, `told` (the server sent an error),
        `broken` (the connection ended first), or `truncated`: a clean end of half an answer."""
        try:
            if self.status is None:
                self.head()
            if self.chunked:
                while (data := self.frame()) is not None:
                    self.take(data)
            else:
                data = self.file.read(self.length)
                require(len(data) == self.length, "broken off")
                if self.status == 200:
                    self.take(data)
        except (Failure, OSError, ValueError) as error:
            self.error = str(error)
            self.end = "broken"
        else:
            bad = self.status != 200 or self.error is not None
            self.end = "told" if bad else "complete" if self.done else "truncated"
        self.close()
        return self.end

    def close(self):
        self.file.close()
        self.socket.close()


def in_background(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def get(port, path, tls=None):
    """Status and body."""
    if tls:
        connection = http.client.HTTPSConnection("localhost", port, context=tls, timeout=PATIENCE)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


RESERVED = []  # Sockets that hold the ports of `free_ports` until this process ends.


def free_ports(count):
    """Ports of 127.0.0.1 that nothing listens on.

    Each stays bound, without listening: the kernel gives it to no other program and to no outgoing
    connection, and a program that sets SO_REUSEADDR, as servers do, can listen there repeatedly.
    """
    ports = []
    for _ in range(count):
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        RESERVED.append(held)
        ports.append(held.getsockname()[1])
    return ports


class Programs:
    """A folder and the programs started in it; leaving the block ends both."""

    def __enter__(self):
        self.started = []
        self.folder = tempfile.mkdtemp(prefix="proxy-deploy-")
        os.chmod(self.folder, 0o755)
        return self

    def __exit__(self, *_):
        for program in reversed(self.started):
            stop(program)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command, before=None, **more):
        def prepare():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if before:
                before()

        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, cwd=self.folder, preexec_fn=prepare, **more
        )
        self.started.append(program)
        return program

    def proxy(self, binary, base, host="127.0.0.1:0", before=None, **environment):
        """The proxy in front of an upstream: the program and its port."""
        environment = {"OPENAI_API_BASE_URL": base, "OLLAMA_HOST": host, **environment}
        program = self.start(
            [binary], before, env=environment, stderr=subprocess.PIPE, text=True
        )
        lines = []
        for line in program.stderr:
            lines.append(line)
            if "listening on " in line:
                port = int(line.split("listening on ")[1].split(",")[0].rsplit(":", 1)[1])
                in_background(lambda: program.stderr.read())
                return program, port
        raise Failure(f"the proxy did not start: {' '.join(lines)}")

    def certificate(self):
        """A self-signed certificate for localhost: the file with it and its key, and a context of
        a client that trusts it."""
        path = os.path.join(self.folder, "localhost.pem")
        if not os.path.exists(path):
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
            names += ["-addext", "basicConstraints=critical,CA:FALSE"]
            output(
                ["openssl", "req", "-x509", *key, *names, "-days", "2"]
                + ["-keyout", path + ".key", "-out", path + ".crt"]
            )
            with open(path, "wb") as both:
                for part in (".crt", ".key"):
                    with open(path + part, "rb") as one:
                        both.write(one.read())
        return path, ssl.create_default_context(cafile=path + ".crt")


def stop(program):
    """Ask it to end, and insist after a while."""
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
    program.wait()


def output(command, **more):
    """What a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **more)
    require(done.returncode == 0, f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def until(condition, what):
    """Wait for something that other programs bring about; nothing here can signal it."""
    pause = threading.Event()
    for _ in range(PATIENCE * 50):
        if condition():
            return
        pause.wait(0.02)
    raise Failure(f"it never came: {what}")


def answers(port):
    """Whether a program accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
