"""What the upstream of the agents says: one session of work, the same every time.

The prompt names the task and the folder, as in `task:work in folder:/tmp/x`. What has been done is read
off the history, so a repeated request gets the same answer, and a history that was compacted goes on where
it was. The tasks:

work      one.txt is made, after a thought; two.txt and three.txt in two calls at once; one.txt is patched
work+mcp  the same, then the tool `add` of an MCP server is called
break     one.txt is made; the next answer breaks off in its middle, once
overflow  one.txt is made; the context is full until the history has been summarised; two.txt is made

Each ends with the text `FINAL`. Which tool makes a file is found among those that the agent declares.
"""

import hashlib
import json
import re

from upstream_plans import Plan, fragments, pieces, sample, text_of

FINAL = "All files are in place."
THOUGHT = "First I look for a tool that makes files."
TASK = re.compile(r"task:([a-z]+)(\+mcp)?(?::\w+)? in folder:([\w./-]+\w)")
FINISHED = re.compile(r"Steps finished so far: ([a-z, ]+)")
SUMMARY = re.compile(
    r"(create|write|provide|generate|produce|make)\b[^.\n]{0,120}\bsummary\b|^summari[sz]e\b|"
    r"CONTEXT CHECKPOINT COMPACTION|summari[sz]ing (our |the )?conversation|state_snapshot",
    re.IGNORECASE | re.MULTILINE,
)
TOOLS = {
    "shell": r"exec_command|shell(_command)?|bash|run_shell_command|execute(_command)?|"
    r"run_(terminal_)?commands?|run_in_terminal|terminal|local_shell",
    "write": r"write(_?file)?|write_to_file|create(_new)?(_?file)?|fs_write|make_file",
    "edit": r"edit(_?file)?|str_?replace(_?file)?|replace(_in_file)?|search_replace|"
    r"single_find_and_replace|multiedit",
    "patch": r"apply_patch",
    "search": r"tool_?search",
    "finish": r"final_answer",
    "read": r"read(_?file)?|view(_?file)?",
    "add": r".*tiny.*add",
}
# What an agent says of a change to a file that it was not asked to read before.
UNREAD = re.compile(r"\b(you must|has not been)\b.{0,40}\bread\b", re.IGNORECASE)
# What the members of a tool's arguments are called.
MEMBERS = {
    "command": r"cmd|commands?|script",
    "path": r"(file|absolute|target|relative)?_?(path|file(_?name)?)s?",
    "content": r"(file_?)?(contents?|text)|code(_edit)?",
    "old": r"old_?(string|str|text)?|search|target",
    "new": r"new_?(string|str|text)?|replace(ment)?",
    "patch": r"input|patch(_?text)?",
    "query": r"query",
    "answer": r"answer",
    "a": r"a",
    "b": r"b",
}
PATCH = "*** Begin Patch\n*** Update File: one.txt\n@@\n-one\n+one, patched\n*** End Patch"


def kind_of(name):
    """What a tool is for, by its name."""
    bare = re.sub(r"^(functions|default_api)\.", "", name)
    for kind, pattern in TOOLS.items():
        if re.fullmatch(pattern, bare, re.IGNORECASE):
            return kind
    return None


def declared(body):
    """The tools by what they are for: name and schema, None instead of one for custom tools."""
    found = {}
    for tool in body.get("tools") or []:
        inner = tool.get(tool.get("type"), {})
        kind = kind_of(inner.get("name", ""))
        schema = inner.get("parameters", {}) if tool["type"] == "function" else None
        if kind and kind not in found:
            found[kind] = (inner["name"], schema)
    return found


def role_of(member):
    """Which of our values a member of the arguments holds."""
    for role, pattern in MEMBERS.items():
        if re.fullmatch(pattern, member, re.IGNORECASE):
            return role
    return None


def filled(schema, values, name="", root=None):
    """Arguments for a schema: our values where the names fit, else something of the right type."""
    root = schema if root is None else root
    while "$ref" in schema:
        target = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = target
    value = values.get(role_of(name))
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if value is not None and kind in ("string", "integer", "number"):
        return value
    if kind == "array" and value is not None and role_of(name) == "command":
        inner = schema.get("items", {}).get("type", "string")
        is_argv = name == "command" and inner == "string"
        return ["bash", "-c", value] if is_argv else [filled(schema["items"], values, name, root)]
    if kind == "array":
        return [filled(schema.get("items", {"type": "string"}), values, name.removesuffix("s"), root)]
    if kind == "object" or "properties" in schema:
        needed = schema.get("required", [])
        return {
            each: filled(part, values, each, root)
            for each, part in schema.get("properties", {}).items()
            if each in needed or role_of(each) in values
        }
    for part in schema.get("anyOf", schema.get("oneOf", [])):
        if part.get("type") != "null":
            return filled(part, values, name, root)
    if value is not None:
        return value
    return schema["default"] if "default" in schema else sample(schema, root)


class Call(tuple):
    """A call of a declared tool: its type, name, and arguments or input."""

    def __new__(cls, tool, values, text=None):
        name, schema = tool
        if schema is None:
            return super().__new__(cls, ("custom", name, text))
        return super().__new__(cls, ("function", name, json.dumps(filled(schema, values))))


class Answer(Plan):
    """A plan whose calls are `Call`s with ids of their own."""

    prefix = "call_"
    length = 24

    def named(self, seed, mode):
        """Give the calls ids, the same for the same seed, in the form of the server."""
        if mode == "templates":
            self.prefix, self.length, self.style = "chatcmpl-tool-", 32, "mixed"
        self.seed = seed
        return self

    def whole_calls(self):
        calls = []
        for index, (kind, name, text) in enumerate(self.calls):
            digest = hashlib.sha256(f"{self.seed} {index} {name}".encode()).hexdigest()
            member = "arguments" if kind == "function" else "input"
            inner = {"name": name, member: text}
            calls.append({"id": self.prefix + digest[: self.length], "type": kind, kind: inner})
        return calls

    def call_deltas(self):
        if any(kind == "custom" for kind, _, _ in self.calls):
            return [[{"index": index, **call}] for index, call in enumerate(self.whole_calls())]
        return super().call_deltas()


def text_answer(text):
    """Words and nothing else."""
    return Answer(pieces(text))


# --- The session --------------------------------------------------------------------------------


class History:
    """What a request tells of the session so far.

    `known` are the tasks of earlier requests by folder: an agent may cut off the prompt, and then only the
    paths tell which session it is.
    """

    def __init__(self, body, known):
        self.body = body
        self.tools = declared(body)
        self.messages = body["messages"]
        said = [text_of(m) for m in self.messages if m["role"] in ("user", "system", "developer")]
        found = [match for text in said for match in TASK.finditer(text)]
        if found:
            known[found[-1][3]] = found[-1].groups()
        text = "" if found else json.dumps(self.messages)
        tasks = [found[-1].groups()] if found else [each for folder, each in known.items() if folder in text]
        self.task, self.mcp, self.folder = tasks[0] if tasks else (None, None, None)
        self.calls = [call for m in self.messages for call in m.get("tool_calls") or []]
        # Some agents keep a summary as a message of the user, others as one of the assistant.
        summaries = [match for m in self.messages for match in FINISHED.finditer(text_of(m))]
        self.is_summarised = bool(summaries)
        self.finished = {name for match in summaries for name in match[1].split(", ")}
        for call in self.calls:
            self.finished |= self.steps_of(call[call["type"]])
        for call in self.told_calls():
            self.finished |= self.steps_of(call)
        self.is_unread = bool(UNREAD.search(self.result_of("edit")))
        if self.is_unread:
            self.finished.discard("patch")

    def told_calls(self):
        """The calls that an agent tells in words instead of sending them back, as smolagents does."""
        for message in self.messages:
            if message["role"] == "assistant" and "Calling tools:" in text_of(message):
                calls = text_of(message).split("'function':")[1:]
                yield from ({"name": "told", "arguments": call} for call in calls)

    @staticmethod
    def steps_of(inner):
        """The steps that a call belongs to."""
        text = inner.get("arguments", inner.get("input", ""))
        kind = kind_of(inner["name"])
        if kind in ("add", "search"):
            return {kind}
        if "patched" in text:
            return {"patch"}
        return {name for name in ("one", "two", "three") if f"{name}.txt" in text}

    def result_of(self, kind):
        """The text of the last result of a tool for this."""
        ids = [call["id"] for call in self.calls if kind_of(call[call["type"]]["name"]) == kind]
        found = [text_of(m) for m in self.messages if m.get("tool_call_id") in ids]
        return found[-1] if found else ""

    def sum(self):
        """What the tool `add` gave: the last number of its result, behind what the agent adds."""
        return (re.findall(r"\d+", self.result_of("add")) or ["missing"])[-1]

    def wants_blocks(self):
        """True if files are to be changed by words: without tools, as Aider has it."""
        return not self.tools and self.task and "SEARCH/REPLACE" in json.dumps(self.messages)

    def wants_summary(self):
        """True if the request is about to shorten the history."""
        last = self.messages[-1]
        text = text_of(last)
        if last["role"] == "user" and SUMMARY.search(text) and not TASK.search(text):
            return True
        if self.tools:
            return False
        return any(SUMMARY.search(text_of(m)) for m in self.messages if m["role"] != "assistant")


def make_file(history, name, preferred):
    """The call that makes NAME.txt with NAME in it."""
    path = f"{history.folder}/{name}.txt"
    values = {
        "shell": {"command": f"echo {name} > {path}"},
        "write": {"path": path, "content": f"{name}\n"},
    }
    for kind in preferred:
        if kind in history.tools:
            return Call(history.tools[kind], values[kind])
    return None


def patch_file(history):
    """The call that changes one.txt."""
    path = f"{history.folder}/one.txt"
    values = {
        "patch": {"patch": PATCH},
        "edit": {"path": path, "old": "one", "new": "one, patched"},
        "shell": {"command": f"sed -i 's/one/one, patched/' {path}"},
        "write": {"path": path, "content": "one, patched\n"},
    }
    for kind, arguments in values.items():
        if kind in history.tools:
            return Call(history.tools[kind], arguments, PATCH)
    return None


def add_numbers(history):
    """The call of the MCP tool, or the search for it; None once it was called."""
    if "add" in history.finished:
        return None
    if "add" in history.tools:
        return Call(history.tools["add"], {"a": 2, "b": 40})
    if "search" in history.tools and "search" not in history.finished:
        return Call(history.tools["search"], {"query": "add two numbers"})
    return None


def next_answer(history, seen_break):
    """The next answer of the session; `seen_break` tells whether the break is behind us."""
    done = history.finished
    if history.task is None:
        return text_answer("There is nothing to do.")
    if "one" not in done:
        call = make_file(history, "one", ["write", "shell"])
        return working("I make the first file.", [call], thinking=pieces(THOUGHT))
    if history.task == "break" and not seen_break:
        return Answer(pieces("I have made a good part of what"), broken="break")
    if history.task == "overflow" and "two" not in done:
        return working("I go on.", [make_file(history, "two", ["shell", "write"])])
    if history.task == "work":
        if "two" not in done or "three" not in done:
            calls = [
                make_file(history, "two", ["shell", "write"]),
                make_file(history, "three", ["write", "shell"]),
            ]
            return working("", calls)
        if "patch" not in done:
            was_read = "read" in (kind_of(call[call["type"]]["name"]) for call in history.calls)
            if history.is_unread and not was_read:
                path = f"{history.folder}/one.txt"
                return working("I read it first.", [Call(history.tools["read"], {"path": path})])
            return working("I change the first one.", [patch_file(history)])
        call = add_numbers(history) if history.mcp else None
        if call:
            return working("", [call])
    if "finish" in history.tools:
        return working("", [Call(history.tools["finish"], {"answer": FINAL})])
    return text_answer(FINAL + (f" The sum is {history.sum()}" if history.mcp else ""))


def working(text, calls, **more):
    """An answer with calls; without a tool that fits it says so."""
    if None in calls:
        return text_answer("There is no tool for this.")
    return Answer(pieces(text) if text else [], calls=calls, **more)


def block_answer(history, seen_break):
    """The whole work in words: blocks that make files, and one that changes the first."""
    if history.task == "break" and not seen_break:
        return Answer(pieces("I have made a good part of what"), broken="break")
    names = {"work": ("one", "two", "three"), "break": ("one",)}[history.task]
    changes = [(name, "", name) for name in names]
    if history.task == "work":
        changes.append(("one", "one\n", "one, patched"))
    blocks = [
        f"{name}.txt\n```\n<<<<<<< SEARCH\n{old}=======\n{new}\n>>>>>>> REPLACE\n```\n"
        for name, old, new in changes
    ]
    return Answer(pieces("\n".join([*blocks, FINAL])), thinking=pieces(THOUGHT))


def side_answer(history):
    """The answer to what agents ask beside the session: a title, a check, a value of a schema."""
    wanted = history.body.get("response_format") or {"type": "text"}
    if wanted["type"] == "json_schema":
        return text_answer(json.dumps(sample(wanted["json_schema"]["schema"])))
    if wanted["type"] == "json_object":
        return text_answer('{"title": "Some files"}')
    return text_answer("Some files")


def summary_of(history):
    """The summary of the session."""
    task = f"task:{history.task}{history.mcp or ''} in folder:{history.folder}"
    steps = ", ".join(sorted(history.finished)) or "none"
    text = f"The user asked: do {task}. Steps finished so far: {steps}. Then it goes on."
    for tag in ("summary", "state_snapshot"):
        if f"<{tag}>" in text_of(history.messages[-1]):
            text = f"<{tag}>\n{text}\n</{tag}>"
    return text_answer(text)


__all__ = [
    "FINAL",
    "Answer",
    "History",
    "block_answer",
    "fragments",
    "next_answer",
    "side_answer",
    "summary_of",
]
