"""A short pass over a real model, SmolLM2-135M-Instruct, with the official Python client.

What a small model says differs from run to run; these checks look at what must hold all the same.
"""

import json
import math

import ollama
from checks import check, run, setting

PROXY = setting("PROXY_URL")
MODEL = "smollm2:135m"
COUNTS = ["prompt_eval_count", "eval_count"]
DURATIONS = ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"]

client = ollama.Client(host=PROXY, timeout=120)
QUESTION = [{"role": "user", "content": "Name three colours."}]
SHORT = {"num_predict": 24, "temperature": 0, "seed": 1}


def check_final(answer):
    assert answer.done is True and answer.done_reason in ("stop", "length"), answer
    for name in COUNTS + DURATIONS:
        assert isinstance(answer[name], int) and answer[name] >= 1, (name, answer[name])
    assert answer.eval_count <= SHORT["num_predict"], answer.eval_count


@check
def tags_lists_the_model():
    models = client.list().models
    assert [model.model for model in models] == [MODEL], models
    assert models[0].size > 50_000_000, models[0].size
    assert len(models[0].digest) == 64, models[0].digest


@check
def show_tells_its_context_length():
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities, shown.capabilities
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] >= 1024, shown.modelinfo


@check
def chat_answers():
    answer = client.chat(MODEL, QUESTION, options=SHORT)
    assert answer.message.content.strip(), answer
    check_final(answer)


@check
def chat_streams():
    lines = list(client.chat(MODEL, QUESTION, options=SHORT, stream=True))
    assert len(lines) > 5, len(lines)
    assert "".join(line.message.content for line in lines).strip(), lines
    assert [line.done for line in lines[:-1]] == [False] * (len(lines) - 1), lines
    check_final(lines[-1])


@check
def chat_stops_at_num_predict():
    answer = client.chat(MODEL, QUESTION, options={"num_predict": 3})
    assert (answer.done_reason, answer.eval_count) == ("length", 3), answer


@check
def chat_keeps_to_a_schema():
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    messages = [{"role": "user", "content": "Describe a person as JSON."}]
    options = {"num_predict": 200, "temperature": 0}
    person = json.loads(client.chat(MODEL, messages, format=schema, options=options).message.content)
    assert isinstance(person["name"], str) and isinstance(person["age"], int), person


@check
def generate_answers():
    answer = client.generate(MODEL, "Name three colours.", system="Be brief.", options=SHORT)
    assert answer.response.strip() and answer.context, answer
    check_final(answer)


@check
def generate_streams_raw_text():
    lines = list(client.generate(MODEL, "One, two, three,", raw=True, options=SHORT, stream=True))
    assert "".join(line.response for line in lines).strip(), lines
    check_final(lines[-1])


@check
def embed_gives_unit_vectors_that_mean_something():
    texts = ["The cat sleeps.", "A cat is sleeping.", "Stock markets fell sharply today."]
    answer = client.embed(MODEL, texts)
    cat, same, other = answer.embeddings
    assert answer.prompt_eval_count >= 3, answer.prompt_eval_count
    assert len(cat) == 576 and math.isclose(sum(x * x for x in cat), 1, rel_tol=1e-4), len(cat)
    near = sum(a * b for a, b in zip(cat, same))
    far = sum(a * b for a, b in zip(cat, other))
    assert near > far, (near, far)


@check
def embeddings_gives_one_vector():
    assert len(client.embeddings(MODEL, "The cat sleeps.").embedding) == 576


@check
def ps_lists_the_model_in_use():
    entry = client.ps().models[0]
    assert entry.model == MODEL and entry.context_length >= 1024, entry


if __name__ == "__main__":
    run()
