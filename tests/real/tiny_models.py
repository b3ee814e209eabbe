#!/usr/bin/env python3
"""Writes a tiny transformer with random weights into a folder, for servers that load such folders.

Run by the Python of a subject, which has `transformers`. No hub is asked: the tokenizer is made here,
one token for each printable character of ASCII, so that no text ends in half a character. The model generates nonsense, but deterministic nonsense at temperature 0.

Usage: tiny_models.py chat|embed FOLDER
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>"]
LENGTH = 2048
# ChatML with tools, as the Qwen family has it, in short.
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\n# Tools\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}\
{{ '<|im_end|>\n' }}{% endif %}\
{%- for message in messages %}\
{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}\
{%- for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}\
{{ '<|im_end|>\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def tokenizer():
    """One token for each printable character, and the special ones."""
    # ByteLevel writes a blank and a line feed as these two letters.
    alphabet = ["\u0120", "\u010a"] + [chr(code) for code in range(33, 127)]
    vocabulary = {token: index for index, token in enumerate(SPECIAL + alphabet)}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )


def chat(tokens):
    """A Llama of two layers."""
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,  # Large, so that the text does not repeat one letter.
        tie_word_embeddings=False,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    tokens.chat_template = TEMPLATE
    return LlamaForCausalLM(config)


def embed(tokens):
    """A BERT of two layers."""
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=tokens.pad_token_id,
    )
    tokens.model_max_length = 256
    return BertModel(config)


def main():
    """Write the model that the command line asks for."""
    kind, folder = sys.argv[1:]
    torch.manual_seed(1)
    tokens = tokenizer()
    model = {"chat": chat, "embed": embed}[kind](tokens)
    model.to(torch.float32).eval().save_pretrained(folder)
    tokens.save_pretrained(folder)


if __name__ == "__main__":
    main()
