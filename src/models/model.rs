//! One model of the upstream, and the facts known about it.
//!
//! The facts come from the upstream's model list (`list`), from further endpoints (`probes`) and from
//! the table of well-known models; `render` converts them to Ollama's responses. Pure: times and the
//! time zone are passed in. Invariant: a value that is unknown gets a stable substitute wherever
//! clients require one.

pub use crate::backends::capabilities::Capabilities;
pub use crate::backends::thinking_modes::ThinkingModes;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::wire::digest::sha256_hex;
use crate::backends::{fim_prompts, known_models};
use crate::observe::timestamp;

/// The context length shown for a model of unknown context length, in tokens; VS Code assumes the
/// same.
pub const DEFAULT_CONTEXT_LENGTH: u64 = 32_768;

/// The smallest context length that Ollama allocates, in tokens.
const MIN_CONTEXT_LENGTH: u64 = 4;

/// One model as the upstream lists it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The upstream's id, unchanged.
    pub id: String,
    /// Further names that the upstream accepts.
    pub aliases: Vec<String>,
    /// `owned_by`.
    pub owner: String,
    /// `created` in seconds since 1970; `None` if the server sends the time of the request.
    pub created: Option<u64>,
    /// Context length in tokens.
    pub context_length: Option<u64>,
    /// Dimensions of an embedding.
    pub embedding_length: Option<u64>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Number of parameters.
    pub parameter_count: Option<u64>,
    /// The number of parameters as text, such as `9B`.
    pub parameter_size: Option<String>,
    /// Quantization, such as `Q4_K_M`.
    pub quantization: Option<String>,
    /// Model family, such as `llama`.
    pub family: Option<String>,
    /// File format, such as `gguf`.
    pub format: Option<String>,
    /// Capabilities as the server tells them; an absent one is a reason to reject a request.
    pub capabilities: Capabilities,
    /// Capabilities from the table of well-known models, for what the server does not tell: shown to
    /// clients, never a reason to reject a request.
    pub assumed: Capabilities,
    /// Which values of `think` it takes, as far as is known.
    pub thinking: Option<Arc<ThinkingModes>>,
    /// The entry in `/api/tags` of an Ollama, as it is written there.
    pub own_tag: Option<Arc<OwnTag>>,
}

/// An entry of an Ollama's `/api/tags`.
#[derive(Debug, PartialEq)]
pub struct OwnTag {
    /// Its JSON.
    pub json: Box<str>,
    /// Its `modified_at`.
    pub modified_at: Option<SystemTime>,
}

/// The facts about the proxy that rendered models depend on.
#[derive(Clone, Copy, Debug)]
pub struct RenderContext<'a> {
    /// The upstream's base URL; part of the digest.
    pub base_url: &'a str,
    /// When the process started; replaces an unknown `modified_at`.
    pub started_at: SystemTime,
    /// The context length of models of unknown context length, in tokens.
    pub default_context_length: u64,
    /// The local time zone's offset from UTC at a time, in seconds: Ollama shows local times.
    pub utc_offset: fn(SystemTime) -> i32,
}

impl RenderContext<'_> {
    /// Formats a time in the local time zone.
    pub fn format_local_time(&self, time: SystemTime) -> String {
        timestamp::to_rfc3339_with_offset(time, (self.utc_offset)(time))
    }
}

impl Model {
    /// A model that no list contains.
    pub fn from_id(id: &str) -> Self {
        let capabilities = Capabilities::from_id(id);
        let mut model = Self { id: id.to_owned(), capabilities, ..Self::default() };
        model.fill_defaults();
        model
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.parameter_size, &self.quantization, &self.family, &self.format];
        let texts = texts.into_iter().flatten().chain([&self.id, &self.owner]).chain(&self.aliases);
        let tag = self.own_tag.as_ref().map_or(0, |tag| tag.json.len());
        size_of::<Self>() + tag + texts.map(|text| text.len() + size_of::<String>()).sum::<usize>()
    }

    /// The capabilities under Ollama's names, assumed ones included.
    pub fn capability_names(&self) -> Vec<&'static str> {
        self.capabilities.or(&self.assumed).to_names()
    }

    /// Which values of `think` the model takes; `None` for one that does not think.
    pub fn thinking_modes(&self) -> Option<&Arc<ThinkingModes>> {
        let thinks = self.capabilities.or(&self.assumed).thinking == Some(true);
        self.thinking.as_ref().filter(|_| thinks)
    }

    /// Fills unknown facts.
    pub(super) fn merge_missing(&mut self, facts: &Self) {
        self.context_length = self.context_length.or(facts.context_length);
        self.embedding_length = self.embedding_length.or(facts.embedding_length);
        self.size = self.size.or(facts.size);
        self.parameter_count = self.parameter_count.or(facts.parameter_count);
        for (own, other) in [
            (&mut self.parameter_size, &facts.parameter_size),
            (&mut self.quantization, &facts.quantization),
            (&mut self.family, &facts.family),
            (&mut self.format, &facts.format),
        ] {
            *own = own.take().or_else(|| other.clone());
        }
        self.capabilities = self.capabilities.or(&facts.capabilities);
        self.thinking = self.thinking.take().or_else(|| facts.thinking.clone());
        self.own_tag = facts.own_tag.clone().or(self.own_tag.take());
    }

    /// Fills unknown facts from the table of well-known models. The table's capabilities are only
    /// assumed, except for embedding models, which are not to receive prompts.
    pub(super) fn fill_defaults(&mut self) {
        self.fill_known_facts();
        // At an upstream without `suffix`, the prompt of the family does it.
        let has_prompt = fim_prompts::is_known(&self.id).then_some(true);
        self.assumed.insert = self.assumed.insert.or(has_prompt);
        self.thinking =
            self.thinking.take().or_else(|| ThinkingModes::from_id(&self.id).map(Arc::new));
        let thinks = self.thinking.is_some().then_some(true);
        self.assumed.thinking = self.assumed.thinking.or(thinks);
    }

    fn fill_known_facts(&mut self) {
        let Some(known) = known_models::find(&self.id) else { return };
        self.context_length = self.context_length.or(known.context_length);
        self.embedding_length = self.embedding_length.or(known.embedding_length);
        self.family = self.family.take().or_else(|| Some(known.family.to_owned()));
        self.assumed = known.capabilities;
        if known.capabilities.embedding == Some(true) && self.capabilities.completion != Some(true)
        {
            self.capabilities.embedding = self.capabilities.embedding.or(Some(true));
        }
    }

    /// The time of creation, or the start of the process if that is unknown or later.
    pub fn modified_time(&self, context: &RenderContext<'_>) -> SystemTime {
        if let Some(modified_at) = self.own_tag.as_ref().and_then(|tag| tag.modified_at) {
            return modified_at;
        }
        // `None` for a number beyond the range of the system's clock.
        let time = |created| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(created));
        let created = self.created.and_then(time);
        created.filter(|created| *created < context.started_at).unwrap_or(context.started_at)
    }

    /// The allocated context length in tokens: `num_ctx` of the request, limited to what the model
    /// has.
    pub fn context_window(&self, context: &RenderContext<'_>, num_ctx: Option<u64>) -> u64 {
        match (num_ctx, self.context_length) {
            (Some(num_ctx), Some(own)) => num_ctx.max(MIN_CONTEXT_LENGTH).min(own),
            (Some(num_ctx), None) => num_ctx.max(MIN_CONTEXT_LENGTH),
            (None, own) => own.unwrap_or(context.default_context_length),
        }
    }

    /// SHA-256 of base URL, id and capabilities as 64 hexadecimal digits. Clients cache capabilities by
    /// digest, so it depends on them.
    pub(super) fn digest(&self, context: &RenderContext<'_>) -> String {
        let text =
            format!("{}\n{}\n{}", context.base_url, self.id, self.capability_names().join(","));
        sha256_hex(text.as_bytes())
    }
}

#[cfg(test)]
pub(super) const RENDER_CONTEXT: RenderContext<'_> = RenderContext {
    base_url: "http://127.0.0.1:8080/v1",
    started_at: SystemTime::UNIX_EPOCH,
    default_context_length: DEFAULT_CONTEXT_LENGTH,
    utc_offset: |_| 7200,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_64_hex_digits_stable_and_different() {
        let digest = |id: &str| Model::from_id(id).digest(&RENDER_CONTEXT);
        assert_eq!(digest("a").len(), 64);
        assert!(digest("a").bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        let sees = Model {
            capabilities: Capabilities { vision: Some(true), ..Capabilities::default() },
            ..Model::from_id("a")
        };
        assert_ne!(sees.digest(&RENDER_CONTEXT), digest("a"), "clients cache abilities by digest");
    }

    #[test]
    fn a_well_known_model_is_shown_as_such_and_refused_nothing() {
        let shown = |id: &str| Model::from_id(id).capability_names();
        assert_eq!(shown("gpt-4o"), ["completion", "tools", "vision"]);
        assert_eq!(shown("o3-mini"), ["completion", "tools", "thinking"]);
        assert_eq!(shown("o1-mini"), ["completion", "thinking"]);
        assert_eq!(shown("nobody-knows-this"), ["completion", "tools"]);
        for id in ["gpt-4o", "o1-mini", "llama2:7b", "gpt-3.5-turbo-instruct"] {
            assert_eq!(Model::from_id(id).capabilities, Capabilities::default(), "{id}");
        }
        let voyage = Model::from_id("voyage-3-large");
        assert_eq!(
            (voyage.capability_names(), voyage.capabilities.can_complete()),
            (vec!["embedding"], false)
        );
    }

    #[test]
    fn what_the_server_says_is_stronger_than_what_is_well_known() {
        let mut model = Model {
            id: "gpt-4o".into(),
            context_length: Some(4096),
            family: Some("mine".into()),
            capabilities: Capabilities { vision: Some(false), ..Capabilities::default() },
            ..Model::default()
        };
        model.fill_defaults();
        assert_eq!((model.context_length, model.family.as_deref()), (Some(4096), Some("mine")));
        assert_eq!(model.capability_names(), ["completion", "tools"]);
        let talks = Capabilities { completion: Some(true), ..Capabilities::default() };
        let mut model = Model { id: "bge-m3".into(), capabilities: talks, ..Model::default() };
        model.fill_defaults();
        assert_eq!(
            model.capability_names(),
            ["completion", "tools"],
            "its server says that it talks"
        );
    }

    #[test]
    fn a_time_that_no_clock_can_tell_is_none() {
        for created in [u64::MAX, i64::MAX.unsigned_abs(), u64::from(u32::MAX) << 8] {
            let model = Model { created: Some(created), ..Model::from_id("a") };
            assert_eq!(
                model.modified_time(&RENDER_CONTEXT),
                RENDER_CONTEXT.started_at,
                "{created}"
            );
        }
    }

    #[test]
    fn the_window_is_what_was_asked_for_within_what_there_is() {
        let check = |known: Option<u64>, asked: Option<u64>, expected: u64| {
            let model = Model { context_length: known, ..Model::from_id("a") };
            assert_eq!(
                model.context_window(&RENDER_CONTEXT, asked),
                expected,
                "{known:?} {asked:?}"
            );
        };
        check(None, None, DEFAULT_CONTEXT_LENGTH);
        check(Some(8192), None, 8192);
        check(Some(8192), Some(2048), 2048);
        check(Some(8192), Some(131_072), 8192);
        check(None, Some(131_072), 131_072);
        check(Some(8192), Some(0), 4);
    }
}
