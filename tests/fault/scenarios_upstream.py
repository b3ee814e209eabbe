"""Upstream failures, each on its own."""

import asyncio
import collections
import contextlib
import os
import socket
import ssl
import subprocess
import tempfile

import machine
from bench import kinds, scenario, worst
from dialects import CHAT, CHAT_WHOLE, EMBED, MESSAGES, V1, V1_WHOLE

# One retry, soon, and two seconds of patience: all faults show within seconds.
SHORT = {
    "PROXY_WORKERS": "32",
    "REQUEST_TIMEOUT": "2",
    "RETRY_MAX": "1",
    "RETRY_INITIAL_MS": "100",
}
WAYS = [CHAT, CHAT_WHOLE, V1, V1_WHOLE, MESSAGES, EMBED]
SOME = [CHAT, V1, MESSAGES]


async def expect(bench, name, right, most, dialect=CHAT, **members):
    """One request that must end in time with this status, or with an error in the body (200)."""
    found = await bench.chat(bench.spec(name, n=6, **members), dialect, timeout=most + 10)
    what = f"{name} {dialect.name}: {found.kind} {found.answer}"
    if right == "exact":
        bench.check(found.kind == "exact", what)
    else:
        bench.check(found.kind in ("error", "busy") and found.answer.status == right, what)
    late = f"{name} {dialect.name}: only after {found.answer.seconds:.1f} s"
    bench.check(found.answer.seconds <= most, late)
    return found


@scenario(
    "upstream-faults",
    "reset, closed, silent, slow and nonsensical upstreams: the right error in time, workers back",
    4,
    lane="quiet",
    limit=150,
    env=SHORT,
)
async def upstream_faults(bench):
    faults = [
        ("reset", 502, 2.0, {"fault": "reset"}),
        ("closed", 502, 2.0, {"fault": "close"}),
        ("no answer", 504, 5.5, {"fault": "hang"}),
        ("slow head", 504, 5.5, {"fault": "halfhead"}),
        ("nonsense", 502, 2.0, {"fault": "garbage"}),
        ("503", 503, 2.0, {"fault": "status", "status": 503}),
        ("429", 429, 2.0, {"fault": "status", "status": 429}),
        ("reset once", "exact", 2.0, {"fault": "reset", "times": 1}),
        ("503 once", "exact", 2.0, {"fault": "status", "status": 503, "times": 1}),
        ("slow body", "exact", 9.0, {"gap": 0.7}),
        ("split anywhere", "exact", 2.0, {"split": True}),
    ]
    slowest = {}
    for name, right, most, members in faults:
        slow = name in ("no answer", "slow head", "slow body")
        for dialect in SOME if slow else WAYS:
            # Between two faults the upstream shows that it is well, so that its circuit is closed.
            await bench.recovers(30)
            # Clients of Anthropic's API know an overload by another status.
            wanted = 529 if right == 503 and dialect.name == "messages" else right
            found = await expect(bench, name, wanted, most, dialect, **members)
            slowest[name] = max(slowest.get(name, 0), found.answer.seconds)
    for dialect in SOME:
        found = await expect(bench, "stalled", 200, 4.0, dialect, fault="stall", at=3)
        slowest["stalled"] = max(slowest.get("stalled", 0), found.answer.seconds)
    bench.figure(", ".join(f"{name} {taken:.1f} s" for name, taken in slowest.items()))
    await bench.recovers(30)
    found = await bench.chats(32, wait=0.3)
    bench.check(all(each.kind == "exact" for each in found), f"32 workers after: {kinds(found)}")


@scenario(
    "upstream-cuts",
    "cut by FIN or RST at every byte of the answer: complete, or an error, never between",
    4,
    limit=150,
    env={"RETRY_MAX": "0", "PROXY_WORKERS": "32"},
)
async def upstream_cuts(bench):
    rooms = asyncio.Semaphore(6)
    told = collections.Counter()

    async def at(place, dialect, fault, frame):
        async with rooms:
            # A good one between two cuts, so that the upstream counts as well.
            await bench.chat(bench.spec("good", n=1))
            spec = bench.spec("cut", n=3, fault=fault, at=place, frame=frame)
            result = await bench.chat(spec, dialect, timeout=20)
            what = f"{dialect.name} {frame} {fault} at byte {place}: {result.kind} {result.answer}"
            if result.kind not in ("exact", "uncounted", "error", "busy"):
                told[result.kind] += 1
                bench.check(told[result.kind] > 4 and bench.failures, what)
            return result

    # As long as the longest answer of each kind, and a little more.
    lengths = {CHAT: 1700, CHAT_WHOLE: 500, V1: 1700, V1_WHOLE: 500, MESSAGES: 1700}
    work = []
    for dialect, length in lengths.items():
        frames = ["chunked", "close"] if length > 1000 else ["length", "chunked"]
        for frame in frames:
            for fault in ("cut", "cutreset"):
                step = 1 if dialect in (CHAT, CHAT_WHOLE) else 7
                places = range(1, length, step)
                work += [at(place, dialect, fault, frame) for place in places]
    found = await asyncio.gather(*work)
    asked = len(await bench.journal("cut"))
    bench.figure(f"{len(found)} cuts: {kinds(found)}, worst {worst(found):.2f} s")
    bench.check(
        asked >= len(found) * 9 // 10, f"only {asked} of {len(found)} reached the upstream"
    )


@scenario(
    "upstream-refused",
    "nobody listens: 502 in time, and service again when somebody does",
    4,
    lane="quiet",
    env=SHORT,
    witness=False,
)
async def upstream_refused(bench):
    bench.upstream.kill()
    for dialect in WAYS:
        found = await bench.chat(bench.spec(), dialect, timeout=10)
        what = f"{dialect.name}: {found.kind} {found.answer}"
        bench.check(found.kind in ("error", "busy") and found.answer.status in (502, 503), what)
        bench.check(found.answer.seconds < 2, f"{dialect.name}: {found.answer.seconds:.1f} s")
    bench.upstream.start()
    taken = await bench.check_served(45)
    if taken is not None:
        bench.figure(f"served again {taken:.1f} s after its return")


@contextlib.contextmanager
def black_hole():
    """A port that drops connections: its accept queue is full, so the kernel ignores each SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


@scenario(
    "upstream-black-hole",
    "an upstream that does not even answer the SYN: 504 once the time to connect is over",
    4,
    lane="quiet",
    env={**SHORT, "RETRY_MAX": "0"},
    witness=None,
)
async def upstream_black_hole(bench):
    with black_hole() as port:
        bench.start(f"http://127.0.0.1:{port}/v1")
        bench.before = bench.proxy.read()
        found = await asyncio.gather(
            *(bench.chat(bench.spec(), dialect, timeout=40) for dialect in WAYS * 4)
        )
        bench.figure(f"{len(found)} requests: {kinds(found)}, worst {worst(found):.1f} s")
        wrong = [each for each in found if each.answer.status not in (503, 504)]
        bench.check(not wrong, f"{len(wrong)} not 504: {wrong[:1]}")
        bench.check(worst(found) < 25, f"the last after {worst(found):.1f} s")


class TlsServer:
    """A TLS server that fails in one configurable way."""

    def __init__(self, answer=None, context=None):
        self.answer = answer
        self.context = context

    async def __aenter__(self):
        async def serve(reader, writer):
            try:
                await reader.read(100)
                if self.answer is not None:
                    writer.write(self.answer)
                    writer.close()
                else:
                    await reader.read()
            except OSError:
                pass
            finally:
                writer.close()

        self.server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self.context)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self.server.close()


def own_certificate(folder):
    """A TLS context with a self-signed certificate; None where openssl is missing."""
    key, certificate = os.path.join(folder, "key"), os.path.join(folder, "certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@scenario(
    "upstream-tls",
    "TLS that fails, is none, or never ends: 502 or 504 in time",
    4,
    lane="quiet",
    env={**SHORT, "RETRY_MAX": "0"},
    witness=None,
)
async def upstream_tls(bench):
    with tempfile.TemporaryDirectory() as folder:
        ways = [
            ("no TLS", TlsServer(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 502, 3),
            ("closed in the handshake", TlsServer(b""), 502, 3),
            ("a handshake without end", TlsServer(), 504, 25),
        ]
        context = own_certificate(folder)
        if context is not None:
            ways.append(("a certificate nobody trusts", TlsServer(b"", context), 502, 3))
        for name, server, status, most in ways:
            async with server as port:
                bench.start(f"https://127.0.0.1:{port}/v1")
                found = await bench.chat(timeout=most + 5)
                bench.figure(f"{name}: {found.answer.status} after {found.answer.seconds:.1f} s")
                bench.check(found.answer.status == status, f"{name}: {found.answer}")
                bench.check(found.answer.seconds < most, f"{name}: {found.answer.seconds:.1f} s")
                bench.proxy.stop()
        bench.proxy = None


def no_namespace():
    """Why no mount namespace can be made here; None if one can."""
    command = ["unshare", "--mount", "sh", "-c", "mount --bind /etc/hosts /etc/hosts"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "no mount namespaces"
    return None


@scenario(
    "upstream-dns",
    "a name that does not resolve: 502 in time, and service once it does",
    4,
    lane="quiet",
    env=SHORT,
    witness=None,
    needs=no_namespace,
)
async def upstream_dns(bench):
    name = "upstream.fault.invalid"
    with tempfile.TemporaryDirectory() as folder:
        hosts, resolver = os.path.join(folder, "hosts"), os.path.join(folder, "resolv.conf")
        write(hosts, "127.0.0.1 localhost\n")
        write(resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        # The name is known or not in a world of this proxy's own.
        script = 'mount --bind "$0" /etc/hosts; mount --bind "$1" /etc/resolv.conf; exec "$2"'
        wrap = ["unshare", "--mount", "sh", "-ec", script, hosts, resolver]
        bench.upstream = bench.upstream or machine.Upstream()
        bench.start(f"http://{name}:{bench.upstream.port}/v1", wrap=wrap)
        bench.before = bench.proxy.read()
        found = [await bench.chat(bench.spec(), dialect, timeout=20) for dialect in WAYS]
        bench.figure(f"unknown name: {kinds(found)}, worst {worst(found):.1f} s")
        wrong = [each for each in found if each.answer.status not in (502, 503)]
        bench.check(not wrong, f"not 502: {wrong[:1]}")
        bench.check(worst(found) < 10, f"the last after {worst(found):.1f} s")
        write(hosts, f"127.0.0.1 localhost {name}\n")
        taken = await bench.check_served(45)
        if taken is not None:
            bench.figure(f"served {taken:.1f} s after the name was known")
        await bench.finish()
        bench.before = None
        bench.proxy.stop()


def write(path, text):
    # In place: a bind mount holds on to the file itself.
    with open(path, "w") as file:
        file.write(text)


@scenario(
    "upstream-says-120",
    "an upstream that asks everybody to wait 120 s: half of the workers wait, others are served",
    6,
    lane="quiet",
    limit=60,
    env={"PROXY_WORKERS": "8"},
)
async def upstream_says_120(bench):
    def limited():
        spec = bench.spec("limited", n=1, fault="status", status=429, retry_after="120")
        return bench.chat(spec, timeout=12)

    waiting = [asyncio.ensure_future(limited()) for _ in range(24)]
    refused = 0
    for done in asyncio.as_completed(waiting):
        if (await done).answer.status != 429:
            break
        refused += 1
        if refused == 20:
            break
    # Eight at a time, while four wait for a minute or two.
    found = [each for _ in range(5) for each in await bench.chats(8, wait=0.2)]
    bench.check(refused == 20, f"{refused} of 20 refused at once")
    bench.check(all(each.kind == "exact" for each in found), f"the others: {kinds(found)}")
    bench.check(worst(found) < 2, f"the others: only after {worst(found):.1f} s")
    left = [each for each in await asyncio.gather(*waiting) if each.answer.status is None]
    bench.check(len(left) == 4, f"{len(left)} waited, not 4")
    bench.figure(f"{refused} refused, {len(left)} waited, others {worst(found):.2f} s at worst")
