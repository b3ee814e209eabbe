"""The files of scripts/deploy are well formed and agree with the program's own defaults.

Usage: files.py BINARY (needs PyYAML, which the clients' packages bring along)
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from harness import output, require, run
from shipped import SHIPPED, changed, tool


def defaults(binary):
    """The program's options as it describes them, in seconds where they are times."""
    environment = {"OPENAI_API_BASE_URL": "http://127.0.0.1:9/v1", "RETRY_MAX": "0"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [binary, "--check"], env=environment, cwd=folder, capture_output=True, text=True
        )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def number(text):
    return float(re.match(r"[0-9.]+", text).group())


def dockerfile(binary):
    """The image holds only the program, runs it as nobody, and uses its own health check."""
    lines = (SHIPPED / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    by = {name: text for name, text in steps}
    require(steps[0] == ["FROM", "scratch"], f"{steps[0]}")
    require(by["USER"] == "65534:65534", by["USER"])
    (entry,) = json.loads(by["ENTRYPOINT"])
    check = json.loads(by["HEALTHCHECK"].split("CMD", 1)[1])
    require(by["COPY"].split()[-1] == entry == check[0], "the program's path differs")
    help_text = output([binary, "--help"])
    require(check[1] in help_text, f"{check[1]} is no option")
    port = by["EXPOSE"]
    require(by["ENV"] == f"OLLAMA_HOST=0.0.0.0:{port}", by["ENV"])


def kubernetes(binary):
    """Two replicas that stop in time and are asked in the right places."""
    try:
        import yaml
    except ImportError as error:
        raise AssertionError(f"PyYAML is missing: {error}") from error
    documents = list(yaml.safe_load_all((SHIPPED / "kubernetes.yaml").read_text()))
    kinds = {document["kind"]: document for document in documents}
    deployment, service = kinds["Deployment"], kinds["Service"]
    require(deployment["spec"]["replicas"] == 2, "replicas")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    require(service["spec"]["selector"] == labels, "the Service selects other pods")
    pod = deployment["spec"]["template"]["spec"]
    grace = number(defaults(binary)["SHUTDOWN_GRACE"])
    (container,) = pod["containers"]
    grace += container["lifecycle"]["preStop"]["sleep"]["seconds"]
    require(pod["terminationGracePeriodSeconds"] > grace, "killed before it is done")
    ports = {port["name"] for port in container["ports"]}
    require(service["spec"]["ports"][0]["targetPort"] in ports, "the Service's port")
    for probe in ("startupProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        require(asked["path"] == "/health" and asked["port"] in ports, probe)
    command = container["livenessProbe"]["exec"]["command"]
    require(command == ["/ollama-openai-proxy", "--healthcheck"], f"{command}")
    security = {**pod["securityContext"], **container["securityContext"]}
    require(security["runAsNonRoot"] and security["readOnlyRootFilesystem"], "security")
    require(security["capabilities"]["drop"] == ["ALL"], "capabilities")
    require("limits" in container["resources"], "limits")
    known = output([binary, "--help"])
    for variable in container["env"]:
        require(variable["name"] in known, f"{variable['name']} is no option")


def service(binary):
    """systemd accepts the unit, finds it hardened, and waits for its end."""
    text = changed("ollama-openai-proxy.service", {"ExecStart=/usr/local/bin/": "ExecStart=/bin/"})
    options = dict(re.findall(r"^([A-Z]\w+)=(.*)$", text, re.MULTILINE))
    grace = number(defaults(binary)["SHUTDOWN_GRACE"])
    require(number(options["TimeoutStopSec"]) > grace, "killed before it is done")
    require(options["ExecReload"] == "/bin/kill -HUP $MAINPID", "no reload")
    analyze = tool("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ollama-openai-proxy.service")
        with open(path, "w") as unit:
            unit.write(text.replace("/bin/ollama-openai-proxy", binary))
        done = subprocess.run([analyze, "verify", path], capture_output=True, text=True)
        require(done.returncode == 0 and not done.stderr, done.stderr)
        told = output([analyze, "security", "--offline=yes", "--no-pager", path])
    level = float(re.search(r"exposure level for .*: ([0-9.]+)", told).group(1))
    require(level < 2, f"exposure {level}")
    return f"exposure {level}"


def patience(binary):
    """The timeouts of the reverse proxies are longer than the program's."""
    silence = number(defaults(binary)["REQUEST_TIMEOUT"])
    waits = {
        "haproxy.cfg": ("timeout server", "timeout client"),
        "nginx.conf": ("proxy_read_timeout",),
        "Caddyfile": ("response_header_timeout",),
    }
    for name, options in waits.items():
        for option in options:
            found = re.search(rf"^\s*{option} +(\d+)s", (SHIPPED / name).read_text(), re.MULTILINE)
            require(found and int(found.group(1)) > silence, f"{name}: {option}")


def main():
    binary = os.path.abspath(sys.argv[1])
    parts = {
        "the Dockerfile": dockerfile,
        "the manifest of Kubernetes": kubernetes,
        "the unit of systemd": service,
        "the patience of the reverse proxies": patience,
    }
    run([(name, lambda part=part: part(binary)) for name, part in parts.items()])


if __name__ == "__main__":
    main()
