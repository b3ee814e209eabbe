"""Flowise: an agent with a chat model of Ollama and a calculator, asked through its API."""

import json

from harness import Failure, free_port
from web import Session

USER = {"name": "A", "email": "a@example.com", "credential": "Passw0rd123!", "type": "pro"}
# Inputs of these types are fields of a form; all others are connections to other nodes.
FIELDS = set(
    "array asyncMultiOptions asyncOptions boolean code conditionFunction credential datagrid date "
    "file folder json multiOptions number options password string tabs".split()
)


class Flowise:
    """A running Flowise with its user signed in."""

    def __init__(self, context):
        self.proxy, _ = context.scripted_proxy()
        port = free_port()
        folder = str(context.folder)
        modules = context.environments["flowise"] / "node_modules"
        settings = {
            "DATABASE_PATH": folder,
            "SECRETKEY_PATH": folder,
            "LOG_PATH": folder,
            "BLOB_STORAGE_PATH": folder,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "DISABLE_FLOWISE_TELEMETRY": "true",
            "HTTP_SECURITY_CHECK": "false",  # It refuses loopback addresses otherwise.
            "MODEL_LIST_CONFIG_JSON": str(modules / "flowise-components/models.json"),
        }
        for name in ("JWT_AUTH_TOKEN", "JWT_REFRESH_TOKEN", "EXPRESS_SESSION", "TOKEN_HASH"):
            settings[f"{name}_SECRET"] = "secret"
        started = context.start(["node", modules / ".bin/flowise", "start"], "flowise", settings)
        url = f"http://127.0.0.1:{port}"
        context.wait_for(started, url, "/api/v1/ping", "flowise")
        self.session = Session(url, {"x-request-from": "internal"})
        answer = self.session.post("/api/v1/account/register", {"user": USER})
        login = {"email": USER["email"], "password": USER["credential"]}
        if self.session.post("/api/v1/auth/login", login).status != 200:
            raise Failure(f"no user: {answer.status} {answer.text[:200]}")

    def node(self, name, inputs):
        """A node as its editor writes it."""
        data = self.session.get(f"/api/v1/nodes/{name}").ok().json()
        parts = data.get("inputs", [])
        defaults = {part["name"]: part.get("default", "") for part in parts}
        output = {
            "id": f"{name}_0-output-{name}-{'|'.join(data['baseClasses'])}",
            "name": name,
            "label": data["type"],
            "type": " | ".join(data["baseClasses"]),
        }
        data.update(
            id=f"{name}_0",
            inputAnchors=[part for part in parts if part["type"] not in FIELDS],
            inputParams=[part for part in parts if part["type"] in FIELDS],
            inputs={**defaults, **inputs},
            outputAnchors=[output],
            outputs={},
        )
        return {"id": data["id"], "type": "customNode", "position": {"x": 0, "y": 0}, "data": data}

    def builds_an_agent(self):
        """A chat flow of an agent, a model, a memory and a tool."""
        settings = {"baseUrl": self.proxy, "modelName": "scripted-1", "streaming": True}
        parts = {
            "model": self.node("chatOllama", settings),
            "tools": self.node("calculator", {}),
            "memory": self.node("bufferMemory", {}),
        }
        inputs = {name: "{{%s.data.instance}}" % part["id"] for name, part in parts.items()}
        agent = self.node("toolAgent", {**inputs, "tools": [inputs["tools"]]})
        edges = [edge(part, agent, anchor) for anchor, part in parts.items()]
        flow = {"nodes": [*parts.values(), agent], "edges": edges}
        body = {"name": "test", "flowData": json.dumps(flow), "type": "CHATFLOW"}
        self.flow = self.session.post("/api/v1/chatflows", body).ok().json()["id"]

    def asks(self, text, wanted):
        body = {"question": text, "chatId": "one", "streaming": False}
        found = self.session.post(f"/api/v1/prediction/{self.flow}", body).ok().json()["text"]
        assert found == wanted, found

    def answers(self):
        self.asks("hello", "You said: hello")

    def calls_a_tool(self):
        """The result comes back to the model as the result of its call, not as a user's words."""
        # It leaves its calls out of the history: their arguments are lost, and only the name is known.
        self.asks('call calculator {"input": "20 + 22"}', "calculator({}) = 42")


def edge(source, target, anchor):
    """The connection of two nodes."""
    kind = next(part["type"] for part in target["data"]["inputAnchors"] if part["name"] == anchor)
    ends = {
        "source": source["id"],
        "sourceHandle": source["data"]["outputAnchors"][0]["id"],
        "target": target["id"],
        "targetHandle": f"{target['id']}-input-{anchor}-{kind}",
    }
    return {**ends, "type": "buttonedge", "id": "-".join(ends.values())}


def run(context):
    """Start it and check."""
    flowise = Flowise(context)
    context.report.check("starts", lambda: True)
    context.report.check("a flow with an agent is built", flowise.builds_an_agent)
    context.report.check("an agent answers", flowise.answers)
    context.report.check("an agent with a tool, two rounds", flowise.calls_a_tool)
