"""The image that scripts/package writes, run by podman, and the one that buildah builds from the Dockerfile.

Both must be the same to who runs them. The manifest of Kubernetes is played by podman, too.

Usage: image.py STATIC_BINARY (as root; needs podman, runc, buildah and catatonit)
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
from pathlib import Path

from harness import Programs, Stream, Upstream, answers, free_ports, in_background, require, run, until
from shipped import SHIPPED, changed, tool

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "ollama-openai-proxy"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
TAG = f"localhost/{NAME}:{VERSION}"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
GRACE = 30  # Seconds, SHUTDOWN_GRACE.
LONG = 300
# As few rights as an engine can give. Its own defaults for limits are above those of a machine in CI.
LIMITS = {"nofile": "1024:1024", "nproc": "4096:4096"}
STRICT = ["--read-only", "--cap-drop", "ALL", "--memory", "32m", "--network", "host"]
STRICT += ["--security-opt", "no-new-privileges", "--no-healthcheck"]
# What image and Dockerfile must agree on.
SAME = ("User", "ExposedPorts", "Entrypoint", "StopSignal", "Cmd", "WorkingDir", "Volumes")


class Engine:
    """podman and buildah with a storage of their own."""

    def __init__(self, programs):
        self.programs, self.folder = programs, Path(programs.folder)
        limits = ", ".join(f'"{name}={value}"' for name, value in LIMITS.items())
        config = self.folder / "containers.conf"
        config.write_text(
            f'[containers]\ndefault_ulimits = [{limits}]\n[engine]\nevents_logger = "none"\n'
        )
        self.environment = {**os.environ, "CONTAINERS_CONF": str(config)}
        self.storage = ["--storage-driver", "vfs", "--root", str(self.folder / "storage")]
        self.storage += ["--runroot", str(self.folder / "run")]

    def start(self, program, *arguments, **more):
        return subprocess.run(
            [tool(program), *self.storage, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONG,
            **more,
        )

    def podman(self, *arguments, **more):
        done = self.start("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *arguments, **more)
        told = (done.stdout + done.stderr).strip()
        require(done.returncode == 0, f"podman {arguments[0]}: {told[-600:]}")
        return done.stdout.strip()

    def buildah(self, *arguments):
        done = self.start("buildah", *arguments)
        require(done.returncode == 0, f"buildah {arguments[0]}: {done.stderr.strip()[-600:]}")

    def run(self, image, name, port, base):
        limits = [f"--ulimit={limit}={value}" for limit, value in LIMITS.items()]
        environment = ["-e", f"OLLAMA_HOST=127.0.0.1:{port}", "-e", f"OPENAI_API_BASE_URL={base}"]
        self.podman("run", "-d", "--name", name, *STRICT, *limits, *environment, image)
        until(lambda: answers(port), f"{name} listens: {self.logs(name)}")

    def logs(self, name):
        done = self.start("podman", "logs", name)
        return (done.stdout + done.stderr)[-400:]

    def healthy(self, name):
        self.podman("exec", name, f"/{NAME}", "--healthcheck")

    def close(self):
        """Ends all that still runs, so that its folders can be removed."""
        self.start("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "pod", "rm", "-f", "-a")
        self.start("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "rm", "-f", "-t", "0", "-a")


class Image:
    def __init__(self, engine, binary):
        self.engine, self.binary, self.folder = engine, binary, engine.folder
        self.gate = threading.Event()
        self.upstream = Upstream(self.script)

    def script(self, text):
        yield "one"
        if text == "wait":
            self.gate.wait(LONG)
        yield " two"

    def layout(self):
        """The archive is an image layout whose blobs are what their names say."""
        command = ["python3", str(ROOT / "scripts/packaging/image.py")]
        command += ["--dockerfile", str(SHIPPED / "Dockerfile"), "--folder", str(self.folder / "context")]
        command += ["--name", NAME, "--version", VERSION, "--arch", ARCH, "--epoch", "1700000000"]
        context = self.folder / "context"
        context.mkdir()
        shutil.copy(self.binary, context / NAME)
        shutil.copy(SHIPPED / "Dockerfile", context)
        subprocess.run([*command, str(self.folder / "image.tar")], check=True, timeout=LONG)
        with tarfile.open(self.folder / "image.tar") as archive:
            files = {entry.name: archive.extractfile(entry).read() for entry in archive}
        require(json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}, "oci-layout")
        (entry,) = json.loads(files["index.json"])["manifests"]
        manifest = json.loads(self.blob(files, entry))
        (layer,) = manifest["layers"]
        self.blob(files, layer)
        self.config = json.loads(self.blob(files, manifest["config"]))["config"]
        names = {"oci-layout", "index.json", "manifest.json"}
        require(len(files) == len(names) + 3, f"{sorted(files)}")

    def blob(self, files, descriptor):
        kind, digest = descriptor["digest"].split(":")
        content = files[f"blobs/{kind}/{digest}"]
        require(hashlib.sha256(content).hexdigest() == digest, f"{digest} is wrong")
        require(len(content) == descriptor["size"], f"{digest} has another size")
        return content

    def same_as_built(self):
        """podman loads it; buildah makes the same of the Dockerfile."""
        self.engine.podman("load", "-i", str(self.folder / "image.tar"))
        loaded = self.inspect(TAG)["Config"]
        command = ["bud", "--isolation", "chroot", "--format", "docker", "-t", "built"]
        self.engine.buildah(*command, str(self.folder / "context"))
        image = self.inspect("localhost/built")
        built = image["Config"]
        for name in SAME:
            require(loaded.get(name) == built.get(name), f"{name}: {loaded.get(name)}, {built.get(name)}")
        path = "PATH="  # buildah adds one; there is nothing to find in the image.
        variables = [it for it in built["Env"] if not it.startswith(path)]
        require(loaded["Env"] == variables, f"{loaded['Env']}, {variables}")
        check = image.get("Healthcheck") or image.get("HealthCheck")
        check = check or built.get("Healthcheck")
        require(self.config["Healthcheck"] == check, f"{self.config['Healthcheck']}, {check}")

    def inspect(self, name):
        (found,) = json.loads(self.engine.podman("image", "inspect", name))
        return found

    def runs(self, image, name):
        """Answers a stream without rights, is healthy, and completes an answer when it is stopped."""
        (port,) = free_ports(1)
        self.gate.clear()
        self.engine.run(image, name, port, self.upstream.base)
        stream = Stream(port, "at once")
        require(stream.read_all() == "complete", f"{stream.end}: {stream.error}")
        require(stream.words == ["one", " two"], f"{stream.words}")
        self.engine.healthy(name)
        stream = Stream(port, "wait")
        stream.head()
        stream.take(stream.frame())
        require(stream.words == ["one"], f"{stream.words}")
        stopping = in_background(lambda: self.engine.podman("stop", "-t", str(GRACE + 5), name))
        until(lambda: not answers(port), "it refuses new connections")
        self.gate.set()
        require(stream.read_all() == "complete", f"{stream.end}: {stream.error}")
        stopping.join(GRACE)
        require(not stopping.is_alive(), "it did not stop within the grace")
        state = json.loads(self.engine.podman("inspect", name))[0]["State"]
        require((state["ExitCode"], state["OOMKilled"]) == (0, False), f"{state}")

    def kubernetes(self):
        """The manifest as podman plays it: names, variables, the Secret, user, limits."""
        (port,) = free_ports(1)
        text = changed(
            "kubernetes.yaml",
            {
                f"registry.example.com/{NAME}:0.1.0": f"{TAG}\n          imagePullPolicy: Never",
                "replicas: 2": "replicas: 1",
                "0.0.0.0:11434": f"127.0.0.1:{port}",
                "https://api.openai.com/v1": self.upstream.base,
                # Not in the network of this machine, which is the only one here.
                "          ports:\n            - {name: http, containerPort: 11434}\n": "",
            },
        )
        # podman asks systemd to run this one; the command is run by hand below.
        text, count = re.subn(r"          livenessProbe:\n(?:            .*\n)+", "", text)
        require(count == 1, "no liveness probe")
        manifest = self.folder / "kubernetes.yaml"
        manifest.write_text(text)
        self.secret({"PROXY_API_KEYS": "a2V5LWtleS1rZXk="})
        self.engine.podman("play", "kube", "--network", "host", str(manifest))
        until(lambda: answers(port), "the pod listens")
        name = f"{NAME}-pod-0-proxy"
        if self.engine.start("podman", "container", "exists", name).returncode:
            name = f"{NAME}-pod-proxy"  # Newer ones do not count the pods.
        self.engine.healthy(name)
        require(Stream(port, "no key").head() == 401, "the key of the Secret is not in force")
        config = json.loads(self.engine.podman("inspect", name))[0]
        require(config["Config"]["User"] == "65534:65534", config["Config"]["User"])
        require(config["HostConfig"]["ReadonlyRootfs"], "a writable root")
        require(config["HostConfig"]["Memory"] == 64 << 20, f"{config['HostConfig']['Memory']}")
        require(not config["EffectiveCaps"], f"{config['EffectiveCaps']}")
        self.engine.podman("play", "kube", "--down", str(manifest))

    def secret(self, data):
        """Until version 4.4 podman reads the data only, later the whole Secret."""
        version = self.engine.podman("version", "--format", "{{.Client.Version}}").split(".")
        secret = data
        if [int(part) for part in version[:2]] >= [4, 4]:
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "data": data}
        self.engine.podman("secret", "create", NAME, "-", input=json.dumps(secret))


def main():
    binary = os.path.abspath(sys.argv[1])
    require(os.geteuid() == 0, "this needs root, for containers without user namespaces")
    with Programs() as programs:
        engine = Engine(programs)
        image = Image(engine, binary)
        try:
            run(
                [
                    ("the image archive", image.layout),
                    ("buildah makes the same of the Dockerfile", image.same_as_built),
                    ("the archive is run", lambda: image.runs(TAG, "packed")),
                    ("what buildah made is run", lambda: image.runs("localhost/built", "built")),
                    ("the manifest of Kubernetes is played", image.kubernetes),
                ]
            )
        finally:
            engine.close()


if __name__ == "__main__":
    main()
