//! Reads an upstream's model list (openai-wire.md 2.1 to 2.3).
//!
//! Lists come as an object with `data` or `models`, or as a bare array; entries say much, little or
//! nothing, and what they say of numbers is believed only where it can be true. Never asks anybody.

use std::collections::HashMap;
use std::ops::Deref;

use serde_json::Value;
use serde_json::value::RawValue;

use super::model::{Capabilities, Model};
use super::probes::ModelFacts;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::backends::errors;
use crate::backends::profiles;
use crate::backends::profiles::{DetailsProbe, FimEndpoint, Profile};
use crate::error::{Error, Result};

/// Servers that stamp `created` with the time of the request (openai-wire.md 2.1).
const UNSTABLE_CREATED_OWNERS: &[&str] = &["llamacpp", "vllm", "sglang"];

/// A model list, and what it tells of the family that sent it.
#[derive(Debug, Default)]
pub struct ModelList {
    /// The models.
    pub models: Vec<Model>,
    /// The family, as far as the list or its head tells.
    pub profile: Option<&'static Profile>,
    /// Whether the family is known of the whole server, whatever owner a model names.
    is_profile_certain: bool,
    /// The family that it may be, if its side source answers.
    candidate_profile: Option<&'static Profile>,
    /// Each entry as the server wrote it.
    raw_entries: HashMap<String, Box<RawValue>>,
}

impl ModelList {
    /// These models of an unknown family.
    #[must_use]
    pub fn from_models(models: Vec<Model>) -> Self {
        Self { models, ..Self::default() }
    }

    /// A model as the server wrote it, or as OpenAI would where it wrote it in another form.
    #[must_use]
    pub fn openai_object(&self, id: &str) -> String {
        self.raw_entries.get(id).map_or_else(
            || {
                format!(
                    "{{\"id\":{},\"object\":\"model\",\"created\":0,\"owned_by\":\"\"}}",
                    raw_object::quote_json(id)
                )
            },
            |object| object.get().to_owned(),
        )
    }

    /// Makes the family of the whole server known, from elsewhere than the list itself.
    pub fn set_profile(&mut self, profile: &'static Profile) {
        (self.profile, self.is_profile_certain) = (Some(profile), true);
    }

    /// The family that serves a model: the server's, or that of the model's owner where a list has
    /// several.
    #[must_use]
    pub fn profile_for(&self, model: Option<&Model>) -> Option<&'static Profile> {
        let owner = || profiles::find_by_owner(&model?.owner);
        self.profile.filter(|_| self.is_profile_certain).or_else(owner).or(self.profile)
    }

    /// Whom to ask for more about these models. One who tells of the only model is not asked about
    /// several: that would make some servers load them all.
    #[must_use]
    pub fn details_probe(&self) -> Option<DetailsProbe> {
        let side = self.profile.or(self.candidate_profile)?.details_probe?;
        let of_one = matches!(side, DetailsProbe::LlamaCppProps | DetailsProbe::TgiInfo);
        (!of_one || self.models.len() == 1).then_some(side)
    }

    /// Adds what a side source told.
    pub fn merge_facts(&mut self, facts: &ModelFacts) {
        if self.profile.is_none() {
            self.profile = self.candidate_profile;
        }
        facts.merge_into(&mut self.models);
    }

    /// What nobody told is filled from the table of well-known models.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        let fills_in = self.profile.is_none_or(|profile| profile.fim != FimEndpoint::Unsupported);
        for model in &mut self.models {
            model.fill_defaults();
            if !fills_in {
                // The model could; its server has no way to ask for it.
                model.assumed.insert = None;
            }
        }
        self
    }
}

/// As a list of models, which it is to most.
impl Deref for ModelList {
    type Target = [Model];

    fn deref(&self) -> &[Model] {
        &self.models
    }
}

/// Reads a list in any of its shapes. Entries without an id are skipped.
///
/// # Errors
/// [`Error::UpstreamProtocol`] when it is no list, [`Error::UpstreamInBand`] when it is an error.
pub fn parse_list(body: &str) -> Result<ModelList> {
    let value: Value = serde_json::from_str(body)
        .map_err(|_| Error::upstream_protocol("a model list that is no JSON"))?;
    let entries = entries(&value).ok_or_else(|| match &value {
        Value::Object(_) => errors::find_in_band_error(body)
            .unwrap_or_else(|| Error::upstream_protocol("an object without a model list")),
        _ => Error::upstream_protocol("a model list that is no list"),
    })?;
    let ollama_entries = value["models"].as_array().map_or(&[][..], Vec::as_slice);
    let models: Vec<_> = entries.iter().filter_map(|it| parse_model(it, ollama_entries)).collect();
    let by_owner = || models.iter().find_map(|model| profiles::find_by_owner(&model.owner));
    let (profile, hint) =
        (profiles::find_by_list(&value).or_else(by_owner), profiles::find_candidate(&value));
    Ok(ModelList {
        models,
        profile,
        is_profile_certain: false,
        candidate_profile: hint,
        raw_entries: collect_raw_entries(body),
    })
}

/// The entries that have an id, as they are written.
fn collect_raw_entries(body: &str) -> HashMap<String, Box<RawValue>> {
    let whole = RawObject::parse(body);
    let members = ["data", "models"]
        .iter()
        .find_map(|name| raw_object::parse_items(whole.as_ref()?.get(name)?));
    let entries = members.or_else(|| raw_object::parse_items(body)).unwrap_or_default();
    let owned = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let read = |entry: &str| Some((RawObject::parse(entry)?.get_string("id")?, owned(entry)?));
    entries.into_iter().filter_map(read).collect()
}

/// The entries of a list: the whole, or its `data` or `models`.
pub(super) fn entries(list: &Value) -> Option<&[Value]> {
    let members = ["data", "models"].iter().find_map(|name| list[name].as_array());
    list.as_array().or(members).map(Vec::as_slice)
}

pub(super) fn parse_model(entry: &Value, ollama_entries: &[Value]) -> Option<Model> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("key")).or_else(|| text("name"))?;
    let owner = text("owned_by").unwrap_or_default();
    let created = entry["created"].as_u64().filter(|created| *created > 0);
    let meta = &entry["meta"];
    let ollama_entry =
        ollama_entries.iter().find(|other| other["name"] == id || other["model"] == id);
    let quantization = meta["ftype"].as_str().or_else(|| text("quantization"));
    Some(Model {
        id: id.to_owned(),
        aliases: strings(&entry["aliases"]),
        owner: owner.to_owned(),
        created: created.filter(|_| !UNSTABLE_CREATED_OWNERS.contains(&owner)),
        context_length: context_length(entry),
        embedding_length: meta["n_embd"].as_u64().filter(|length| *length > 0),
        size: meta["size"].as_u64().or_else(|| entry["size_bytes"].as_u64()),
        parameter_count: meta["n_params"].as_u64().filter(|count| *count > 0),
        parameter_size: text("params_string").map(str::to_owned),
        quantization: quantization
            .or_else(|| entry["quantization"]["name"].as_str())
            .map(str::to_owned),
        family: family(entry),
        format: text("compatibility_type").or_else(|| text("format")).map(str::to_owned),
        capabilities: Capabilities::from_entry(id, entry, ollama_entry),
        assumed: Capabilities::default(),
    })
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

/// The family, as LM Studio and OpenRouter name it (openai-wire.md 2.4).
fn family(entry: &Value) -> Option<String> {
    /// OpenRouter's words for tokenizers that name no family.
    const NON_FAMILIES: &[&str] = &["", "other", "router"];
    let names = [&entry["arch"], &entry["architecture"], &entry["architecture"]["tokenizer"]];
    let name = names.iter().find_map(|name| name.as_str())?.to_ascii_lowercase();
    (!NON_FAMILIES.contains(&name.as_str())).then_some(name)
}

/// The window, by the names that servers give it (openai-wire.md 2.2).
fn context_length(entry: &Value) -> Option<u64> {
    const PATHS: &[&[&str]] = &[
        // Where a model is loaded with a smaller window than it could have, that one counts.
        &["loaded_context_length"],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model::tests::RENDER_CONTEXT;

    fn ids(body: &str) -> Vec<String> {
        parse_list(body).expect("a list").iter().map(|model| model.id.clone()).collect()
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
    fn what_a_server_cannot_be_asked_for_is_not_claimed() {
        let insert = |owner: &str| {
            let body = format!(r#"{{"data":[{{"id":"codestral","owned_by":"{owner}"}}]}}"#);
            let list = parse_list(&body).expect("a list").with_defaults();
            list[0].capability_names().contains(&"insert")
        };
        assert!(insert("me") && insert("llamacpp"));
        assert!(!insert("vllm"));
    }

    #[test]
    fn a_list_of_several_owners_has_several_families() {
        let list = |known: Option<&str>| {
            let body = r#"{"data":[{"id":"a","owned_by":"vllm"},{"id":"b","owned_by":"llamacpp"},
                {"id":"c","owned_by":"me"}]}"#;
            let mut list = parse_list(body).expect("a list");
            known.and_then(profiles::find_by_name).into_iter().for_each(|it| list.set_profile(it));
            let names = list.iter().map(|model| list.profile_for(Some(model)).expect("known").name);
            let names: Vec<_> = names.collect();
            (names, list.profile_for(None).map(|profile| profile.name))
        };
        assert_eq!(list(None), (vec!["vllm", "llamacpp", "vllm"], Some("vllm")));
        assert_eq!(list(Some("litellm")), (vec!["litellm"; 3], Some("litellm")));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let check = |body: &str, status: u16, message: &str| {
            let error = parse_list(body).expect_err("no list");
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
        let model = parse_list(body).expect("a list").models.remove(0);
        assert_eq!(model.context_length, Some(4096));
        assert_eq!(model.created, None, "stamped with the time of the request");
        let tag = model.render_tag(&RENDER_CONTEXT);
        assert_eq!((tag.name.as_str(), tag.size), ("smollm2:135m", 144_811_008));
        assert_eq!(tag.details.details.parameter_size, "134.52M");
        assert_eq!(tag.details.embedding_length, Some(576));
    }
}
