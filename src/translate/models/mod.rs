//! An upstream's models as Ollama shows them (ollama-api.md 11, openai-wire.md 2).
//!
//! Here is what is known of a model; `list` reads it from an upstream's list, `abilities` says what
//! it can do, and `shown` makes Ollama's answers of it. What is unknown gets a stable stand-in that
//! clients can read, never an empty string where they insist on one.

mod abilities;
mod list;
mod shown;

pub use self::abilities::Abilities;
pub use self::list::read_list;
pub use self::shown::Asked;

use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};

use crate::clock;

/// The window told for a model whose upstream says nothing: what VS Code assumes, too.
pub const DEFAULT_CONTEXT_LENGTH: u64 = 32_768;

/// The smallest window that Ollama allocates (ollama-api.md 5.1).
const SMALLEST_WINDOW: u64 = 4;

/// One model as the upstream lists it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The upstream's id, verbatim.
    pub id: String,
    /// `owned_by`.
    pub owner: String,
    /// `created`, in seconds since 1970, where it can be trusted.
    pub created: Option<u64>,
    /// The window in tokens.
    pub context_length: Option<u64>,
    /// Numbers in an embedding.
    pub embedding_length: Option<u64>,
    /// Bytes.
    pub size: Option<u64>,
    /// Parameters.
    pub parameters: Option<u64>,
    /// The quantisation.
    pub quantization: Option<String>,
    /// What it can do.
    pub abilities: Abilities,
}

/// What the proxy itself adds to an entry.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The base URL; part of the digest.
    pub base: &'a str,
    /// When the process started; stands for an unknown `modified_at`.
    pub started: SystemTime,
    /// The window of models whose upstream says nothing.
    pub context_length: u64,
    /// The local zone's offset from UTC at a time, in seconds: Ollama shows times so (1.3).
    pub zone: fn(SystemTime) -> i32,
}

impl Setting<'_> {
    /// A time in the local zone.
    #[must_use]
    pub fn local(&self, time: SystemTime) -> String {
        clock::rfc3339_at(time, (self.zone)(time))
    }
}

impl Model {
    /// A model that no list shows.
    #[must_use]
    pub fn unlisted(id: &str) -> Self {
        Self { id: id.to_owned(), abilities: Abilities::of_unlisted(id), ..Self::default() }
    }

    /// When it was made, or when the process was started: Ollama lists the newest first.
    #[must_use]
    pub fn modified(&self, setting: &Setting<'_>) -> SystemTime {
        let created =
            self.created.map(|created| SystemTime::UNIX_EPOCH + Duration::from_secs(created));
        created.filter(|created| *created < setting.started).unwrap_or(setting.started)
    }

    /// The window that counts as allocated when `num_ctx` asked for one: as much as was asked for,
    /// and never more than the model has (ollama-api.md 5.1, 11.5).
    #[must_use]
    pub fn window(&self, setting: &Setting<'_>, num_ctx: Option<u64>) -> u64 {
        match (num_ctx, self.context_length) {
            (Some(asked), Some(most)) => asked.max(SMALLEST_WINDOW).min(most),
            (Some(asked), None) => asked.max(SMALLEST_WINDOW),
            (None, known) => known.unwrap_or(setting.context_length),
        }
    }

    /// 64 hex digits: SHA-256 of base URL and id, and of the capabilities, because a client caches
    /// those by digest (18.12).
    fn digest(&self, setting: &Setting<'_>) -> String {
        let text = format!("{}\n{}\n{}", setting.base, self.id, self.abilities.listed().join(","));
        sha256(text.as_bytes())
    }

    /// Clients want a size above 0.
    fn size(&self) -> u64 {
        self.size.unwrap_or(0).max(1)
    }
}

/// 64 hex digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::translate) const SETTING: Setting<'_> = Setting {
        base: "http://127.0.0.1:8080/v1",
        started: SystemTime::UNIX_EPOCH,
        context_length: DEFAULT_CONTEXT_LENGTH,
        zone: |_| 7200,
    };

    #[test]
    fn digests_are_64_hex_digits_stable_and_different() {
        let digest = |id: &str| Model::unlisted(id).digest(&SETTING);
        assert_eq!(digest("a").len(), 64);
        assert!(digest("a").bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        let sees = Model {
            abilities: Abilities { vision: Some(true), ..Abilities::default() },
            ..Model::unlisted("a")
        };
        assert_ne!(sees.digest(&SETTING), digest("a"), "clients cache abilities by digest");
    }

    #[test]
    fn the_window_is_what_was_asked_for_within_what_there_is() {
        let check = |known: Option<u64>, asked: Option<u64>, expected: u64| {
            let model = Model { context_length: known, ..Model::unlisted("a") };
            assert_eq!(model.window(&SETTING, asked), expected, "{known:?} {asked:?}");
        };
        check(None, None, DEFAULT_CONTEXT_LENGTH);
        check(Some(8192), None, 8192);
        check(Some(8192), Some(2048), 2048);
        check(Some(8192), Some(131_072), 8192);
        check(None, Some(131_072), 131_072);
        check(Some(8192), Some(0), 4);
    }
}
