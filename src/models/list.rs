//! Parses an upstream's model list.
//!
//! A list is an object with `data` or `models`, or an array. The upstream family is recognised from
//! the list where possible. Never fetches anything. Invariant: an entry with an id of at most
//! 1,024 bytes is never dropped, and its original JSON text is kept for `/v1/models`.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;

use serde_json::Value;

use super::entry::{LIST_MEMBERS, entries, parse_model};
use super::model::Model;
use super::probes::ModelFacts;
use crate::api::openai::raw_object::{self, RawObject};
use crate::api::wire::json_cost;
use crate::backends::profiles::{self, DetailsProbe, FimEndpoint, Profile};
use crate::backends::{errors, fim_prompts};
use crate::error::{Error, Result};

/// The most models of a list, and the most bytes of its parsed form: a list beyond counts as none.
const MAX_MODELS: usize = 10_000;
const MAX_TREE_BYTES: usize = 64 << 20;

/// A model list and the upstream family that sent it.
#[derive(Debug, Default)]
pub struct ModelList {
    /// The models.
    pub models: Vec<Model>,
    /// The family, as far as the list or its response headers tell.
    pub profile: Option<&'static Profile>,
    /// True if `profile` applies to every model, whatever its owner.
    is_profile_certain: bool,
    /// A family to be confirmed by its [`DetailsProbe`].
    candidate_profile: Option<&'static Profile>,
    /// The JSON text of each entry by id.
    raw_entries: HashMap<String, String>,
}

impl ModelList {
    /// The model object of OpenAI's API: the entry as the upstream sent it, or a minimal object if the
    /// entry has no `id` member.
    pub fn openai_object(&self, id: &str) -> String {
        if let Some(entry) = self.raw_entries.get(id) {
            return entry.clone();
        }
        let id = raw_object::quote_json(id);
        format!("{{\"id\":{id},\"object\":\"model\",\"created\":0,\"owned_by\":\"\"}}")
    }

    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let entries = self.raw_entries.iter();
        // Each text is an allocation of its own, and a table is at least half full.
        let entry = 2 * size_of::<(String, String)>();
        let entries = entries.map(|(id, json)| id.len() + json.len() + entry);
        entries.sum::<usize>() + self.models.iter().map(Model::bytes).sum::<usize>()
    }

    /// Sets the family of the whole server, known from elsewhere than the entries.
    pub fn set_profile(&mut self, profile: &'static Profile) {
        (self.profile, self.is_profile_certain) = (Some(profile), true);
    }

    /// The family that serves a model: the server's if it is certain, otherwise that of the model's
    /// owner, since a gateway lists models of several families.
    pub fn profile_for(&self, model: Option<&Model>) -> Option<&'static Profile> {
        let owner = || profiles::find_by_owner(&model?.owner);
        self.profile.filter(|_| self.is_profile_certain).or_else(owner).or(self.profile)
    }

    /// A list of these models, of which nothing else is known.
    pub fn from_ids(ids: &[String]) -> Self {
        let models = ids.iter().map(|id| Model::from_id(id)).collect();
        Self { models, ..Self::default() }
    }

    /// The models of several lists, each id once.
    pub fn merge<'a>(lists: impl Iterator<Item = &'a Self>) -> Self {
        let (mut merged, mut known) = (Self::default(), HashSet::new());
        for list in lists {
            for model in list.iter().filter(|model| known.insert(model.id.clone())) {
                merged.models.push(model.clone());
                if let Some(entry) = list.raw_entries.get(&model.id) {
                    merged.raw_entries.insert(model.id.clone(), entry.clone());
                }
            }
        }
        merged
    }

    /// Keeps the models whose ids are wanted.
    #[must_use]
    pub fn filtered(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.models.retain(|model| is_wanted(&model.id));
        self
    }

    /// The endpoint that tells more about these models. An endpoint that describes a single model is
    /// not used for several: some servers would load each of them.
    pub fn details_probe(&self) -> Option<DetailsProbe> {
        let probe = self.profile.or(self.candidate_profile)?.details_probe?;
        let is_single = matches!(probe, DetailsProbe::LlamaCppProps | DetailsProbe::TgiInfo);
        (!is_single || self.models.len() == 1).then_some(probe)
    }

    /// Adds the facts from `details_probe`, which also confirm a candidate family.
    pub fn merge_facts(&mut self, facts: &ModelFacts) {
        if self.profile.is_none() {
            self.profile = self.candidate_profile;
        }
        facts.merge_into(&mut self.models);
    }

    /// Fills unknown facts from the table of well-known models.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        let fim = self.profile.map_or(FimEndpoint::CompletionsSuffix, |profile| profile.fim);
        for model in &mut self.models {
            model.fill_defaults();
            if !fim_prompts::is_possible(fim, &model.id) {
                // The model supports it, but its server has no endpoint for it.
                model.assumed.insert = None;
            }
        }
        self
    }
}

impl Deref for ModelList {
    type Target = [Model];

    fn deref(&self) -> &[Model] {
        &self.models
    }
}

/// Parses a list of any shape. Entries without an id are skipped.
///
/// # Errors
/// [`Error::UpstreamInBand`] if the body is an error, [`Error::UpstreamProtocol`] if it is neither an
/// error nor a list.
pub fn parse_list(body: &str) -> Result<ModelList> {
    if json_cost::parsed_bytes(body.as_bytes()) > MAX_TREE_BYTES {
        return Err(Error::upstream_protocol("the model list has too many values"));
    }
    let value: Value = serde_json::from_str(body)
        .map_err(|_| Error::upstream_protocol("the model list is not valid JSON"))?;
    let entries = entries(&value).ok_or_else(|| match &value {
        Value::Object(_) => errors::find_in_band_error(body).unwrap_or_else(|| {
            Error::upstream_protocol("the model list has neither \"data\" nor \"models\"")
        }),
        _ => Error::upstream_protocol("the model list is neither an array nor an object"),
    })?;
    if entries.len() > MAX_MODELS {
        return Err(Error::upstream_protocol("the model list has more than 10,000 models"));
    }
    let ollama_entries = value["models"].as_array().map_or(&[][..], Vec::as_slice);
    let models: Vec<_> =
        entries.iter().filter_map(|entry| parse_model(entry, ollama_entries)).collect();
    let by_owner = || models.iter().find_map(|model| profiles::find_by_owner(&model.owner));
    Ok(ModelList {
        profile: profiles::find_by_list(&value).or_else(by_owner),
        models,
        is_profile_certain: false,
        candidate_profile: profiles::find_candidate(&value),
        raw_entries: raw_entries(body, entries),
    })
}

/// The JSON text of each entry that has an `id` member.
fn raw_entries(body: &str, entries: &[Value]) -> HashMap<String, String> {
    let object = RawObject::parse(body);
    let texts = LIST_MEMBERS
        .iter()
        .find_map(|name| raw_object::parse_items(object.as_ref()?.get(name)?))
        .or_else(|| raw_object::parse_items(body))
        .unwrap_or_default();
    let ids = entries.iter().map(|entry| entry["id"].as_str());
    let with_text = ids.zip(texts).filter_map(|(id, text)| Some((id?.to_owned(), text.to_owned())));
    with_text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model::RENDER_CONTEXT;

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
        let insert = |owner: &str, id: &str| {
            let body = format!(r#"{{"data":[{{"id":"{id}","owned_by":"{owner}"}}]}}"#);
            let list = parse_list(&body).expect("a list").with_defaults();
            list[0].capability_names().contains(&"insert")
        };
        assert!(insert("me", "codestral") && insert("llamacpp", "codestral"));
        assert!(insert("me", "mamba-codestral"), "it may take a suffix");
        assert!(insert("vllm", "codestral") && !insert("vllm", "mamba-codestral"));
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
    fn lists_and_ids_are_bounded() {
        let list = |count: usize| {
            let entries: Vec<_> = (0..count).map(|n| format!("{{\"id\":\"m{n}\"}}")).collect();
            parse_list(&format!("[{}]", entries.join(",")))
        };
        assert_eq!(list(MAX_MODELS).map(|list| list.len()), Ok(MAX_MODELS));
        let told = |list: Result<ModelList>| list.expect_err("too large").message();
        assert!(told(list(MAX_MODELS + 1)).ends_with("has more than 10,000 models"));
        assert!(told(list(MAX_TREE_BYTES / 700)).ends_with("has too many values"));
        let (longest, longer) = ("x".repeat(1024), "x".repeat(1025));
        let body = format!(r#"[{{"id":"{longer}"}},{{"id":"{longest}","aliases":["{longer}"]}}]"#);
        assert_eq!(ids(&body), [longest]);
        assert!(parse_list(&body).expect("a list")[0].aliases.is_empty());
        let deep = format!("[{}{}]", "[".repeat(9000), "]".repeat(9000));
        assert!(told(parse_list(&deep)).ends_with("is not valid JSON"));
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
        check("<html>", 502, &format!("{protocol}the model list is not valid JSON"));
        check("7", 502, &format!("{protocol}the model list is neither an array nor an object"));
        let neither = "the model list has neither \"data\" nor \"models\"";
        check("{}", 502, &format!("{protocol}{neither}"));
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
