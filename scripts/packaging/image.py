"""Writes an image archive in OCI form from a Dockerfile that only copies files, without a daemon.

The archive holds the image layout and, for older Docker, a manifest.json beside it. The OCI form has no
health check; it stands in the configuration all the same, where Docker reads it.

Usage: image.py --dockerfile FILE --folder CONTEXT --name NAME --version VERSION --arch ARCH --epoch SECONDS
       ARCHIVE
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9}


def steps(dockerfile):
    """The instructions, each as its name and its text."""
    text = re.sub(r"\\\n", " ", Path(dockerfile).read_text())
    lines = (line.strip() for line in text.splitlines())
    return [line.split(None, 1) for line in lines if line and not line.startswith("#")]


def nanoseconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * UNITS[unit]


def health_check(text):
    options, command = text.split("CMD", 1)
    given = dict(re.findall(r"--([a-z-]+)=(\S+)", options))
    return {
        "Test": ["CMD", *json.loads(command)],
        "Interval": nanoseconds(given["interval"]),
        "Timeout": nanoseconds(given["timeout"]),
        "StartPeriod": nanoseconds(given["start-period"]),
        "Retries": int(given["retries"]),
    }


def read(dockerfile):
    """The files to copy, as (mode, source, target), and the configuration of the container."""
    files, config = [], {"Env": []}
    for name, text in steps(dockerfile):
        if name == "COPY":
            mode, source, target = re.fullmatch(r"--chmod=(\d+) (\S+) (\S+)", text).groups()
            files.append((int(mode, 8), source, target))
        elif name == "ENV":
            config["Env"].append(text)
        elif name == "USER":
            config["User"] = text
        elif name == "EXPOSE":
            config["ExposedPorts"] = {f"{text}/tcp": {}}
        elif name == "STOPSIGNAL":
            config["StopSignal"] = text
        elif name == "HEALTHCHECK":
            config["Healthcheck"] = health_check(text)
        elif name == "ENTRYPOINT":
            config["Entrypoint"] = json.loads(text)
        elif (name, text) != ("FROM", "scratch"):
            raise SystemExit(f"{dockerfile}: {name} {text} is not known here")
    return files, config


def tar(entries, epoch):
    """A tar archive of (name, mode, bytes), all of them root's and of the same time."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, mode, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime, entry.size = mode, epoch, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def text(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Blobs:
    """What the layout holds, by digest."""

    def __init__(self):
        self.contents = {}

    def add(self, kind, content):
        digest = hashlib.sha256(content).hexdigest()
        self.contents[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def main():
    parser = argparse.ArgumentParser()
    for option in ("dockerfile", "folder", "name", "version", "arch"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--epoch", required=True, type=int)
    parser.add_argument("archive")
    given = parser.parse_args()
    files, config = read(given.dockerfile)
    labels = {
        "org.opencontainers.image.title": given.name,
        "org.opencontainers.image.version": given.version,
        "org.opencontainers.image.licenses": "MIT",
    }
    created = datetime.datetime.fromtimestamp(given.epoch, datetime.timezone.utc)
    created = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    layer = tar(
        [(to.lstrip("/"), mode, (Path(given.folder) / at).read_bytes()) for mode, at, to in files],
        given.epoch,
    )
    blobs = Blobs()
    packed = blobs.add(LAYER, gzip.compress(layer, 9, mtime=0))
    architecture, _, variant = given.arch.partition("/")
    platform = {"architecture": architecture, "os": "linux"}
    if variant:
        platform["variant"] = variant
    image = {
        **platform,
        "created": created,
        "config": {**config, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": created, "created_by": f"COPY {at} {to}"} for _, at, to in files],
    }
    image = blobs.add(CONFIG, text(image))
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": image, "layers": [packed]}
    manifest = blobs.add(MANIFEST, text({**manifest, "annotations": labels}))
    reference = f"{given.name}:{given.version}"
    names = {"org.opencontainers.image.ref.name": reference}
    index = {"schemaVersion": 2, "mediaType": INDEX}
    index["manifests"] = [{**manifest, "platform": platform, "annotations": names}]

    def path(descriptor):
        return "blobs/sha256/" + descriptor["digest"].partition(":")[2]

    docker = [{"Config": path(image), "RepoTags": [reference], "Layers": [path(packed)]}]
    blobs.contents["oci-layout"] = text({"imageLayoutVersion": "1.0.0"})
    blobs.contents["index.json"] = text(index)
    blobs.contents["manifest.json"] = text(docker)
    entries = [(name, 0o644, content) for name, content in sorted(blobs.contents.items())]
    Path(given.archive).write_bytes(tar(entries, given.epoch))


if __name__ == "__main__":
    main()
