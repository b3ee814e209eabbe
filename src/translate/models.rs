//! An upstream's model list to `/api/tags`, `/api/show` and `/api/ps` (ollama-api.md 11,
//! openai-wire.md 2).
//!
//! Lists come as an object with `data` or `models`, or as a bare array; entries say much, little or
//! nothing. What is unknown gets a stable stand-in that clients can read, never an empty string
//! where they insist on one.

use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use crate::clock;
use crate::error::{Error, Result};
use crate::names;
use crate::ollama::answer::{Details, Process, ShowAnswer, Tag, TagDetails};
use crate::upstream_error;

/// The window told for a model whose upstream says nothing: what VS Code assumes, too.
pub const DEFAULT_CONTEXT_LENGTH: u64 = 32_768;

/// What stands where a client wants a word and nothing is known.
const UNKNOWN: &str = "unknown";

/// Families whose name can be read in an id, the more telling first.
const FAMILIES: &[&str] = &[
    "smollm",
    "codellama",
    "tinyllama",
    "llama",
    "codestral",
    "devstral",
    "ministral",
    "mixtral",
    "mistral",
    "deepseek",
    "qwen",
    "gemma",
    "gemini",
    "granite",
    "claude",
    "command",
    "grok",
    "phi",
    "gpt",
    "yi",
    "glm",
    "kimi",
    "nemotron",
    "nomic",
    "bert",
    "bge",
    "text-embedding",
];

/// Servers that stamp `created` with the time of the request (openai-wire.md 2.1).
const UNSTABLE_CREATED: &[&str] = &["llamacpp", "vllm", "sglang"];

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
    /// Whether it makes embeddings and nothing else.
    pub embedding: bool,
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
}

/// Reads a list in any of its shapes. Entries without an id are skipped.
///
/// # Errors
/// [`Error::UpstreamProtocol`] when it is no list, [`Error::UpstreamInBand`] when it is an error.
pub fn read_list(body: &str) -> Result<Vec<Model>> {
    let value: Value =
        serde_json::from_str(body).map_err(|_| Error::protocol("a model list that is no JSON"))?;
    let entries = match &value {
        Value::Array(entries) => entries,
        Value::Object(members) => ["data", "models"]
            .iter()
            .find_map(|name| members.get(*name)?.as_array())
            .ok_or_else(|| match upstream_error::error_in(body) {
                Some(error) => error,
                None => Error::protocol("an object without a model list"),
            })?,
        _ => return Err(Error::protocol("a model list that is no list")),
    };
    Ok(entries.iter().filter_map(read_model).collect())
}

fn read_model(entry: &Value) -> Option<Model> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("key")).or_else(|| text("name"))?;
    let owner = text("owned_by").unwrap_or_default();
    let created = entry["created"].as_u64().filter(|created| *created > 0);
    let meta = &entry["meta"];
    let kind = text("type").or_else(|| text("mode")).unwrap_or_default();
    Some(Model {
        id: id.to_owned(),
        owner: owner.to_owned(),
        created: created.filter(|_| !UNSTABLE_CREATED.contains(&owner)),
        context_length: context_length(entry),
        embedding_length: meta["n_embd"].as_u64().filter(|length| *length > 0),
        size: meta["size"].as_u64().or_else(|| entry["size_bytes"].as_u64()),
        parameters: meta["n_params"].as_u64().filter(|count| *count > 0),
        quantization: meta["ftype"]
            .as_str()
            .or_else(|| entry["quantization"].as_str())
            .map(str::to_owned),
        embedding: kind.starts_with("embedding") || id.to_ascii_lowercase().contains("embed"),
    })
}

/// The window, by the names that servers give it (openai-wire.md 2.2).
fn context_length(entry: &Value) -> Option<u64> {
    const PATHS: &[&[&str]] = &[
        &["context_length"],
        &["max_model_len"],
        &["meta", "n_ctx"],
        &["meta", "n_ctx_train"],
        &["context_window"],
        &["max_context_length"],
        &["max_input_tokens"],
        &["top_provider", "context_length"],
    ];
    let at = |path: &&[&str]| path.iter().try_fold(entry, |value, name| value.get(name))?.as_u64();
    PATHS.iter().find_map(at).filter(|length| *length > 0)
}

impl Model {
    /// A model that no list shows.
    #[must_use]
    pub fn unlisted(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// An entry of `/api/tags`.
    #[must_use]
    pub fn tag(&self, setting: &Setting<'_>) -> Tag {
        let name = names::display(&self.id);
        Tag {
            model: name.clone(),
            name,
            modified_at: self.modified_at(setting),
            size: self.size(),
            digest: self.digest(setting),
            details: TagDetails {
                details: self.details(),
                context_length: self.context_length,
                embedding_length: self.embedding_length,
            },
            capabilities: self.capabilities(),
        }
    }

    /// An entry of `/api/ps`.
    #[must_use]
    pub fn process(&self, setting: &Setting<'_>, expires_at: SystemTime) -> Process {
        let name = names::display(&self.id);
        Process {
            model: name.clone(),
            name,
            size: self.size(),
            digest: self.digest(setting),
            details: self.details(),
            expires_at: clock::rfc3339(expires_at),
            size_vram: self.size(),
            context_length: self.context_length.unwrap_or(setting.context_length),
        }
    }

    /// The answer of `/api/show`; `requested` is the name that the client used, which VS Code shows
    /// to its user, and `system` replaces the (empty) system prompt.
    #[must_use]
    pub fn show(&self, setting: &Setting<'_>, requested: &str, system: &str) -> ShowAnswer {
        let details = self.details();
        ShowAnswer {
            license: String::new(),
            parameters: String::new(),
            messages: Vec::new(),
            modelfile: self.modelfile(system),
            template: TEMPLATE.to_owned(),
            system: system.to_owned(),
            model_info: self.model_info(setting, requested, &details.family),
            details,
            capabilities: self.capabilities(),
            modified_at: self.modified_at(setting),
        }
    }

    /// What it can do (11.6). An embedding model never claims completion. Tools are claimed where
    /// nothing is known: clients with tools show no other models (18.12).
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        if self.embedding { vec!["embedding"] } else { vec!["completion", "tools"] }
    }

    /// Newest first, as Ollama lists them.
    #[must_use]
    pub fn modified(&self, setting: &Setting<'_>) -> SystemTime {
        let created =
            self.created.map(|created| SystemTime::UNIX_EPOCH + Duration::from_secs(created));
        created.filter(|created| *created < setting.started).unwrap_or(setting.started)
    }

    fn modified_at(&self, setting: &Setting<'_>) -> String {
        clock::rfc3339(self.modified(setting))
    }

    /// 64 hex digits: SHA-256 of base URL and id, and of the capabilities, because a client caches
    /// those by digest (18.12).
    fn digest(&self, setting: &Setting<'_>) -> String {
        let text = format!("{}\n{}\n{}", setting.base, self.id, self.capabilities().join(","));
        sha256(text.as_bytes())
    }

    /// Clients want a size above 0.
    fn size(&self) -> u64 {
        self.size.unwrap_or(0).max(1)
    }

    fn details(&self) -> Details {
        let family = self.family();
        Details {
            parent_model: String::new(),
            format: "gguf".to_owned(),
            families: vec![family.clone()],
            family,
            parameter_size: self.parameter_size(),
            quantization_level: self.quantization_level(),
        }
    }

    /// The family, read from the id, or the id's own first word.
    fn family(&self) -> String {
        let id = self.id.to_ascii_lowercase();
        let last = id.rsplit('/').next().unwrap_or_default();
        let known = FAMILIES.iter().find(|family| last.contains(*family));
        let first = || last.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty());
        known.copied().or_else(first).unwrap_or(UNKNOWN).to_owned()
    }

    fn parameter_size(&self) -> String {
        #[allow(clippy::cast_precision_loss)] // One digit behind the point is shown.
        match self.parameters {
            Some(count) if count >= 1_000_000_000 => format!("{:.1}B", count as f64 / 1e9),
            Some(count) => format!("{:.2}M", count as f64 / 1e6),
            None => size_word(&self.id).unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }

    /// The quantisation, as listed or as it stands in the id.
    fn quantization_level(&self) -> String {
        let word = || {
            let words = self.id.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words.map(str::to_ascii_uppercase).find(|word| {
                let digits = word.strip_prefix("IQ").or_else(|| word.strip_prefix('Q'));
                digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                    || matches!(word.as_str(), "F16" | "BF16" | "F32" | "FP16" | "FP8" | "MXFP4")
            })
        };
        self.quantization.clone().or_else(word).unwrap_or_else(|| UNKNOWN.to_owned())
    }

    fn model_info(
        &self,
        setting: &Setting<'_>,
        requested: &str,
        family: &str,
    ) -> Map<String, Value> {
        let mut info = Map::new();
        info.insert("general.architecture".into(), family.into());
        info.insert("general.basename".into(), requested.into());
        if let Some(parameters) = self.parameters {
            info.insert("general.parameter_count".into(), parameters.into());
        }
        let window = self.context_length.unwrap_or(setting.context_length);
        info.insert(format!("{family}.context_length"), window.into());
        if let Some(length) = self.embedding_length {
            info.insert(format!("{family}.embedding_length"), length.into());
        }
        info
    }

    fn modelfile(&self, system: &str) -> String {
        let name = names::display(&self.id);
        let system = match system {
            "" => String::new(),
            text => format!("SYSTEM {text:?}\n"),
        };
        format!(
            "# Modelfile generated by \"ollama show\"\n\
             # To build a new Modelfile based on this, replace FROM with:\n\
             # FROM {name}\n\nFROM {name}\nTEMPLATE \"\"\"{TEMPLATE}\"\"\"\n{system}"
        )
    }
}

/// A stand-in for the template, which stays with the upstream: it says what goes in. Some clients
/// look for the word "tools" in it (18.12).
const TEMPLATE: &str = "{{ if .System }}{{ .System }}\n\n{{ end }}\
    {{ if .Tools }}# tools\n{{ .Tools }}\n\n{{ end }}{{ .Prompt }}";

/// 64 hex digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parameter size as it stands in an id, such as `8b` or `135M`.
fn size_word(id: &str) -> Option<String> {
    id.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').map(str::to_ascii_uppercase).find(
        |word| {
            let number = word.strip_suffix(['B', 'M']).unwrap_or_default();
            number.starts_with(|c: char| c.is_ascii_digit()) && number.parse::<f64>().is_ok()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Setting<'_> = Setting {
        base: "http://127.0.0.1:8080/v1",
        started: SystemTime::UNIX_EPOCH,
        context_length: DEFAULT_CONTEXT_LENGTH,
    };

    fn ids(body: &str) -> Vec<String> {
        read_list(body).expect("a list").into_iter().map(|model| model.id).collect()
    }

    #[test]
    fn lists_are_read_in_every_shape() {
        assert_eq!(ids(r#"{"object":"list","data":[{"id":"a"},{"id":"b/c:d"}]}"#), ["a", "b/c:d"]);
        assert_eq!(ids(r#"[{"id":"a"}]"#), ["a"]);
        assert_eq!(ids(r#"{"models":[{"key":"a"},{"name":"b"}]}"#), ["a", "b"]);
        assert_eq!(ids(r#"{"data":[{"id":"a"}],"models":[{"name":"x"}]}"#), ["a"]);
        assert_eq!(ids(r#"{"data":[{"id":5},{},{"id":""},null,{"id":"a","meta":null}]}"#), ["a"]);
        assert!(ids("[]").is_empty());
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let check = |body: &str, status: u16, message: &str| {
            let error = read_list(body).expect_err("no list");
            assert_eq!(
                (error.status(), error.message().as_str()),
                (Some(status), message),
                "{body}"
            );
        };
        let protocol = "invalid response from the upstream: ";
        check("<html>", 502, &format!("{protocol}a model list that is no JSON"));
        check("7", 502, &format!("{protocol}a model list that is no list"));
        check("{}", 502, &format!("{protocol}an object without a model list"));
        check(
            r#"{"error":"Unexpected endpoint or method. (GET /x)"}"#,
            502,
            "Unexpected endpoint or method. (GET /x)",
        );
    }

    #[test]
    fn what_a_list_says_is_kept() {
        let body = r#"{"data":[{"id":"smollm2:135m","owned_by":"llamacpp","created":5,"meta":
            {"n_ctx":4096,"n_ctx_train":8192,"n_params":134515008,"size":144811008,"n_embd":576}}]}"#;
        let model = read_list(body).expect("a list").remove(0);
        assert_eq!(model.context_length, Some(4096));
        assert_eq!(model.created, None, "stamped with the time of the request");
        let tag = model.tag(&SETTING);
        assert_eq!((tag.name.as_str(), tag.size), ("smollm2:135m", 144_811_008));
        assert_eq!(tag.details.details.parameter_size, "134.52M");
        assert_eq!(tag.details.embedding_length, Some(576));
    }

    #[test]
    fn details_are_read_from_the_id() {
        let check = |id: &str, family: &str, parameters: &str, quantization: &str| {
            let details = Model::unlisted(id).details();
            assert_eq!(
                (details.family.as_str(), details.parameter_size.as_str()),
                (family, parameters),
                "{id}"
            );
            assert_eq!(details.quantization_level, quantization, "{id}");
        };
        check("gpt-4o", "gpt", "unknown", "unknown");
        check("meta-llama/Llama-3.1-8B-Instruct", "llama", "8B", "unknown");
        check("Qwen2.5-0.5b-Q4_K_M.gguf", "qwen", "0.5B", "Q4_K_M");
        check("smollm2:135m", "smollm", "135M", "unknown");
        check("zebra-7", "zebra", "unknown", "unknown");
        check("7", "unknown", "unknown", "unknown");
    }

    #[test]
    fn digests_are_64_hex_digits_stable_and_different() {
        let digest = |id: &str| Model::unlisted(id).digest(&SETTING);
        assert_eq!(digest("a").len(), 64);
        assert!(digest("a").bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
    }

    #[test]
    fn embedding_models_never_claim_completion() {
        let embedding = |body: &str| read_list(body).expect("a list").remove(0).capabilities();
        assert_eq!(embedding(r#"[{"id":"text-embedding-3-small"}]"#), ["embedding"]);
        assert_eq!(embedding(r#"[{"id":"x","type":"embeddings"}]"#), ["embedding"]);
        assert_eq!(embedding(r#"[{"id":"gpt-4o"}]"#), ["completion", "tools"]);
    }

    #[test]
    fn show_names_what_clients_read() {
        let show = Model::unlisted("gpt-4o").show(&SETTING, "gpt-4o:latest", "Be \"brief\".");
        assert_eq!(show.model_info["general.architecture"], "gpt");
        assert_eq!(show.model_info["general.basename"], "gpt-4o:latest");
        assert_eq!(show.model_info["gpt.context_length"], DEFAULT_CONTEXT_LENGTH);
        assert!(show.modelfile.starts_with("# Modelfile generated by \"ollama show\"\n"));
        assert!(show.modelfile.ends_with("SYSTEM \"Be \\\"brief\\\".\"\n"));
    }
}
