"""The official Python clients against a proxy that requires client keys."""

import os
from contextlib import contextmanager

import anthropic
import httpx
import ollama
import openai
from checks import check, raises, run, setting

PROXY = setting("KEYED_PROXY_URL")
KEY = setting("PROXY_KEY")
MODEL = "scripted-1"
SAID = "You said: Hello"
HELLO = [{"role": "user", "content": "Hello"}]


@contextmanager
def environment(name, value):
    """The variable, for as long as the block lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def openai_client(key):
    return openai.OpenAI(base_url=PROXY + "/v1", api_key=key, max_retries=0, timeout=30)


def anthropic_client(**more):
    return anthropic.Anthropic(base_url=PROXY, max_retries=0, timeout=30, **more)


@check
def ollama_sends_the_key_of_its_environment():
    with environment("OLLAMA_API_KEY", KEY):
        client = ollama.Client(host=PROXY, timeout=30)
    assert client.chat(MODEL, HELLO).message.content == SAID
    lines = list(client.chat(MODEL, HELLO, stream=True))
    assert "".join(line.message.content for line in lines) == SAID, lines
    assert client.list().models, "no models"


@check
def ollama_takes_a_header_of_its_own():
    client = ollama.Client(host=PROXY, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
    assert client.generate(MODEL, "Hello").response == SAID


@check
def ollama_without_a_key_is_unauthorized():
    client = ollama.Client(host=PROXY, timeout=30)
    for call in (client.list, lambda: client.chat(MODEL, HELLO)):
        error = raises(ollama.ResponseError, call)
        assert error.status_code == 401 and error.error.startswith("unauthorized"), error


@check
def openai_with_a_key_and_without():
    answer = openai_client(KEY).chat.completions.create(
        model=MODEL, messages=HELLO, stream=False
    )
    assert answer.choices[0].message.content == SAID, answer
    error = raises(openai.AuthenticationError, openai_client("wrong-key").models.list)
    assert (error.status_code, error.code) == (401, "invalid_api_key"), error


@check
def anthropic_with_a_key_a_token_and_neither():
    asked = {"model": MODEL, "max_tokens": 50, "messages": HELLO}
    for client in (anthropic_client(api_key=KEY), anthropic_client(auth_token=KEY)):
        assert client.messages.create(**asked).content[0].text == SAID
    client = anthropic_client(api_key="wrong-key")
    error = raises(anthropic.AuthenticationError, client.messages.create, **asked)
    assert error.body["error"]["type"] == "authentication_error", error.body


@check
def a_password_is_a_key():
    answer = httpx.get(PROXY + "/api/version", auth=("anybody", KEY))
    assert answer.status_code == 200, answer
    answer = httpx.get(PROXY + "/api/version", auth=("anybody", "wrong-key"))
    assert answer.status_code == 401, answer
    ways = answer.headers.get_list("www-authenticate")
    assert [way.split()[0] for way in ways] == ["Bearer", "Basic"], ways


@check
def a_probe_needs_no_key():
    for path in ("/", "/health"):
        assert httpx.get(PROXY + path).status_code == 200, path
    assert httpx.get(PROXY + "/openai/health").status_code == 401


if __name__ == "__main__":
    run()
