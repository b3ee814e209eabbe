"""The reverse proxies with the configurations of scripts/deploy, at ports and paths of a test."""

import os
import shutil
import socket
from pathlib import Path

from harness import answers, free_ports, output, require, until

SHIPPED = Path(__file__).resolve().parent.parent.parent / "scripts" / "deploy"


def changed(name, changes):
    """A shipped file's text with every change made, each of which must apply exactly once."""
    text = (SHIPPED / name).read_text()
    for old, new in changes.items():
        require(text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times")
        text = text.replace(old, new)
    return text


def written(programs, name, text):
    path = os.path.join(programs.folder, name)
    Path(path).write_text(text)
    return path


def tool(name):
    """The program's path; /usr/sbin is not on everybody's path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    require(found, f"{name} is missing (on Debian: apt-get install {name})")
    return found


def started(programs, command, port, **more):
    program = programs.start(command, **more)
    until(lambda: answers(port) or program.poll() is not None, command[0])
    require(program.poll() is None, f"{command[0]} ended with {program.poll()}")
    return port


def haproxy(programs, one, two=None):
    """HAProxy with TLS in front of one or two replicas; its port."""
    (port,) = free_ports(1)
    two = two or free_ports(1)[0]
    certificate, _ = programs.certificate()
    text = changed(
        "haproxy.cfg",
        {
            "bind :8443 ssl": f"bind 127.0.0.1:{port} ssl",
            "/etc/haproxy/ollama.pem": certificate,
            "stats socket /run/haproxy/admin.sock": f"stats socket {programs.folder}/admin.sock",
            "server one 127.0.0.1:11434": f"server one 127.0.0.1:{one}",
            "server two 127.0.0.1:11435": f"server two 127.0.0.1:{two}",
        },
    )
    path = written(programs, "haproxy.cfg", text)
    output([tool("haproxy"), "-c", "-f", path])
    log = open(os.path.join(programs.folder, "haproxy.log"), "w")
    started(programs, [tool("haproxy"), "-db", "-f", path], port, stdout=log, stderr=log)
    until(lambda: takes_orders(programs), "HAProxy's socket")
    return port


def takes_orders(programs):
    with socket.socket(socket.AF_UNIX) as admin:
        return admin.connect_ex(f"{programs.folder}/admin.sock") == 0


def nginx(programs, one):
    """nginx with TLS in front of one replica; its port."""
    (port,) = free_ports(1)
    certificate, _ = programs.certificate()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f" {kind}_temp_path {programs.folder}/{kind};" for kind in kinds)
    text = changed(
        "nginx.conf",
        {
            "worker_processes auto;": f"worker_processes 1; pid {programs.folder}/nginx.pid;",
            "http {\n": f"http {{\n access_log off; {places}\n",
            "        server 127.0.0.1:11434;": f"        server 127.0.0.1:{one};",
            "listen 8443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/nginx/ollama.crt": f"{certificate}.crt",
            "/etc/nginx/ollama.key": f"{certificate}.key",
        },
    )
    path = written(programs, "nginx.conf", text)
    command = [tool("nginx"), "-p", programs.folder, "-e", "stderr", "-c", path]
    output([*command, "-t"])
    return started(programs, [*command, "-g", "daemon off;"], port)


def caddy(programs, one):
    """Caddy with TLS in front of one replica; its port."""
    (port,) = free_ports(1)
    certificate, _ = programs.certificate()
    text = changed(
        "Caddyfile",
        {
            "\tadmin off\n": "\tadmin off\n\tauto_https disable_redirects\n",
            "\nhttps://ollama.example.com {": f"\nhttps://localhost:{port} {{",
            "/etc/caddy/ollama.crt": f"{certificate}.crt",
            "/etc/caddy/ollama.key": f"{certificate}.key",
            "reverse_proxy 127.0.0.1:11434": f"reverse_proxy 127.0.0.1:{one}",
        },
    )
    path = written(programs, "Caddyfile", text)
    home = {"HOME": programs.folder, "XDG_DATA_HOME": programs.folder}
    config = ["--config", path, "--adapter", "caddyfile"]
    output([tool("caddy"), "validate", *config], env=home)
    log = open(os.path.join(programs.folder, "caddy.log"), "w")
    return started(
        programs, [tool("caddy"), "run", *config], port, env=home, stdout=log, stderr=log
    )
