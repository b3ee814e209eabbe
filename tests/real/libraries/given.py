"""What a library gets: the address, the model and the prompt from the environment, and three tools."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

PROXY = os.environ["PROXY"]
MODEL = os.environ["MODEL"]
PROMPT = os.environ["PROMPT"]
KEY = "ollama"
SYSTEM = "You are a coding agent."
WIRE = sys.argv[1]  # Which of the library's clients is meant.


def write_file(path: str, content: str) -> str:
    """Write a file.

    Args:
        path: where the file is
        content: what it shall hold
    """
    Path(path).write_text(content)
    return "written"


def edit_file(path: str, old: str, new: str) -> str:
    """Replace a text in a file.

    Args:
        path: where the file is
        old: the text that is replaced
        new: what stands there afterwards
    """
    file = Path(path)
    file.write_text(file.read_text().replace(old, new))
    return "edited"


def bash(command: str) -> str:
    """Run a shell command.

    Args:
        command: the command line
    """
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


TOOLS = [write_file, edit_file, bash]


def run(coroutine):
    """Run a coroutine and print its result."""
    print(asyncio.run(coroutine), flush=True)
