"""The applications, in front of the proxy."""

import app_flowise
import app_n8n
import app_open_webui
import app_oterm
from harness import Subject

SUBJECTS = {
    "oterm": Subject("oterm in a terminal", app_oterm.run, python=["oterm"], programs=["tmux"]),
    "open-webui": Subject(
        "Open WebUI in a headless browser",
        app_open_webui.run,
        python=["open-webui", "browser"],
        programs=["chromium"],
    ),
    "n8n": Subject("n8n, an agent with a tool", app_n8n.run, npm=["n8n"], programs=["node"]),
    "flowise": Subject(
        "Flowise, an agent with a tool", app_flowise.run, npm=["flowise"], programs=["node"]
    ),
}
