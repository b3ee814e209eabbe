//! The table of upstream families: one row each, with what differs from an unknown upstream.
//!
//! [`Profile`] documents the fields. Data only. Invariant: a row states only what the family's
//! documentation or observed responses show.

use serde_json::Value;

use super::{
    DetailsProbe, FileParts, FimEndpoint, HistoryRules, LogprobsParam, Profile, ThinkingParam,
};

/// The profile of an unknown upstream.
pub const GENERIC: Profile = Profile {
    name: "generic",
    hosts: &[],
    owners: &[],
    headers: &[],
    matches_list: |_| false,
    may_match_list: |_| false,
    max_tokens: "max_tokens",
    seed: "seed",
    needs_unsigned_seed: false,
    needs_top_p_below_one: false,
    needs_positive_top_p: false,
    has_continue_final_message: false,
    top_k: None,
    top_k_off: None,
    min_p: None,
    repeat_penalty: None,
    takes_llamacpp_params: false,
    max_stop_sequences: None,
    ttl_param: None,
    thinking: ThinkingParam::Unknown,
    penalties: &["presence_penalty", "frequency_penalty"],
    needs_json_instruction: false,
    has_json_object: true,
    uses_tgi_grammar: false,
    needs_completion_limit: true,
    logprobs: LogprobsParam::FlagAndCount(20),
    fim: FimEndpoint::CompletionsSuffix,
    max_embed_inputs: 256,
    lists_capabilities: false,
    ignores_model: false,
    details_probe: None,
    history: HistoryRules::Standard,
    takes_cache_marks: false,
    file_parts: FileParts::Unsupported,
};

/// Common to OpenAI and Azure OpenAI.
const OPENAI: Profile = Profile {
    name: "openai",
    max_tokens: "max_completion_tokens",
    max_stop_sequences: Some(4),
    needs_json_instruction: true,
    thinking: ThinkingParam::OpenAi,
    file_parts: FileParts::Data,
    ..GENERIC
};

/// All known families: OpenAI and Azure first, then in alphabetical order.
pub const PROFILES: &[Profile] = &[
    Profile { name: "openai", hosts: &["api.openai.com"], ..OPENAI },
    Profile { name: "azure", hosts: &["openai.azure.com"], ..OPENAI },
    Profile {
        name: "ark",
        hosts: &["volces.com"],
        thinking: ThinkingParam::ThinkingType,
        ..GENERIC
    },
    Profile {
        name: "dashscope",
        hosts: &[
            "dashscope.aliyuncs.com",
            "dashscope-intl.aliyuncs.com",
            "dashscope-us.aliyuncs.com",
        ],
        thinking: ThinkingParam::EnableThinking,
        ..GENERIC
    },
    Profile {
        name: "deepseek",
        hosts: &["api.deepseek.com"],
        needs_json_instruction: true,
        thinking: ThinkingParam::DeepSeek,
        history: HistoryRules::ReasoningWithCalls,
        ..GENERIC
    },
    Profile {
        name: "gemini",
        hosts: &["generativelanguage.googleapis.com"],
        max_embed_inputs: 100,
        fim: FimEndpoint::Unsupported,
        penalties: &[],
        thinking: ThinkingParam::Gemini,
        ..GENERIC
    },
    Profile {
        name: "groq",
        hosts: &["api.groq.com"],
        matches_list: |list| {
            all_entries(list, |it| has_all(it, &["active", "public_apps", "context_window"]))
        },
        logprobs: LogprobsParam::Unsupported,
        max_tokens: "max_completion_tokens",
        fim: FimEndpoint::Unsupported,
        thinking: ThinkingParam::Groq,
        ..GENERIC
    },
    Profile {
        name: "litellm",
        headers: &[("x-litellm-", "")],
        may_match_list: may_be_litellm,
        lists_capabilities: true,
        details_probe: Some(DetailsProbe::LiteLlm),
        takes_cache_marks: true,
        ..GENERIC
    },
    Profile {
        name: "llamacpp",
        ignores_model: true,
        owners: &["llamacpp"],
        headers: &[("server", "llama.cpp")],
        matches_list: looks_like_llamacpp,
        details_probe: Some(DetailsProbe::LlamaCppProps),
        top_k: Some("top_k"),
        top_k_off: Some(0),
        min_p: Some("min_p"),
        repeat_penalty: Some("repeat_penalty"),
        takes_llamacpp_params: true,
        needs_completion_limit: false,
        fim: FimEndpoint::LlamaCppInfill,
        thinking: ThinkingParam::ChatTemplateKwargs,
        history: HistoryRules::ReasoningOfLoop,
        ..GENERIC
    },
    Profile {
        name: "lmstudio",
        owners: &["organization_owner", "organization-owner"],
        top_k: Some("top_k"),
        repeat_penalty: Some("repeat_penalty"),
        ttl_param: Some("ttl"),
        has_json_object: false,
        lists_capabilities: true,
        details_probe: Some(DetailsProbe::LmStudio),
        ..GENERIC
    },
    Profile {
        name: "localai",
        may_match_list: may_be_localai,
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repeat_penalty"),
        takes_llamacpp_params: true,
        lists_capabilities: true,
        details_probe: Some(DetailsProbe::LocalAi),
        ..GENERIC
    },
    Profile {
        name: "minimax",
        hosts: &["api.minimax.io", "api.minimaxi.com"],
        thinking: ThinkingParam::MiniMax,
        ..GENERIC
    },
    Profile {
        name: "mistral",
        hosts: &["api.mistral.ai"],
        seed: "random_seed",
        lists_capabilities: true,
        needs_json_instruction: true,
        fim: FimEndpoint::MistralFim,
        thinking: ThinkingParam::Unsupported,
        history: HistoryRules::ShortCallIds,
        ..GENERIC
    },
    Profile {
        name: "moonshot",
        hosts: &["api.moonshot.ai", "api.moonshot.cn"],
        thinking: ThinkingParam::ThinkingType,
        ..GENERIC
    },
    Profile {
        // Ollama's OpenAI-compatible API reads `reasoning_effort`, with `none` for off.
        name: "ollama",
        owners: &["library"],
        thinking: ThinkingParam::Gemini,
        details_probe: Some(DetailsProbe::OllamaTags),
        ..GENERIC
    },
    Profile {
        name: "openrouter",
        hosts: &["openrouter.ai"],
        matches_list: |list| {
            all_entries(list, |it| has_all(it, &["architecture", "top_provider", "pricing"]))
        },
        max_tokens: "max_completion_tokens",
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: ThinkingParam::OpenRouter,
        lists_capabilities: true,
        details_probe: Some(DetailsProbe::OpenRouterEmbeddings),
        file_parts: FileParts::DataAndUrl,
        takes_cache_marks: true,
        history: HistoryRules::ReasoningOfLoop,
        ..GENERIC
    },
    Profile {
        name: "sglang",
        owners: &["sglang"],
        matches_list: looks_like_sglang,
        needs_positive_top_p: true,
        has_continue_final_message: true,
        top_k: Some("top_k"),
        top_k_off: Some(-1),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: ThinkingParam::ChatTemplateKwargs,
        history: HistoryRules::ReasoningOfLoop,
        ..GENERIC
    },
    Profile {
        name: "tgi",
        ignores_model: true,
        may_match_list: may_be_tgi,
        needs_unsigned_seed: true,
        needs_top_p_below_one: true,
        needs_positive_top_p: true,
        penalties: &["frequency_penalty"],
        uses_tgi_grammar: true,
        logprobs: LogprobsParam::FlagAndCount(5),
        fim: FimEndpoint::CompletionsPrompt,
        details_probe: Some(DetailsProbe::TgiInfo),
        ..GENERIC
    },
    Profile {
        name: "together",
        hosts: &["api.together.xyz", "api.together.ai"],
        matches_list: looks_like_together,
        logprobs: LogprobsParam::Count,
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: ThinkingParam::Together,
        ..GENERIC
    },
    Profile {
        name: "vllm",
        owners: &["vllm"],
        matches_list: looks_like_vllm,
        needs_positive_top_p: true,
        has_continue_final_message: true,
        max_stop_sequences: Some(4),
        top_k: Some("top_k"),
        top_k_off: Some(-1),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        fim: FimEndpoint::CompletionsPrompt,
        thinking: ThinkingParam::ChatTemplateKwargs,
        history: HistoryRules::ReasoningOfLoop,
        ..GENERIC
    },
    Profile {
        name: "xai",
        hosts: &["api.x.ai"],
        penalties: &[],
        fim: FimEndpoint::Unsupported,
        thinking: ThinkingParam::Unsupported,
        ..GENERIC
    },
    Profile {
        name: "zai",
        hosts: &["api.z.ai", "open.bigmodel.cn"],
        thinking: ThinkingParam::ThinkingType,
        ..GENERIC
    },
];

/// True if there are entries and `test` holds for each.
fn all_entries(list: &Value, test: impl Fn(&Value) -> bool) -> bool {
    list["data"].as_array().is_some_and(|list| !list.is_empty() && list.iter().all(test))
}

fn has_all(entry: &Value, members: &[&str]) -> bool {
    members.iter().all(|name| entry.get(name).is_some())
}

/// The time of creation that LiteLLM tells of every model (`DEFAULT_MODEL_CREATED_AT_TIME`).
const LITELLM_CREATED: u64 = 1_677_610_602;

fn may_be_litellm(list: &Value) -> bool {
    all_entries(list, |entry| entry["created"] == LITELLM_CREATED && entry["owned_by"] == "openai")
}

/// llama.cpp tells facts of the file (tools/server/README.md, `GET /v1/models`).
fn looks_like_llamacpp(list: &Value) -> bool {
    all_entries(list, |entry| has_all(&entry["meta"], &["n_vocab", "n_ctx_train", "n_params"]))
}

/// vLLM tells a length and permissions of an old form of OpenAI's list (`ModelCard`).
fn looks_like_vllm(list: &Value) -> bool {
    all_entries(list, |entry| {
        let permission = entry["permission"][0]["id"].as_str();
        has_all(entry, &["root", "max_model_len"])
            && permission.is_some_and(|id| id.starts_with("modelperm-"))
    })
}

/// SGLang's list is vLLM's without permissions.
fn looks_like_sglang(list: &Value) -> bool {
    all_entries(list, |entry| {
        has_all(entry, &["root", "max_model_len"])
            && entry.get("permission").is_none()
            && entry["owned_by"] != "vllm"
    })
}

/// An array without an enclosing object, whose entries have a type and an organization.
fn looks_like_together(list: &Value) -> bool {
    let first = list.as_array().and_then(|list| list.first());
    first.is_some_and(|entry| {
        entry["type"].is_string()
            && ["display_name", "organization", "pricing"].iter().any(|it| entry.get(it).is_some())
    })
}

/// TGI lists one model, with its id as the owner.
fn may_be_tgi(list: &Value) -> bool {
    match list["data"].as_array().map(Vec::as_slice) {
        Some([only]) => {
            only["id"].is_string() && only["owned_by"] == only["id"] && only["created"] == 0
        }
        _ => false,
    }
}

/// LocalAI's entries have an id and `object` only.
fn may_be_localai(list: &Value) -> bool {
    let bare = |entry: &Value| {
        entry["object"] == "model" && entry.as_object().is_some_and(|entry| entry.len() == 2)
    };
    list["data"].as_array().is_some_and(|list| !list.is_empty() && list.iter().all(bare))
}
