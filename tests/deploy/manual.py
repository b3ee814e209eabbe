"""Real programs read the man page and the completions: groff, bash, zsh and fish.

Usage: manual.py
"""

import os
import pty
import select
import shlex
import subprocess
import tempfile
import time

from harness import PATIENCE, require, run
from shipped import SHIPPED, tool

PAGE = SHIPPED / "ollama-openai-proxy.1"
FOLDER = SHIPPED / "completions"
PROGRAM = "ollama-openai-proxy"
# What is typed, and what must be offered for its last word.
TYPED = {
    "--healthc": ["--healthcheck"],
    "--vers": ["--version"],
    "--js": ["--json"],
    "--retry-": ["--retry-initial-ms", "--retry-max", "--retry-max-ms"],
    "--log-level w": ["warn"],
    "--log-bodies ": ["false", "true"],
    "--profile vl": ["vllm"],
    "--check --config file-o": ["file-one.toml"],
    "--state folder-t": ["folder-two/"],
    "--port ": [],
    "--api-key file-o": [],
    "no-such-op": [],
}


def quiet(command, text=None, **more):
    """The output of a program that must succeed without a word on standard error."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, **more)
    require(done.returncode == 0 and not done.stderr, f"{command[0]}: {done.stderr}{done.stdout}")
    return done.stdout


def places():
    """A working directory with something to complete."""
    folder = tempfile.TemporaryDirectory()
    open(os.path.join(folder.name, "file-one.toml"), "w").close()
    os.mkdir(os.path.join(folder.name, "folder-two"))
    return folder


def page_without_warnings():
    """groff warns of nothing, and shows flags as they are typed and no escapes."""
    shown = quiet([tool("groff"), "-man", "-ww", "-b", "-Tutf8", "-P-cbou", str(PAGE)])
    for words in ("--base-url URL", "OPENAI_API_BASE_URL", "[[upstream]]", "$(pidof", ".env", "'.up"):
        require(words in shown, f"{words} is missing")
    for words in ("\\", "`"):
        around = shown.partition(words)[0][-60:]
        lines = [line for line in shown.splitlines() if words in line and "\\n" not in line]
        require(not lines, f"{words!r} behind {around!r}")
    longest = max(len(line) for line in shown.splitlines())
    return f"{len(shown.splitlines())} lines, at most {longest} wide"


def bash_offers():
    script = """
        . "$1"
        line=$2
        read -ra COMP_WORDS <<<"$line"
        case $line in *' ') COMP_WORDS+=('') ;; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _ollama_openai_proxy
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    file = str(FOLDER / f"{PROGRAM}.bash")
    with places() as folder:
        for typed, expected in {
            **TYPED,
            "--log-level = w": ["warn"],
            "--log-bodies =": ["false", "true"],
            "--config = file-o": ["file-one.toml"],
        }.items():
            command = ["bash", "--norc", "-uc", script, "bash", file, f"{PROGRAM} {typed}"]
            offered = sorted(quiet(command, cwd=folder).split())
            # The slash behind a folder is added by readline.
            expected = [word.rstrip("/") for word in expected]
            require(offered == expected, f"{typed!r}: {offered}")
    # A real shell knows the function by the program's name.
    known = quiet(["bash", "--norc", "-c", f'. "{file}"; complete -p {PROGRAM}'])
    require("_ollama_openai_proxy" in known, known)


def fish_offers():
    file = str(FOLDER / f"{PROGRAM}.fish")
    fish = tool("fish")
    quiet([fish, "--no-execute", file])
    with places() as folder:
        home = {**os.environ, "HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
        for typed, expected in {**TYPED, "--log-level=w": ["--log-level=warn"]}.items():
            # The program is not installed, and fish completes nothing for a name it does not find.
            script = f"source {shlex.quote(file)}; complete -C {shlex.quote(f'{PROGRAM} {typed}')}"
            told = quiet([fish, "--no-config", "-c", script], cwd=folder, env=home)
            offered = sorted(line.split("\t")[0] for line in told.splitlines())
            require(offered == expected, f"{typed!r}: {offered}")


def zsh_offers():
    """A tab at a real prompt completes the line; a key of ours writes down what it is then."""
    zsh = tool("zsh")
    quiet([zsh, "-n", str(FOLDER / f"_{PROGRAM}")])
    with places() as folder:
        result = os.path.join(folder, "result")
        setup = f"""
            PS1='' RPS1=''; unsetopt zle_bracketed_paste beep; setopt no_list_beep no_auto_list
            fpath=({shlex.quote(str(FOLDER))} $fpath)
            autoload -Uz compinit; compinit -u -D
            tell() {{ print -r -- "$BUFFER" >{shlex.quote(result)}.new
                mv {shlex.quote(result)}.new {shlex.quote(result)}; BUFFER= }}
            zle -N tell; bindkey '^X' tell; bindkey '^I' complete-word
            cd {shlex.quote(folder)}
        """
        with open(os.path.join(folder, ".zshrc"), "w") as file:
            file.write(setup)
        shell, terminal = pty.fork()
        if shell == 0:
            os.environ.update({"ZDOTDIR": folder, "TERM": "dumb"})
            os.execv(zsh, [zsh, "-d", "-i"])
        try:
            for typed, expected in zsh_lines():
                found = after_tab(terminal, result, f"{PROGRAM} {typed}")
                require(found == f"{PROGRAM} {expected}", f"{typed!r} became {found!r}")
        finally:
            os.kill(shell, 9)
            os.close(terminal)
            os.waitpid(shell, 0)


def zsh_lines():
    """What is typed, and what one tab makes of it: zsh fills in what is common to all that it offers."""
    yield "--retry-i", "--retry-initial-ms="
    for typed, offered in {**TYPED, "--log-level=w": ["warn"]}.items():
        if typed == "--retry-":
            continue  # Part of a word in its middle may be filled in, too.
        at = max(typed.rfind(" "), typed.rfind("=")) + 1
        common = os.path.commonprefix(offered) if offered else typed[at:]
        end = " " if len(offered) == 1 and not common.endswith("/") else ""
        yield typed, typed[:at] + common + end


def after_tab(terminal, result, line):
    """What a tab makes of a line."""
    os.write(terminal, f"{line}\t\x18".encode())
    end = time.monotonic() + PATIENCE
    while not os.path.exists(result):
        require(time.monotonic() < end, f"zsh does not answer to {line!r}")
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    with open(result) as file:
        found = file.read().rstrip("\n")
    os.unlink(result)
    return found


def main():
    run(
        [
            ("groff shows the man page without a warning", page_without_warnings),
            ("bash offers options, values and files", bash_offers),
            ("zsh completes options, values and files", zsh_offers),
            ("fish offers options, values and files", fish_offers),
        ]
    )


if __name__ == "__main__":
    main()
