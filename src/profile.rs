//! What each family of upstreams takes (openai-wire.md 0, 3.2 and 3.3), as one table.
//!
//! A family is recognised by the host of the base URL or by what its model list says; it never
//! changes what a request means, only under which names its parameters travel, and which are left
//! out because this family refuses or misreads them. An unknown upstream gets OpenAI's core and
//! nothing else. A new family is a new row.

/// How a family is told whether to reason (openai-wire.md 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Not known: only a level is passed on, by OpenAI's name.
    Unknown,
    /// It cannot be told.
    Silent,
    /// `reasoning_effort`, with words that depend on the model.
    OpenAi,
    /// `reasoning` with an effort.
    OpenRouter,
    /// `chat_template_kwargs`.
    Template,
    /// `thinking` with a type.
    DeepSeek,
    /// `reasoning_effort` and `reasoning_format`.
    Groq,
    /// `reasoning` with a switch.
    Together,
    /// `reasoning_effort`, with `none` for off.
    Gemini,
}

/// One row of the table.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// The family's name.
    pub name: &'static str,
    /// Host names, each matched as itself or as the end of a longer one after a dot.
    hosts: &'static [&'static str],
    /// Values of `owned_by` in the model list.
    owners: &'static [&'static str],
    /// The name of the token limit.
    pub max_tokens: &'static str,
    /// The name of `seed`.
    pub seed: &'static str,
    /// The name of `top_k`, where it is known.
    pub top_k: Option<&'static str>,
    /// What `top_k: 0` (off) becomes, where it can be said.
    pub top_k_off: Option<i64>,
    /// The name of `min_p`, where it is known.
    pub min_p: Option<&'static str>,
    /// The name of `repeat_penalty`, where it is known.
    pub repeat_penalty: Option<&'static str>,
    /// Whether llama.cpp's own parameters are known.
    pub llama: bool,
    /// How it is told whether to reason.
    pub thinking: Thinking,
    /// Whether `presence_penalty` and `frequency_penalty` mean what they should.
    pub penalties: bool,
    /// Whether JSON mode must be asked for in a message, too.
    pub json_word: bool,
    /// Whether plain JSON mode exists.
    pub json_object: bool,
    /// Whether `completions` needs a token limit to say more than a few words.
    pub completion_limit: bool,
    /// How the middle of a text is filled in.
    pub fill_in: FillIn,
    /// How many inputs one request for embeddings may have, as far as is known.
    pub embed_batch: usize,
    /// Whether its model list tells what each model can do, so that it is worth asking for.
    pub lists_abilities: bool,
    /// What it wants of earlier turns.
    pub history: History,
}

/// What a family wants of a conversation's earlier turns (openai-wire.md 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Nothing beyond OpenAI's rules; reasoning stays behind.
    Usual,
    /// The reasoning that led to a call, or it refuses the call.
    Reasoning,
    /// Ids of nine letters and digits, and no assistant's turn that holds nothing.
    ShortIds,
}

/// Where a family fills in the middle of a text, if it can (openai-wire.md 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillIn {
    /// Nowhere.
    Nowhere,
    /// At `completions`, by `suffix`.
    Suffix,
    /// At llama.cpp's own `/infill`, beside the base URL.
    Infill,
    /// At Mistral's `fim/completions`.
    Fim,
}

/// What an unknown upstream gets.
pub const GENERIC: Profile = Profile {
    name: "generic",
    hosts: &[],
    owners: &[],
    max_tokens: "max_tokens",
    seed: "seed",
    top_k: None,
    top_k_off: None,
    min_p: None,
    repeat_penalty: None,
    llama: false,
    thinking: Thinking::Unknown,
    penalties: true,
    json_word: false,
    json_object: true,
    completion_limit: true,
    fill_in: FillIn::Suffix,
    embed_batch: 256,
    lists_abilities: false,
    history: History::Usual,
};

/// The families. OpenAI first, then by alphabet.
const PROFILES: &[Profile] = &[
    Profile {
        name: "openai",
        hosts: &["api.openai.com", "openai.azure.com"],
        max_tokens: "max_completion_tokens",
        json_word: true,
        thinking: Thinking::OpenAi,
        ..GENERIC
    },
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
        thinking: Thinking::Gemini,
        ..GENERIC
    },
    Profile {
        name: "groq",
        hosts: &["api.groq.com"],
        max_tokens: "max_completion_tokens",
        fill_in: FillIn::Nowhere,
        thinking: Thinking::Groq,
        ..GENERIC
    },
    Profile {
        name: "llamacpp",
        owners: &["llamacpp"],
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
        json_object: false,
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
        name: "openrouter",
        hosts: &["openrouter.ai"],
        max_tokens: "max_completion_tokens",
        top_k: Some("top_k"),
        min_p: Some("min_p"),
        repeat_penalty: Some("repetition_penalty"),
        thinking: Thinking::OpenRouter,
        lists_abilities: true,
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
        name: "together",
        hosts: &["api.together.xyz", "api.together.ai"],
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
        penalties: false,
        fill_in: FillIn::Nowhere,
        thinking: Thinking::Silent,
        ..GENERIC
    },
];

/// The family that owns a host, given in lower case.
#[must_use]
pub fn by_host(host: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| {
        profile.hosts.iter().any(|known| {
            host.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    })
}

/// The family whose model lists name this owner.
#[must_use]
pub fn by_owner(owner: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.owners.contains(&owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_host_and_by_owner() {
        let host = |host: &str| by_host(host).map(|profile| profile.name);
        assert_eq!(host("api.openai.com"), Some("openai"));
        assert_eq!(host("my-resource.openai.azure.com"), Some("openai"));
        assert_eq!(host("notapi.openai.com"), None);
        assert_eq!(host("openrouter.ai"), Some("openrouter"));
        assert_eq!(host("127.0.0.1"), None);
        assert_eq!(by_owner("llamacpp").map(|profile| profile.name), Some("llamacpp"));
        assert_eq!(by_owner("somebody"), None);
    }

    #[test]
    fn no_name_is_claimed_twice() {
        let mut names: Vec<_> = PROFILES
            .iter()
            .flat_map(|profile| profile.hosts.iter().chain(profile.owners).chain([&profile.name]))
            .collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        // Three families' names are their owners' too: llamacpp, sglang, vllm.
        assert_eq!(names.len(), all - 3, "{names:?}");
    }
}
