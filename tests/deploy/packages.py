"""What scripts/package makes: the same bytes twice, and a Debian package from its installation to its purge.

The package is installed in a root that mmdebstrap makes. No service manager runs there, so the program is
started as the unit would start it. In the end the same root is started with systemd, and readme_ways.py follows
the README there.

Usage: packages.py STATIC_BINARY [OPTION...] (as root; the options are those of readme_ways.py)
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from harness import Programs, Stream, Upstream, get, output, require, run
from shipped import SHIPPED, tool

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "ollama-openai-proxy"
EPOCH = 1_700_000_000
NOBODY = 65534
# What each way of the README needs beside a bare Debian: a service manager, an engine for containers, curl.
MORE = "systemd,systemd-sysv,dbus,curl,podman,runc"
LONG = 600  # Seconds for what downloads or packs; a machine in use needs more than a moment.
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
MARK = "# A line of a newer version.\n"


def long_output(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, **more)
    require(done.returncode == 0, f"{command[0]}: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout + done.stderr


def suite_and_mirror():
    """The release of this machine, and where its packages come from."""
    lines = output(["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI) $(COMPONENT)"])
    known = [line.split() for line in lines.splitlines()]
    text = Path("/etc/os-release").read_text()
    suite = re.search(r"^VERSION_CODENAME=(\S+)", text, re.MULTILINE).group(1)
    mirrors = [uri for code, uri, component in known if (code, component) == (suite, "main")]
    return suite, mirrors[:1]


class Packages:
    """The packages, made once, and the root in which the Debian package is tried."""

    def __init__(self, programs, binary):
        self.programs, self.binary = programs, binary
        self.folder = Path(programs.folder)
        self.dist = self.folder / "target" / "dist"
        self.root = self.folder / "root"
        self.bootstrap = None

    def file(self, ending):
        (found,) = self.dist.glob(f"*{ending}")
        return found

    # The packages.

    def begin_root(self):
        """Lets mmdebstrap work while the packages are made."""
        suite, mirrors = suite_and_mirror()
        command = [tool("mmdebstrap"), "--variant=apt", f"--include={MORE}"]
        command += ["--format=dir", "--quiet"]
        log = open(self.folder / "mmdebstrap.log", "w")
        self.bootstrap = self.programs.start(
            [*command, suite, str(self.root), *mirrors], stdout=log, stderr=log
        )

    def made_twice(self):
        environment = {**os.environ, "CARGO_TARGET_DIR": str(self.folder / "target")}
        environment["SOURCE_DATE_EPOCH"] = str(EPOCH)
        command = [str(ROOT / "scripts" / "package"), "--verify", "--binary", self.binary]
        told = long_output(command, env=environment, cwd="/").splitlines()
        require("A second run gives the same bytes." in told, f"{told}")
        require(told[-1] == str(self.dist), told[-1])
        left = {path.name for path in self.dist.parent.iterdir() if not path.name.startswith(".")}
        require(left == {"dist"}, f"left behind: {left}")

    def nothing_is_left_out(self):
        """Without its man page, nothing is packed."""
        copy = self.folder / "sources"
        shutil.copytree(ROOT / "scripts", copy / "scripts")
        for name in ("Cargo.toml", "LICENSE", "README.md"):
            shutil.copy(ROOT / name, copy)
        (copy / "scripts" / "deploy" / f"{NAME}.1").unlink()
        command = [str(copy / "scripts" / "package"), "--binary", self.binary]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(copy)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG)
        told = f"package: scripts/deploy/{NAME}.1 is missing\n"
        require((done.returncode, done.stderr) == (1, told), f"{done.returncode}: {done.stderr}")

    def checksums(self):
        lines = (self.dist / "SHA256SUMS").read_text().splitlines()
        told = {name: digest for digest, name in (line.split("  ") for line in lines)}
        found = {path.name: path for path in self.dist.iterdir() if path.name != "SHA256SUMS"}
        require(told.keys() == found.keys() and len(told) == 4, f"{sorted(told)}")
        for name, path in found.items():
            require(hashlib.sha256(path.read_bytes()).hexdigest() == told[name], name)

    def tarball(self):
        """Executable, licence, README and scripts/deploy; nobody's, of the given time, in order."""
        with tarfile.open(self.file("-linux.tar.gz")) as archive:
            entries = archive.getmembers()
            contents = {
                entry.name.partition("/")[2]: (entry.mode, archive.extractfile(entry).read())
                for entry in entries
                if entry.isfile()
            }
        top = self.file("-linux.tar.gz").name.removesuffix(".tar.gz")
        require({entry.name.split("/")[0] for entry in entries} == {top}, "no folder of its own")
        require(all((entry.uid, entry.gid) == (0, 0) for entry in entries), "owners")
        require({entry.mtime for entry in entries} == {EPOCH}, "times")
        names = [entry.name for entry in entries]
        require(names == sorted(names), "not sorted")
        wanted = {"LICENSE": ROOT / "LICENSE", "README.md": ROOT / "README.md"}
        shipped = (path for path in SHIPPED.rglob("*") if path.is_file())
        wanted |= {str(path.relative_to(ROOT)): path for path in shipped if path.name != NAME}
        require(contents.pop(NAME) == (0o755, Path(self.binary).read_bytes()), "the executable")
        require(contents.keys() == wanted.keys(), f"{contents.keys() ^ wanted.keys()}")
        for name, path in wanted.items():
            require(contents[name] == (0o644, path.read_bytes()), name)

    def crates(self):
        """Each crate that is linked, with its licence, and nothing of this machine."""
        text = self.file(".cdx.json").read_text()
        for secret in (str(ROOT), str(Path.home()) + "/", "file:", "timestamp"):
            require(secret not in text, f"{secret} in the list of crates")
        document = json.loads(text)
        require((document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5"), "format")
        program = document["metadata"]["component"]
        require((program["name"], program["version"]) == (NAME, VERSION), f"{program}")
        components = {it["bom-ref"]: it for it in document["components"]}
        names = {it["name"] for it in components.values()}
        require({"ureq", "tiny_http", "rustls", "ring", "libc"} <= names, "crates are missing")
        others = {"cc", "serde_derive", "syn", "divan", "windows-sys"} & names
        require(not others, f"not linked: {others}")
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
        locked = {(it["name"], it["version"]): it.get("checksum") for it in lock}
        for it in components.values():
            require(it["purl"] == f"pkg:cargo/{it['name']}@{it['version']}", f"{it}")
            require(it["licenses"][0]["expression"], f"{it}")
            require(it["hashes"][0]["content"] == locked[it["name"], it["version"]], f"{it}")
        needs = {it["ref"]: it["dependsOn"] for it in document["dependencies"]}
        reached, ahead = set(), [program["bom-ref"]]
        while ahead:
            reference = ahead.pop()
            if reference not in reached:
                reached.add(reference)
                ahead += needs[reference]
        require(reached == {program["bom-ref"], *components}, "crates that nothing needs")
        return f"{len(components)} crates"

    def lintian(self):
        told = long_output([tool("lintian"), "--fail-on", "error", str(self.file(".deb"))])
        return f"{len(re.findall('^W: ', told, re.MULTILINE))} warnings"

    # The Debian package.

    def chroot(self, *command, **more):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        environment |= more
        return subprocess.run(
            ["chroot", str(self.root), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONG,
        )

    def succeeds(self, *command):
        done = self.chroot(*command)
        told = (done.stdout + done.stderr).strip()
        require(done.returncode == 0, f"{' '.join(command)}: {told[-400:]}")
        return told

    def dpkg(self, *arguments):
        return self.succeeds("dpkg", *arguments)

    def files(self):
        """Paths in the root, without dpkg's own."""
        own = ("var/lib/dpkg", "var/log", "var/cache", "tmp", "proc", "dev", "sys")
        found = (str(path.relative_to(self.root)) for path in self.root.rglob("*"))
        return {path for path in found if not path.startswith(own)}

    def put(self, package, name):
        shutil.copy(package, self.root / "tmp" / name)
        return f"/tmp/{name}"

    def newer(self, version):
        """The package in a later version, whose files in /etc have changed."""
        folder = self.folder / f"unpacked-{version}"
        output(["dpkg-deb", "-R", str(self.file(".deb")), str(folder)])
        control = folder / "DEBIAN" / "control"
        control.write_text(control.read_text().replace(f"Version: {VERSION}", f"Version: {version}"))
        for name in ("environment", "config.toml"):
            with open(folder / "etc" / NAME / name, "a") as file:
                file.write(MARK)
        package = self.root / "tmp" / f"{version}.deb"
        output(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(folder), str(package)])
        return f"/tmp/{package.name}"

    @property
    def etc(self):
        return self.root / "etc" / NAME

    @property
    def enabled(self):
        wants = self.root / "etc/systemd/system/multi-user.target.wants"
        return (wants / f"{NAME}.service").is_symlink()

    def environment(self):
        """The variables of the options file, as systemd reads them."""
        lines = (self.etc / "environment").read_text().splitlines()
        lines = (line for line in lines if line and not line.startswith("#"))
        return dict(line.split("=", 1) for line in lines)

    def is_configured(self, **environment):
        done = self.chroot(f"/usr/libexec/{NAME}/is-configured", **environment)
        require(done.returncode in (0, 1), f"status {done.returncode}")
        require((done.returncode == 0) == (not done.stderr), done.stderr)
        return done.returncode == 0

    def installed(self):
        """Installed, enabled, and skipped by systemd until there is an upstream."""
        require(self.bootstrap.wait(LONG) == 0, (self.folder / "mmdebstrap.log").read_text()[-600:])
        self.before = self.files()
        self.dpkg("-i", self.put(self.file(".deb"), "first.deb"))
        for path in (
            f"usr/bin/{NAME}",
            f"usr/share/man/man1/{NAME}.1.gz",
            f"usr/share/bash-completion/completions/{NAME}",
            f"usr/share/zsh/vendor-completions/_{NAME}",
            f"usr/share/fish/vendor_completions.d/{NAME}.fish",
        ):
            require((self.root / path).stat().st_size, path)
        told = self.succeeds(f"/usr/bin/{NAME}", "--version")
        require(told.endswith(VERSION), told)
        require((self.etc / "environment").stat().st_mode & 0o777 == 0o600, "readable keys")
        conffiles = self.succeeds("dpkg-query", "-W", "-f=${Conffiles}", NAME).split()[::2]
        require(conffiles == [f"/etc/{NAME}/config.toml", f"/etc/{NAME}/environment"], f"{conffiles}")
        require(self.dpkg("-V", NAME) == "", "files differ from the package")
        require(self.enabled, "not enabled")
        require(not self.is_configured(**self.environment()), "configured as delivered")

    def unit(self):
        """systemd accepts the unit, and runs it as the one of scripts/deploy is run."""
        text = (self.root / f"usr/lib/systemd/system/{NAME}.service").read_text()
        require(f"\nExecCondition=/usr/libexec/{NAME}/is-configured\n" in text, "no condition")
        options = re.findall(r"^\w+=.*$", text, re.MULTILINE)
        mine = set(re.findall(r"^\w+=.*$", (SHIPPED / f"{NAME}.service").read_text(), re.MULTILINE))
        changed = {line.split("=")[0] for line in mine ^ set(options)}
        require(
            changed <= {"Documentation", "ExecCondition", "ExecStart", "Environment", "EnvironmentFile"},
            f"{changed}",
        )
        path = self.folder / f"{NAME}.service"
        path.write_text(text.replace("=/usr/", f"={self.root}/usr/"))
        command = [tool("systemd-analyze"), "verify", "--man=no", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        require(done.returncode == 0 and not done.stderr, done.stderr)

    def configured(self):
        """Each way to name an upstream counts; the program then answers a stream."""
        with open(self.etc / "environment", "a") as file:
            upstream = Upstream(lambda text: ["Hello", " ", text])
            file.write(f"OPENAI_API_BASE_URL={upstream.base}\n")
        require(self.is_configured(**self.environment()), "a base URL is no upstream")
        config = self.etc / "config.toml"
        delivered = config.read_text()
        for text in ("[[upstream]]\n", '[ [upstream]]\n', '[server]\nbase-url = "http://h"\n'):
            config.write_text(text)
            wanted = not text.startswith("[ [")
            require(self.is_configured() == wanted, f"{text!r} configures: {not wanted}")
        config.write_text(delivered)
        require(not self.is_configured(), "comments are no upstream")
        self.answers_from_the_root(upstream)

    def answers_from_the_root(self, upstream):
        def enter():
            os.chroot(self.root)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

        state = self.root / "var/lib" / NAME
        state.mkdir()  # As systemd does.
        os.chown(state, NOBODY, NOBODY)
        given = self.environment()
        base = given.pop("OPENAI_API_BASE_URL")
        given |= {"PROXY_CONFIG": f"/etc/{NAME}/config.toml"}
        given |= {"PROXY_STATE": f"/var/lib/{NAME}/state.json"}
        _, port = self.programs.proxy(f"/usr/bin/{NAME}", base, before=enter, **given)
        require(get(port, "/health")[0] == 200, "no health")
        stream = Stream(port, "there")
        require(stream.read_all() == "complete", f"{stream.end}: {stream.error}")
        require(stream.words == ["Hello", " ", "there"], f"{stream.words}")
        (state / "state.json").write_text("{}")

    def examples(self):
        """Every option of the delivered file is one of the program's, and the example is TOML."""
        known = self.succeeds(f"/usr/bin/{NAME}", "--help")
        delivered = (ROOT / "scripts/packaging/debian/environment").read_text()
        names = re.findall(r"^#([A-Z_]+)=", delivered, re.MULTILINE)
        require(len(names) > 4, f"{names}")
        for name in names:
            require(re.search(rf"\b{name}\b", known), f"{name} is no option")
        text = (self.etc / "config.toml").read_text().split("every option:\n#\n", 1)[1]
        config = tomllib.loads(re.sub(r"^# ?", "", text.replace(MARK, ""), flags=re.MULTILINE))
        require(config.keys() == {"server", "upstream", "model", "key"}, f"{config.keys()}")

    def upgraded(self):
        """What was changed in /etc stays, what was not is renewed; a service disabled by hand too."""
        environment = (self.etc / "environment").read_text()
        self.dpkg("-i", "--force-confold", self.newer(f"{VERSION}+1"))
        require((self.etc / "environment").read_text() == environment, "the configuration is lost")
        require((self.etc / "config.toml").read_text().endswith(MARK), "not renewed")
        require((self.root / "var/lib" / NAME / "state.json").exists(), "the state is lost")
        require(self.enabled, "no longer enabled")
        output([tool("systemctl"), f"--root={self.root}", "--quiet", "disable", f"{NAME}.service"])
        self.dpkg("-i", "--force-confold", self.newer(f"{VERSION}+2"))
        require(not self.enabled, "enabled against the administrator's will")

    def purged(self):
        """Removal keeps configuration and state; a purge leaves nothing."""
        self.dpkg("-r", NAME)
        require(not (self.root / "usr/bin" / NAME).exists(), "the executable is still there")
        require((self.etc / "environment").exists(), "removal took the configuration")
        require((self.root / "var/lib" / NAME / "state.json").exists(), "removal took the state")
        (self.root / "var/lib/private" / NAME).mkdir(parents=True)
        self.dpkg("-P", NAME)
        left = self.files() - self.before - {"var/lib/private"}
        # Those that belong to the tools of systemd.
        left = {path for path in left if not path.startswith("var/lib/systemd") or NAME in path}
        left -= {"etc/systemd/system", "etc/systemd/system/multi-user.target.wants", "etc/systemd"}
        require(not left, f"left behind: {sorted(left)}")


    def readme(self, options):
        """The README's own commands, in a network of their own."""
        script = Path(__file__).with_name("readme_ways.py")
        command = ["unshare", "--net", sys.executable, str(script), str(self.root), str(self.dist)]
        told = long_output([*command, *options])
        require(told.endswith(" passed, 0 failed\n"), told[-600:])
        return "; ".join(line.removeprefix("PASS ") for line in told.splitlines()[:-1])


def main():
    binary = os.path.abspath(sys.argv[1])
    require(os.geteuid() == 0, "this needs root, to install a package in a root of its own")
    with Programs() as programs:
        packages = Packages(programs, binary)
        run(
            [
                ("a root is begun", packages.begin_root),
                ("two runs give the same bytes", packages.made_twice),
                ("without a man page there is no package", packages.nothing_is_left_out),
                ("the checksums", packages.checksums),
                ("the tarball", packages.tarball),
                ("the list of crates", packages.crates),
                ("lintian finds no error", packages.lintian),
                ("the package is installed", packages.installed),
                ("its unit", packages.unit),
                ("its examples", packages.examples),
                ("it is configured and answers", packages.configured),
                ("it is upgraded", packages.upgraded),
                ("it is removed and purged", packages.purged),
                ("the README is followed there, with systemd", lambda: packages.readme(sys.argv[2:])),
            ]
        )


if __name__ == "__main__":
    main()
