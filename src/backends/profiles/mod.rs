//! What each family of upstreams takes and tells (openai-wire.md 0, 3.2 and 3.3).
//!
//! A family is recognised by the host of the base URL, by a header, or by what its model list says
//! and how it looks; it never changes what a request means, only under which names its parameters
//! travel, which are left out because this family refuses or misreads them, and who else is asked
//! about its models. An unknown upstream gets OpenAI's core and nothing else. Reasoning and timings
//! need no member here: every family's are read wherever they come (openai-wire.md 4.3, 9.2).
//! The families are rows of `table`; a new one is a new row there and a folder of golden files.

mod table;

use serde_json::Value;

pub use self::table::{GENERIC, PROFILES};

/// How a family is told whether to reason (openai-wire.md 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingParam {
    /// Not known: only a level is passed on, by OpenAI's name.
    Unknown,
    /// It cannot be told.
    Unsupported,
    /// `reasoning_effort`, with words that depend on the model.
    OpenAi,
    /// `reasoning` with an effort.
    OpenRouter,
    /// `chat_template_kwargs`.
    ChatTemplateKwargs,
    /// `thinking` with a type.
    DeepSeek,
    /// `reasoning_effort` and `reasoning_format`.
    Groq,
    /// `reasoning` with a switch.
    Together,
    /// `reasoning_effort`, with `none` for off.
    Gemini,
}

/// How a family is asked for log probabilities in a chat (openai-wire.md 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobsParam {
    /// By a flag, and the number of alternatives up to this one.
    FlagAndCount(usize),
    /// By the number alone.
    Count,
    /// It refuses to be asked.
    Unsupported,
}

/// What a family wants of a conversation's earlier turns (openai-wire.md 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRules {
    /// Nothing beyond OpenAI's rules; reasoning stays behind.
    Standard,
    /// The reasoning that led to a call, or it refuses the call.
    ReasoningWithCalls,
    /// Ids of nine letters and digits, and no assistant's turn that holds nothing.
    ShortCallIds,
}

/// Where a family fills in the middle of a text, if it can (openai-wire.md 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FimEndpoint {
    /// Nowhere.
    Unsupported,
    /// At `completions`, by `suffix`.
    CompletionsSuffix,
    /// At llama.cpp's own `/infill`, beside the base URL.
    LlamaCppInfill,
    /// At Mistral's `fim/completions`.
    MistralFim,
}

/// Who tells of a family's models what the list does not (openai-wire.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailsProbe {
    /// llama.cpp's `/props`.
    LlamaCppProps,
    /// LM Studio's own list.
    LmStudio,
    /// LiteLLM's table of models.
    LiteLlm,
    /// LocalAI's list with capabilities.
    LocalAi,
    /// TGI's `/info`.
    TgiInfo,
    /// OpenRouter's list of embedding models, which its main list leaves out.
    OpenRouterEmbeddings,
}

impl DetailsProbe {
    /// Where it is asked: below the base URL, or with a slash in front at the server's root. The
    /// first that answers is enough.
    #[must_use]
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::LlamaCppProps => &["/props"],
            Self::LmStudio => &["/api/v0/models"],
            Self::LiteLlm => &["/model/info", "model/info"],
            Self::LocalAi => &["models/capabilities"],
            Self::TgiInfo => &["/info"],
            Self::OpenRouterEmbeddings => &["embeddings/models"],
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Profile {
    /// The family's name, by which an operator may name it.
    pub name: &'static str,
    /// Host names, each matched as itself or as the end of a longer one after a dot.
    hosts: &'static [&'static str],
    /// Values of `owned_by` in the model list.
    owners: &'static [&'static str],
    /// Headers of its answers: how a name begins, in lower case, and how its value begins.
    headers: &'static [(&'static str, &'static str)],
    /// Whether a model list looks like this family's and like no other's.
    matches_list: fn(&Value) -> bool,
    /// Whether a model list may be this family's, if `side` answers as this family does.
    may_match_list: fn(&Value) -> bool,
    /// The name of the token limit.
    pub max_tokens: &'static str,
    /// The name of `seed`.
    pub seed: &'static str,
    /// Whether a seed must not be negative.
    pub needs_unsigned_seed: bool,
    /// Whether `top_p` must be below 1, which means "off" and is then left out.
    pub needs_top_p_below_one: bool,
    /// The name of `top_k`, where it is known.
    pub top_k: Option<&'static str>,
    /// What `top_k: 0` (off) becomes, where it can be said.
    pub top_k_off: Option<i64>,
    /// The name of `min_p`, where it is known.
    pub min_p: Option<&'static str>,
    /// The name of `repeat_penalty`, where it is known.
    pub repeat_penalty: Option<&'static str>,
    /// Whether llama.cpp's own parameters are known.
    pub takes_llamacpp_params: bool,
    /// How many stop sequences it takes, where there is a limit; the others are watched for.
    pub max_stop_sequences: Option<usize>,
    /// How it is told how long a model is to stay loaded, where it can be.
    pub ttl_param: Option<&'static str>,
    /// How it is told whether to reason.
    pub thinking: ThinkingParam,
    /// Which of `presence_penalty` and `frequency_penalty` mean what they should.
    pub penalties: &'static [&'static str],
    /// Whether JSON mode must be asked for in a message, too.
    pub needs_json_instruction: bool,
    /// Whether plain JSON mode exists.
    pub has_json_object: bool,
    /// Whether a format is a grammar of TGI's own shape.
    pub uses_tgi_grammar: bool,
    /// Whether `completions` needs a token limit to say more than a few words.
    pub needs_completion_limit: bool,
    /// How it is asked for log probabilities.
    pub logprobs: LogprobsParam,
    /// How the middle of a text is filled in.
    pub fim: FimEndpoint,
    /// How many inputs one request for embeddings may have, as far as is known.
    pub max_embed_inputs: usize,
    /// Whether its model list, or what is asked beside it, tells what each model can do, so that it
    /// is worth asking for.
    pub lists_capabilities: bool,
    /// Whether a server of one model answers to any name, so that only its list tells what it has
    /// (openai-wire.md 5.3).
    pub ignores_model: bool,
    /// Who else tells of its models.
    pub details_probe: Option<DetailsProbe>,
    /// What it wants of earlier turns.
    pub history: HistoryRules,
}

/// Names are unique, so they tell rows apart.
impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The family that owns a host, given in lower case.
#[must_use]
pub fn find_by_host(host: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| {
        profile.hosts.iter().any(|known| {
            host.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    })
}

/// The family whose model lists name this owner.
#[must_use]
pub fn find_by_owner(owner: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.owners.contains(&owner))
}

/// The family of this name, or the one that stands for none.
#[must_use]
pub fn find_by_name(name: &str) -> Option<&'static Profile> {
    let mut all = PROFILES.iter().chain([&GENERIC]);
    all.find(|profile| profile.name.eq_ignore_ascii_case(name))
}

/// All names that [`find_by_name`] knows.
#[must_use]
pub fn names() -> Vec<&'static str> {
    PROFILES.iter().chain([&GENERIC]).map(|profile| profile.name).collect()
}

/// The family that answers with one of these headers; names in lower case.
#[must_use]
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

/// The family whose model lists alone look like this one.
#[must_use]
pub fn find_by_list(list: &Value) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| (profile.matches_list)(list))
}

/// The family whose model lists may look like this one: worth asking its side source, whose answer
/// decides.
#[must_use]
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
        // Three families' names are their owners' too: llamacpp, sglang, vllm.
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
