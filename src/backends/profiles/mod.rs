//! Profiles of the known upstream families: which parameters each accepts, under which names, and
//! which endpoints tell more about its models.
//!
//! A family is recognised by the host of the base URL, by a response header, or by the owners and
//! the shape of its model list. A profile never changes the meaning of a request. An unknown
//! upstream receives only parameters of the OpenAI API reference. Reasoning and timings in responses
//! need no field here, because every family's form of them is always read.
//! To add a family, add a row to `table` and a folder of golden files.
//!
//! # Families
//!
//! `openai`, `azure`, `ark`, `dashscope`, `deepseek`, `gemini`, `groq`, `litellm`, `llamacpp`,
//! `lmstudio`, `localai`, `minimax`, `mistral`, `moonshot`, `ollama`, `openrouter`, `sglang`, `tgi`,
//! `together`, `vllm`, `xai`, `zai`, and `generic` for all others. `UPSTREAM_PROFILE` names the family explicitly.
//!
//! Only what a request asks for is sent: `num_predict` becomes `max_completion_tokens` for OpenAI
//! and `max_tokens` for llama.cpp; `top_k`, `min_p` and `repeat_penalty` are sent only to families
//! that know them.
//!
//! A model that the upstream does not list is requested all the same, because lists are often
//! incomplete. The exception are servers of one model that answer to any name
//! ([`Profile::ignores_model`]: llama.cpp, TGI): there the list decides.

mod table;

use serde_json::Value;

pub use self::table::{GENERIC, PROFILES};

/// The parameter that switches reasoning on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingParam {
    /// Unknown: a level is sent as `reasoning_effort`, and the model's name decides which switch is
    /// tried.
    Unknown,
    /// There is no such parameter.
    Unsupported,
    /// `reasoning_effort`, with values that depend on the model.
    OpenAi,
    /// `reasoning.effort`.
    OpenRouter,
    /// `chat_template_kwargs`.
    ChatTemplateKwargs,
    /// `thinking.type`.
    DeepSeek,
    /// `thinking.type`, for models that have a switch.
    ThinkingType,
    /// `thinking.type`, with `adaptive` for on.
    MiniMax,
    /// `enable_thinking`.
    EnableThinking,
    /// `reasoning_effort` and `reasoning_format`.
    Groq,
    /// `reasoning.enabled`.
    Together,
    /// `reasoning_effort`, with `none` for off.
    Gemini,
}

/// How log probabilities of a chat completion are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobsParam {
    /// `logprobs: true` and `top_logprobs`, at most this many.
    FlagAndCount(usize),
    /// The number of alternatives as `logprobs`.
    Count,
    /// The parameter is rejected.
    Unsupported,
}

/// Rules for the earlier messages of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRules {
    /// OpenAI's rules; reasoning is removed.
    Standard,
    /// An assistant message with tool calls must carry its reasoning.
    ReasoningWithCalls,
    /// The reasoning since the last question is sent to models that were trained to see it.
    ReasoningOfLoop,
    /// Tool call ids have nine letters and digits, and empty assistant messages are rejected.
    ShortCallIds,
}

/// The documents that parts of type `file` may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileParts {
    /// None.
    Unsupported,
    /// Documents that stand in the request.
    Data,
    /// The same, and documents by their address.
    DataAndUrl,
}

/// The endpoint that completes text between a prompt and a suffix (fill in the middle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FimEndpoint {
    /// None.
    Unsupported,
    /// `completions` with `suffix`.
    CompletionsSuffix,
    /// `completions` without `suffix`: the prompt is the one of the model's family.
    CompletionsPrompt,
    /// llama.cpp's `/infill` at the server's root.
    LlamaCppInfill,
    /// Mistral's `fim/completions`.
    MistralFim,
}

/// An endpoint that tells more about a family's models than the model list does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailsProbe {
    /// llama.cpp's `/props`.
    LlamaCppProps,
    /// LM Studio's `/api/v0/models`.
    LmStudio,
    /// LiteLLM's `/model/info`.
    LiteLlm,
    /// LocalAI's `models/capabilities`.
    LocalAi,
    /// TGI's `/info`.
    TgiInfo,
    /// OpenRouter's list of embedding models, which are missing in its model list.
    OpenRouterEmbeddings,
    /// Ollama's `/api/tags`.
    OllamaTags,
}

impl DetailsProbe {
    /// The paths to try in order until one responds: relative to the base URL, or with a leading
    /// slash relative to the server's root.
    #[must_use]
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::LlamaCppProps => &["/props"],
            Self::LmStudio => &["/api/v0/models"],
            Self::LiteLlm => &["/model/info", "model/info"],
            Self::LocalAi => &["models/capabilities"],
            Self::TgiInfo => &["/info"],
            Self::OpenRouterEmbeddings => &["embeddings/models"],
            Self::OllamaTags => &["/api/tags"],
        }
    }
}

/// What is known of one upstream family. Families are equal if their names are.
#[derive(Debug)]
pub struct Profile {
    /// The name, as accepted by the configuration.
    pub name: &'static str,
    /// Host names; subdomains match as well.
    hosts: &'static [&'static str],
    /// Values of `owned_by` in the model list.
    owners: &'static [&'static str],
    /// Response headers: prefixes of a name, in lower case, and of its value.
    headers: &'static [(&'static str, &'static str)],
    /// True if a model list has a shape that only this family sends.
    matches_list: fn(&Value) -> bool,
    /// True if a model list may be this family's, to be confirmed by `details_probe`.
    may_match_list: fn(&Value) -> bool,
    /// The name of the token limit.
    pub max_tokens: &'static str,
    /// The name of `seed`.
    pub seed: &'static str,
    /// True if negative seeds are rejected.
    pub needs_unsigned_seed: bool,
    /// True if `top_p` must be below 1; 1 means "off" and is not sent.
    pub needs_top_p_below_one: bool,
    /// True if `top_p` must be above 0.
    pub needs_positive_top_p: bool,
    /// True if `continue_final_message` makes the server continue an assistant's message at the end of
    /// a conversation.
    pub has_continue_final_message: bool,
    /// The name of `top_k`, if supported.
    pub top_k: Option<&'static str>,
    /// The value sent for `top_k: 0` (off); `None` if it is not sent.
    pub top_k_off: Option<i64>,
    /// The name of `min_p`, if supported.
    pub min_p: Option<&'static str>,
    /// The name of `repeat_penalty`, if supported.
    pub repeat_penalty: Option<&'static str>,
    /// True if llama.cpp's own sampling parameters are supported.
    pub takes_llamacpp_params: bool,
    /// The most stop sequences in a request; the proxy itself watches for further ones.
    pub max_stop_sequences: Option<usize>,
    /// The name of the parameter that sets how long a model stays loaded, if there is one.
    pub ttl_param: Option<&'static str>,
    /// How reasoning is switched.
    pub thinking: ThinkingParam,
    /// Which of `presence_penalty` and `frequency_penalty` are supported with OpenAI's meaning.
    pub penalties: &'static [&'static str],
    /// True if JSON mode requires the word "JSON" in a message.
    pub needs_json_instruction: bool,
    /// True if `response_format: json_object` is supported.
    pub has_json_object: bool,
    /// True if a response format is sent as TGI's `grammar` type.
    pub uses_tgi_grammar: bool,
    /// True if `completions` has a default token limit of a few words.
    pub needs_completion_limit: bool,
    /// How log probabilities are requested.
    pub logprobs: LogprobsParam,
    /// How text is completed between a prompt and a suffix.
    pub fim: FimEndpoint,
    /// The most inputs in one embeddings request.
    pub max_embed_inputs: usize,
    /// True if the model list or `details_probe` tells each model's capabilities, so that the list is
    /// fetched before a request that depends on them.
    pub lists_capabilities: bool,
    /// True if a server with one model accepts any model name, so that only its list can show that a
    /// model is missing.
    pub ignores_model: bool,
    /// The endpoint that tells more about the models.
    pub details_probe: Option<DetailsProbe>,
    /// Rules for the earlier messages of a conversation.
    pub history: HistoryRules,
    /// True if parts of messages, and tools, may have `cache_control`, which tells a model of Anthropic
    /// behind the upstream what to cache.
    pub takes_cache_marks: bool,
    /// Which documents a message may have as parts.
    pub file_parts: FileParts,
}

/// Compares names, which are unique.
impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The family of a host name in lower case.
pub fn find_by_host(host: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| {
        profile.hosts.iter().any(|known| {
            host.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    })
}

/// The family whose model lists have this `owned_by`.
pub fn find_by_owner(owner: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.owners.contains(&owner))
}

/// The family of this name, including [`GENERIC`]; case is ignored.
pub fn find_by_name(name: &str) -> Option<&'static Profile> {
    let mut all = PROFILES.iter().chain([&GENERIC]);
    all.find(|profile| profile.name.eq_ignore_ascii_case(name))
}

/// All names that [`find_by_name`] accepts.
pub fn names() -> Vec<&'static str> {
    PROFILES.iter().chain([&GENERIC]).map(|profile| profile.name).collect()
}

/// The family that sends one of these response headers; names are in lower case.
pub fn find_by_headers<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'static Profile> {
    let headers: Vec<_> = headers.collect();
    PROFILES.iter().find(|profile| {
        profile.headers.iter().any(|(name, value)| {
            headers.iter().any(|(found, text)| found.starts_with(name) && text.starts_with(value))
        })
    })
}

/// The family that alone sends model lists of this shape.
pub fn find_by_list(list: &Value) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| (profile.matches_list)(list))
}

/// The family that may have sent this model list; its [`DetailsProbe`] has to confirm it.
pub fn find_candidate(list: &Value) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| (profile.may_match_list)(list))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(profile: Option<&'static Profile>) -> Option<&'static str> {
        profile.map(|profile| profile.name)
    }

    #[test]
    fn families_are_known_by_host_and_by_owner() {
        let host = |host: &str| name(find_by_host(host));
        assert_eq!(host("api.openai.com"), Some("openai"));
        assert_eq!(host("my-resource.openai.azure.com"), Some("azure"));
        assert_eq!(host("notapi.openai.com"), None);
        assert_eq!(host("openrouter.ai"), Some("openrouter"));
        assert_eq!(host("127.0.0.1"), None);
        assert_eq!(name(find_by_owner("llamacpp")), Some("llamacpp"));
        assert_eq!(name(find_by_owner("organization-owner")), Some("lmstudio"));
        assert_eq!(find_by_owner("somebody"), None);
    }

    #[test]
    fn families_are_known_by_their_headers() {
        let headers = |name_of: &str, value: &str| {
            name(find_by_headers(
                [("content-type", "application/json"), (name_of, value)].into_iter(),
            ))
        };
        assert_eq!(headers("server", "llama.cpp"), Some("llamacpp"));
        assert_eq!(headers("server", "uvicorn"), None);
        assert_eq!(headers("x-litellm-version", "1.80.0"), Some("litellm"));
        assert_eq!(headers("x-litellm-call-id", ""), Some("litellm"));
        assert_eq!(headers("x-ratelimit-limit", "1"), None);
    }

    #[test]
    fn families_are_known_by_the_shape_of_their_lists() {
        let together = json!([{"id": "a/b", "type": "chat", "display_name": "B", "pricing": {}}]);
        assert_eq!(name(find_by_list(&together)), Some("together"));
        for other in [json!([]), json!([{"id": "a"}]), json!({"data": together}), json!("chat")] {
            assert_eq!(find_by_list(&other), None, "{other}");
        }
        let list = |entries: Value| name(find_by_list(&json!({"object": "list", "data": entries})));
        let served = json!({"id": "a", "object": "model", "created": 1, "owned_by": "us", "root": "a",
            "parent": null, "max_model_len": 2048});
        assert_eq!(list(json!([served])), Some("sglang"));
        let with = |member: &str, value: Value| {
            let mut entry = served.clone();
            entry[member] = value;
            entry
        };
        assert_eq!(list(json!([with("owned_by", json!("vllm"))])), None, "its owner tells");
        let permission = json!([{"id": "modelperm-1", "object": "model_permission"}]);
        assert_eq!(list(json!([with("permission", permission)])), Some("vllm"));
        let meta = json!({"n_vocab": 1, "n_ctx_train": 2, "n_embd": 3, "n_params": 4, "size": 5});
        let file = json!({"id": "a", "object": "model", "owned_by": "us", "meta": meta});
        assert_eq!(list(json!([file])), Some("llamacpp"));
        assert_eq!(list(json!([file, served])), None);
        let routed = json!({"id": "a/b", "architecture": {}, "top_provider": {}, "pricing": {}});
        assert_eq!(list(json!([routed])), Some("openrouter"));
        let groq = json!({"id": "a", "active": true, "public_apps": null, "context_window": 1});
        assert_eq!(list(json!([groq])), Some("groq"));
    }

    #[test]
    fn some_lists_are_a_reason_to_ask_further() {
        let list =
            |entries: Value| name(find_candidate(&json!({"object": "list", "data": entries})));
        let tgi = |owner: &str| json!([{"id": "a/b", "object": "model", "created": 0, "owned_by": owner}]);
        assert_eq!(list(tgi("a/b")), Some("tgi"));
        assert_eq!(list(tgi("a")), None);
        assert_eq!(list(json!([tgi("a/b")[0], tgi("a/b")[0]])), None, "it serves one model");
        let bare = json!({"id": "a", "object": "model"});
        assert_eq!(list(json!([bare, bare])), Some("localai"));
        assert_eq!(list(json!([bare, tgi("a/b")[0]])), None);
        assert_eq!(list(json!([{"id": "a"}])), None);
        assert_eq!(list(json!([])), None);
        let proxied =
            json!({"id": "a", "object": "model", "created": 1_677_610_602, "owned_by": "openai"});
        assert_eq!(list(json!([proxied, proxied])), Some("litellm"));
        let other = json!({"id": "b", "object": "model", "created": 1, "owned_by": "openai"});
        assert_eq!(list(json!([proxied, other])), None);
    }

    #[test]
    fn no_name_is_claimed_twice() {
        let mut claims: Vec<_> = PROFILES
            .iter()
            .flat_map(|profile| profile.hosts.iter().chain(profile.owners).chain([&profile.name]))
            .collect();
        claims.sort_unstable();
        let all = claims.len();
        claims.dedup();
        // The names of llamacpp, sglang and vllm are also their owners.
        assert_eq!(claims.len(), all - 3, "{claims:?}");
    }

    #[test]
    fn every_family_has_a_name_that_means_it() {
        for known in names() {
            assert_eq!(name(find_by_name(&known.to_uppercase())), Some(known));
        }
        assert_eq!(find_by_name("nonsense"), None);
        assert_eq!(find_by_name(""), None);
    }

    #[test]
    fn who_is_only_hinted_at_has_somebody_to_ask() {
        for profile in PROFILES {
            let hints = [
                json!({"data": [{"id": "a", "object": "model", "created": 0, "owned_by": "a"}]}),
                json!({"data": [{"id": "a", "object": "model"}]}),
            ];
            if hints.iter().any(profile.may_match_list) {
                assert!(profile.details_probe.is_some(), "{}", profile.name);
            }
        }
    }
}
