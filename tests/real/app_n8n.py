"""n8n: an agent with a chat model of Ollama and a calculator, behind a webhook."""

from harness import Failure, free_port, wait_until
from web import Session

LANGCHAIN = "@n8n/n8n-nodes-langchain."
OWNER = {"email": "a@example.com", "firstName": "A", "lastName": "B", "password": "Passw0rd123"}
# What its editor sends to fill the list of models.
MODEL_LIST = {
    "routing": {
        "request": {"method": "GET", "url": "/api/tags"},
        "output": {
            "postReceive": [
                {"type": "rootProperty", "properties": {"property": "models"}},
                {
                    "type": "setKeyValue",
                    "properties": {
                        "name": "={{$responseItem.name}}",
                        "value": "={{$responseItem.name}}",
                    },
                },
            ]
        },
    }
}


def node(name, kind, version, parameters, **more):
    """A node of a workflow."""
    place = {"id": name, "name": name, "type": kind, "typeVersion": version, "position": [0, 0]}
    return {**place, "parameters": parameters, **more}


def link(target, kind):
    """The connections of a node with one output."""
    return {kind: [[{"node": target, "type": kind, "index": 0}]]}


def workflow(credentials):
    """Webhook -> agent, which has a model and a tool."""
    hook = {"httpMethod": "POST", "path": "ask", "responseMode": "lastNode", "options": {}}
    agent = {"promptType": "define", "text": "={{ $json.body.text }}", "options": {}}
    model = {"model": "scripted-1:latest", "options": {}}
    nodes = [
        node("Hook", "n8n-nodes-base.webhook", 2, hook, webhookId="ask"),
        node("Agent", LANGCHAIN + "agent", 2.2, agent),
        node("Model", LANGCHAIN + "lmChatOllama", 1, model, credentials=credentials),
        node("Calculator", LANGCHAIN + "toolCalculator", 1, {}),
    ]
    connections = {
        "Hook": link("Agent", "main"),
        "Model": link("Agent", "ai_languageModel"),
        "Calculator": link("Agent", "ai_tool"),
    }
    flow = {"name": "test", "nodes": nodes, "connections": connections, "settings": {}}
    return {**flow, "active": False}


class N8n:
    """A running n8n with its owner signed in."""

    def __init__(self, context):
        self.proxy, _ = context.scripted_proxy()
        port = free_port()
        settings = {
            "N8N_USER_FOLDER": str(context.folder),
            "N8N_PORT": str(port),
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_SECURE_COOKIE": "false",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_RUNNERS_ENABLED": "false",
            # The other engine needs isolated-vm, which does not build on Node.js 20.
            "N8N_EXPRESSION_ENGINE": "legacy",
        }
        program = context.environments["n8n"] / "node_modules/.bin/n8n"
        started = context.start(["node", program, "start"], "n8n", settings)
        url = f"http://127.0.0.1:{port}"
        context.wait_for(started, url, "/healthz", "n8n")
        self.session = Session(url, {"browser-id": "test"})
        # Until its routes are there, which is after /healthz, each of them has a page that says so.
        wait_until(lambda: self.session.get("/rest/settings").text.startswith("{"), "its settings")
        answer = self.session.post("/rest/owner/setup", OWNER)
        if answer.status != 200:
            raise Failure(f"no owner: {answer.status} {answer.text[:200]}")

    def accepts_the_credential(self):
        """The button that tests a credential, and then the stored one."""
        data = {"name": "ollama", "type": "ollamaApi", "data": {"baseUrl": self.proxy}}
        stored = self.session.post("/rest/credentials", data).ok().json()["data"]
        self.credentials = {"ollamaApi": {"id": stored["id"], "name": "ollama"}}
        body = {"credentials": {"id": stored["id"], **data}}
        tested = self.session.post("/rest/credentials/test", body).ok().json()["data"]
        assert tested["status"] == "OK", tested

    def lists_the_models(self):
        body = {
            "path": "parameters.model",
            "nodeTypeAndVersion": {"name": LANGCHAIN + "lmChatOllama", "version": 1},
            "currentNodeParameters": {},
            "credentials": self.credentials,
            "loadOptions": MODEL_LIST,
        }
        path = "/rest/dynamic-node-parameters/options"
        found = self.session.post(path, body).ok().json()["data"]
        names = [entry["name"] for entry in found]
        assert "scripted-1:latest" in names, names

    def answers(self):
        """A workflow without a call of the tool."""
        made = self.session.post("/rest/workflows", workflow(self.credentials)).ok().json()["data"]
        change = {"active": True, "versionId": made.get("versionId")}
        self.session.send("PATCH", f"/rest/workflows/{made['id']}", change).ok()
        self.asks("hello", "You said: hello")

    def asks(self, text, wanted):
        found = self.session.post("/webhook/ask", {"text": text}).ok().json()["output"]
        assert found == wanted, found

    def calls_a_tool(self):
        """The result comes back to the model as the result of its call, not as a user's words."""
        # It leaves its calls out of the history: their arguments are lost, and only the name is known.
        self.asks('call Calculator {"input": "20 + 22"}', "Calculator({}) = 42")


def run(context):
    """Start it and check."""
    n8n = N8n(context)
    context.report.check("starts", lambda: True)
    context.report.check("its credential is accepted", n8n.accepts_the_credential)
    context.report.check("its model list", n8n.lists_the_models)
    context.report.check("a workflow with an agent", n8n.answers)
    context.report.check("an agent with a tool, two rounds", n8n.calls_a_tool)
