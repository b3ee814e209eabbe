"""Prints the crates inside the executable as CycloneDX 1.5 JSON.

They are those that are linked for a target: no build scripts' crates, no procedural macros, no crates of
tests. Nothing in the list depends on the machine or on the time.

Usage: crates.py ROOT TARGET
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

EDGE = ["--edges", "normal,no-proc-macro"]


def cargo(root, *arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(root, target):
    """Name and version of each crate that cargo links for the target.

    `cargo tree` knows which features are used without those of tests; the metadata does not.
    """
    tree = cargo(root, "tree", *EDGE, "--target", target, "--prefix", "none", "--no-dedupe", "--format", "{p}")
    lines = (line.split() for line in tree.splitlines())
    return {(words[0], words[1].removeprefix("v")) for words in lines if words}


def licence(package):
    """The licence as an SPDX expression; older crates separate with a slash."""
    expression = package["license"]
    if not expression:
        raise SystemExit(f"the crate {package['name']} names no licence")
    return [{"expression": expression.replace("/", " OR ")}]


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, kind, checksums):
    found = {
        "type": kind,
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "licenses": licence(package),
        "purl": purl(package),
    }
    if checksum := checksums.get((package["name"], package["version"])):
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def main():
    root, target = Path(sys.argv[1]), sys.argv[2]
    metadata = json.loads(cargo(root, "metadata", "--format-version", "1", "--filter-platform", target))
    lock = tomllib.loads((root / "Cargo.lock").read_text())
    checksums = {(it["name"], it["version"]): it.get("checksum") for it in lock["package"]}
    inside = linked(root, target)
    packages = {
        it["id"]: it for it in metadata["packages"] if (it["name"], it["version"]) in inside
    }
    program = packages[metadata["resolve"]["root"]]
    ordered = sorted(packages.values(), key=purl)
    nodes = {it["id"]: it for it in metadata["resolve"]["nodes"]}

    def dependencies(package):
        normal = (
            dep["pkg"]
            for dep in nodes[package["id"]]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
        )
        return sorted(purl(packages[it]) for it in normal if it in packages)

    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(program, "application", checksums)},
        "components": [component(it, "library", checksums) for it in ordered if it is not program],
        "dependencies": [{"ref": purl(it), "dependsOn": dependencies(it)} for it in ordered],
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
