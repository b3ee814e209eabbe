"""oterm, a chat client for terminals, in tmux."""

import json
import subprocess

from harness import Failure, wait_until

MODEL = "scripted-1:latest"


class Terminal:
    """A program in a terminal of 120 columns."""

    def __init__(self, context, command, settings):
        self.log = context.log_file("screen")
        self.tmux = ["tmux", "-S", str(context.folder / "tmux")]
        size = ["-x", "120", "-y", "45"]
        # In the foreground, so that the server ends with this program.
        start = [*self.tmux, "-D"]
        self.server = context.start(start, "tmux", {"TERM": "xterm-256color", **settings})
        wait_until((context.folder / "tmux").exists, "the socket of tmux")
        self.do("new-session", "-d", *size, command)

    def do(self, *words):
        return subprocess.run([*self.tmux, *words], capture_output=True, text=True, check=True).stdout

    def screen(self):
        """The text on the screen."""
        return self.do("capture-pane", "-p")

    def press(self, *keys):
        self.do("send-keys", *keys)

    def click(self, text):
        """Click where the screen shows a text, as a terminal reports it to its program."""
        self.wait_for(text)
        rows = self.screen().splitlines()
        row = next(index for index, line in enumerate(rows) if text in line)
        place = f"{rows[row].index(text) + 2};{row + 1}"
        keys = f"\x1b[<0;{place}M\x1b[<0;{place}m".encode()
        self.do("send-keys", "-H", *(f"{key:02x}" for key in keys))

    def type(self, text):
        self.do("send-keys", "-l", text)

    def wait_until(self, condition, what, seconds=60):
        """Wait for a condition; a failure leaves the screen in a log."""
        try:
            return wait_until(condition, what, seconds)
        except AssertionError as error:
            self.log.write_text(self.screen())
            raise AssertionError(f"{error}; see {self.log}") from None

    def wait_for(self, text, seconds=60):
        """Wait until the screen shows a text."""
        return self.wait_until(lambda: text in self.screen(), text, seconds)

    def wait_until_gone(self, *texts):
        """Wait until the screen shows none of these."""
        what = f"{texts} are gone"
        self.wait_until(lambda: not any(text in self.screen() for text in texts), what)


class Oterm:
    """A running oterm."""

    def __init__(self, context):
        self.context = context
        proxy, self.upstream = context.scripted_proxy()
        (context.folder / "config.json").write_text(json.dumps({"splash-screen": False}))
        settings = {
            # It puts the scheme before the value itself.
            "OLLAMA_HOST": proxy.removeprefix("http://"),
            "OTERM_DATA_DIR": str(context.folder),
        }
        self.terminal = Terminal(context, context.tool("oterm", "oterm"), settings)
        try:
            self.terminal.wait_for("Welcome to oterm", 120)
        except AssertionError as error:
            raise Failure(str(error)) from None

    def lists_the_models(self):
        """The dialogue of a new chat completes the name of a model, and shows what it can do."""
        terminal = self.terminal
        terminal.press("C-n")
        # The list comes after the dialogue, which then begins anew.
        terminal.wait_for("team/other:8b")
        terminal.click("Type model name")
        terminal.type("scripted-1")
        terminal.wait_until_gone("team/other:8b")
        terminal.click(MODEL)
        terminal.wait_for("Model: scripted-1")

    def chats(self):
        """A response in a stream."""
        terminal = self.terminal
        terminal.click(" Save ")
        terminal.wait_until_gone("Max Tokens")
        terminal.click("\u276f")  # The sign before the line for a message.
        terminal.type("two?")
        terminal.wait_for("two?")
        terminal.press("Enter")
        terminal.wait_for("You said: two?")


def run(context):
    """Start it and check."""
    oterm = Oterm(context)
    context.report.check("starts", lambda: True)
    context.report.check("its model list", oterm.lists_the_models)
    context.report.check("a chat", oterm.chats)
