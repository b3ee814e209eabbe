"""Open WebUI in a headless browser: model list, chat, stop, and a document by embeddings."""

import sys

from harness import Api, Failure, free_port, wait_until

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Its requests for titles, tags and the like would stand between those that are checked.
SETTINGS = {
    "WEBUI_AUTH": "false",
    "WEBUI_SECRET_KEY": "secret",
    "OFFLINE_MODE": "true",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ENABLE_TITLE_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_RETRIEVAL_QUERY_GENERATION": "false",
    "RAG_EMBEDDING_ENGINE": "ollama",
    "RAG_EMBEDDING_MODEL": "scripted-embed",
}
DOCUMENT = "The lighthouse keeper of Elba owns eleven yellow canaries.\n" * 3


def start(context, proxy):
    """Start the server; its address."""
    port = free_port()
    settings = {
        **SETTINGS,
        "DATA_DIR": str(context.folder),
        "OLLAMA_BASE_URL": proxy,
        "RAG_OLLAMA_BASE_URL": proxy,
    }
    command = [context.tool("open-webui", "open-webui"), "serve", "--host", "127.0.0.1"]
    program = context.start([*command, "--port", port], "open-webui", settings)
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/health", "open-webui", seconds=600)
    return url


class Page:
    """Its first page in a browser."""

    def __init__(self, context, browser, url, upstream):
        self.context = context
        self.url = url
        self.upstream = Api(upstream)
        self.page = browser.new_page(viewport={"width": 1200, "height": 800})
        self.page.set_default_timeout(60_000)

    def opens(self):
        self.page.goto(self.url)
        self.page.wait_for_selector("#chat-input")
        news = self.page.get_by_text("Okay, Let's Go!")
        news.wait_for()
        news.click()

    def lists_the_models(self):
        self.page.locator("#model-selector-model-button").click()
        entries = self.page.locator("[role=option]")
        entries.first.wait_for()
        names = [text.split("\n")[0] for text in entries.all_inner_texts()]
        assert {"scripted-1:latest", "team/other:8b"} <= set(names), names
        # Nothing is known of sizes, so nothing is said of them.
        shown = " ".join(entries.all_inner_texts())
        assert "unknown" not in shown and "1 B" not in shown, shown
        self.page.keyboard.press("Escape")

    def ask(self, text):
        self.page.locator("#chat-input").click()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def shown(self):
        return self.page.inner_text("#messages-container")

    def chats(self):
        self.ask("slow 5 word")
        wait_until(lambda: "word0 word1 word2 word3 word4" in self.shown(), "the response")
        wait_until(lambda: self.last("/v1/chat/completions")["state"] == "done", "its end")
        assert self.last("/v1/chat/completions")["body"]["stream"] is True

    def last(self, path):
        """The last request that the upstream got there."""
        entries = self.upstream.get("/_requests").json()
        return next(entry for entry in reversed(entries) if entry["path"] == path)

    def stops(self):
        """Its stop button ends the request at the upstream."""
        self.ask("slow 3000 late")
        wait_until(lambda: "late3" in self.shown(), "the first words")
        self.page.get_by_label("Stop", exact=True).click()
        wait_until(lambda: self.last("/v1/chat/completions")["state"] == "aborted", "the end", 30)

    def reads_a_document(self):
        """The text of a file reaches the model by its embeddings."""
        file = self.context.folder / "canaries.txt"
        file.write_text(DOCUMENT)
        self.page.goto(self.url)
        self.page.wait_for_selector("#chat-input")
        self.page.locator("input[type=file]").first.set_input_files(str(file))
        self.page.get_by_text("canaries.txt").first.wait_for()
        wait_until(lambda: self.embedded("eleven yellow canaries"), "the embedding of the file")
        self.ask("Who owns canaries?")
        wait_until(lambda: self.embedded("Who owns canaries?"), "the embedding of the question")
        wait_until(
            lambda: "eleven yellow canaries" in str(self.last("/v1/chat/completions")["body"]),
            "a question with the text of the file",
        )

    def embedded(self, text):
        """True if the upstream has embedded a text that contains this one."""
        entries = self.upstream.get("/_requests").json()
        return any(
            text in str(entry["body"]) for entry in entries if entry["path"] == "/v1/embeddings"
        )


def run(context):
    """Start it, open it, and check."""
    packages = next(context.environments["browser"].glob("lib/python*/site-packages"))
    sys.path.append(str(packages))
    from playwright.sync_api import sync_playwright

    proxy, upstream = context.scripted_proxy()
    url = start(context, proxy)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        except Exception as error:  # Playwright's own kinds; the run goes on without a browser.
            raise Failure(f"no browser: {error}") from None
        page = Page(context, browser, url, upstream)
        context.report.check("starts", lambda: True)
        context.report.check("its first page", page.opens)
        context.report.check("its model list", page.lists_the_models)
        context.report.check("a chat in a stream", page.chats)
        context.report.check("stop ends the upstream's request", page.stops)
        context.report.check("a document by embeddings", page.reads_a_document)
        page.page.screenshot(path=str(context.log_file("page").with_suffix(".png")))
        browser.close()
