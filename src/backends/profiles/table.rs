//! The table of families: a row each, which says only what differs from an unknown upstream.
//!
//! What a member means is told beside it in [`Profile`]. Facts are those of openai-wire.md; a row
//! never claims what nobody has seen.

use serde_json::Value;

use super::{FillIn, History, Logprobs, Profile, Side, Thinking};

/// What an unknown upstream gets.
pub const GENERIC: Profile = Profile {
    name: "generic",
    hosts: &[],
    owners: &[],
    headers: &[],
    shape: |_| false,
    hint: |_| false,
    max_tokens: "max_tokens",
    seed: "seed",
    seed_unsigned: false,
    top_p_below_one: false,
    top_k: None,
    top_k_off: None,
    min_p: None,
    repeat_penalty: None,
    llama: false,
    stops: None,
    ttl: None,
    thinking: Thinking::Unknown,
    penalties: &["presence_penalty", "frequency_penalty"],
    json_word: false,
    json_object: true,
    grammar: false,
    completion_limit: true,
    logprobs: Logprobs::Flag(20),
    fill_in: FillIn::Suffix,
    embed_batch: 256,
    lists_abilities: false,
    ignores_model: false,
    side: None,
    history: History::Usual,
};

/// What OpenAI takes, at home and at Azure.
const OPENAI: Profile = Profile {
    name: "openai",
    max_tokens: "max_completion_tokens",
    stops: Some(4),
    json_word: true,
    thinking: Thinking::OpenAi,
    ..GENERIC
};

/// The families. OpenAI first, then by alphabet.
pub const PROFILES: &[Profile] = &[
    Profile { name: "openai", hosts: &["api.openai.com"], ..OPENAI },
    Profile { name: "azure", hosts: &["openai.azure.com"], ..OPENAI },
    Profile {
        name: "deepseek",
        hosts: &["api.deepseek.com"],
        json_word: true,
        thinking: Thinking::DeepSeek,
        history: History::Reasoning,
        ..GENERIC
    },
    Profile {
        name: "gemini",
        hosts: &["generativelanguage.googleapis.com"],
        embed_batch: 100,
        fill_in: FillIn::Nowhere,
        penalties: &[],
        thinking: Thinking::Gemini,
        ..GENERIC
    },
    Profile {
        name: "groq",
        hosts: &["api.groq.com"],
        logprobs: Logprobs::Refused,
        max_tokens: "max_completion_tokens",
        fill_in: FillIn::Nowhere,
        thinking: Thinking::Groq,
        ..GENERIC
    },
    Profile {
        name: "litellm",
        headers: &[("x-litellm-", "")],
        lists_abilities: true,
        side: Some(Side::LiteLlm),
        ..GENERIC
    },
    Profile {
        name: "llamacpp",
        ignores_model: true,
        owners: &["llamacpp"],
        headers: &[("server", "llama.cpp")],
        side: Some(Side::Props),
        top_k: Some("top_k"),
        top_k_off: Some(0),
        min_p: Some("min_p"),
        repeat_penalty: Some("repeat_penalty"),
        llama: true,
        completion_limit: false,
        fill_in: FillIn::Infill,
        thinking: Thinking::Template,
        ..GENERIC
    },
    Profile {
        name: "lmstudio",
        owners: &["organization_owner", "organization-owner"],
        top_k: Some("top_k"),
        repeat_penalty: Some("repeat_penalty"),
        ttl: Some("ttl"),
        json_object: false,
        lists_abilities: true,
        side: Some(Side::LmStudio),
        ..GENERIC
    },
    Profile {
        name: "localai",
        hint: may_be_localai,
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repeat_penalty"),
        llama: true,
        lists_abilities: true,
        side: Some(Side::LocalAi),
        ..GENERIC
    },
    Profile {
        name: "mistral",
        hosts: &["api.mistral.ai"],
        seed: "random_seed",
        lists_abilities: true,
        json_word: true,
        fill_in: FillIn::Fim,
        thinking: Thinking::Silent,
        history: History::ShortIds,
        ..GENERIC
    },
    Profile {
        // Another Ollama: its own layer reads `reasoning_effort`, with `none` for off.
        name: "ollama",
        owners: &["library"],
        thinking: Thinking::Gemini,
        ..GENERIC
    },
    Profile {
        name: "openrouter",
        hosts: &["openrouter.ai"],
        max_tokens: "max_completion_tokens",
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: Thinking::OpenRouter,
        lists_abilities: true,
        side: Some(Side::Embeddings),
        ..GENERIC
    },
    Profile {
        name: "sglang",
        owners: &["sglang"],
        top_k: Some("top_k"),
        top_k_off: Some(-1),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: Thinking::Template,
        ..GENERIC
    },
    Profile {
        name: "tgi",
        ignores_model: true,
        hint: may_be_tgi,
        seed_unsigned: true,
        top_p_below_one: true,
        penalties: &["frequency_penalty"],
        grammar: true,
        logprobs: Logprobs::Flag(5),
        fill_in: FillIn::Nowhere,
        side: Some(Side::Tgi),
        ..GENERIC
    },
    Profile {
        name: "together",
        hosts: &["api.together.xyz", "api.together.ai"],
        shape: is_together,
        logprobs: Logprobs::Number,
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: Thinking::Together,
        ..GENERIC
    },
    Profile {
        name: "vllm",
        owners: &["vllm"],
        top_k: Some("top_k"),
        top_k_off: Some(-1),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        fill_in: FillIn::Nowhere,
        thinking: Thinking::Template,
        ..GENERIC
    },
    Profile {
        name: "xai",
        hosts: &["api.x.ai"],
        penalties: &[],
        fill_in: FillIn::Nowhere,
        thinking: Thinking::Silent,
        ..GENERIC
    },
];

/// A bare array of entries that say what kind of model they are, and whose.
fn is_together(list: &Value) -> bool {
    let first = list.as_array().and_then(|list| list.first());
    first.is_some_and(|entry| {
        entry["type"].is_string()
            && ["display_name", "organization", "pricing"].iter().any(|it| entry.get(it).is_some())
    })
}

/// TGI serves one model, which it lists as its own owner.
fn may_be_tgi(list: &Value) -> bool {
    match list["data"].as_array().map(Vec::as_slice) {
        Some([only]) => {
            only["id"].is_string() && only["owned_by"] == only["id"] && only["created"] == 0
        }
        _ => false,
    }
}

/// LocalAI says of its models that they are models, and nothing else.
fn may_be_localai(list: &Value) -> bool {
    let bare = |entry: &Value| {
        entry["object"] == "model" && entry.as_object().is_some_and(|entry| entry.len() == 2)
    };
    list["data"].as_array().is_some_and(|list| !list.is_empty() && list.iter().all(bare))
}
