//! Which models the client key of a request may use.
//!
//! A name is checked where a route reads it ([`AppView::parse_full_model_name`]), before anything is asked of
//! an upstream. What goes to an upstream as the client wrote it is looked through once more, because servers
//! differ in which of several names they take. Invariant: keys without names, and those that may use all
//! models, cost a comparison.

use super::{AppView, Context};
use crate::api::ollama::native::find_name;
use crate::api::openai::raw_object::collect_members;
use crate::error::{Error, Result};
use crate::upstream::Trace;

/// Members of a request that servers take models from, beside those that name fallbacks.
const MODEL_MEMBERS: &[&str] =
    &["model", "models", "model_list", "draft_model", "speculative_model"];

/// Members of `/api/create` that make a model of something else than another model.
const OTHER_SOURCES: &[&str] = &["files", "adapters", "modelfile", "path"];

impl AppView<'_> {
    /// Whether the key may use some models only.
    pub(super) fn limits_models(&self) -> bool {
        self.key.is_some_and(|key| key.limits_models())
    }

    /// Whether the key may use a model by this name.
    pub(super) fn may_use(&self, name: &str, trace: &Trace) -> bool {
        let Some(key) = self.key.filter(|key| key.limits_models()) else { return true };
        let is_upstream = |name: &str| self.router.find_upstream(name).is_some();
        if key.allows(name, &is_upstream) {
            return true;
        }
        // `lab/*` also means what only `lab` has, by its plain name.
        if !key.pattern_prefixes().any(is_upstream) || self.find_virtual(name).is_some() {
            return false;
        }
        let candidates = self.router.candidates(name.trim(), trace).list;
        !candidates.is_empty()
            && candidates
                .iter()
                .all(|it| key.allows(&format!("{}/{}", it.upstream.name(), it.name), &|_| false))
    }

    /// Whether the key may see what is about a model, by what is known without asking an upstream: its name, or
    /// the upstream and its id there.
    pub(super) fn may_see(&self, name: &str, (upstream, id): (&str, &str)) -> bool {
        let Some(key) = self.key.filter(|key| key.limits_models()) else { return true };
        let is_upstream = |name: &str| self.router.find_upstream(name).is_some();
        let is_there = !upstream.is_empty() && key.allows(&format!("{upstream}/{id}"), &|_| false);
        key.allows(name, &is_upstream) || is_there
    }

    /// Refuses a model that the key may not use, which the log names.
    ///
    /// # Errors
    /// [`Error::ModelNotAllowed`].
    pub(super) fn check_use(&self, name: &str, trace: &mut Trace) -> Result<()> {
        if self.may_use(name, trace) {
            return Ok(());
        }
        name.trim().clone_into(&mut trace.model);
        Err(Error::ModelNotAllowed(format!("model '{}' is not allowed for this key", name.trim())))
    }

    /// Refuses a request that is passed on and names a model that the key may not use in any place from
    /// which a server may take it.
    ///
    /// # Errors
    /// [`Error::ModelNotAllowed`].
    pub(super) fn check_members(&self, body: &[u8], trace: &mut Trace) -> Result<()> {
        if !self.limits_models() {
            return Ok(());
        }
        for (key, value) in collect_members(body) {
            let key = key.to_ascii_lowercase();
            if !MODEL_MEMBERS.contains(&key.as_str()) && !key.contains("fallback") {
                continue;
            }
            let names: Vec<String> = match serde_json::from_str(&value) {
                Ok(name) => vec![name],
                Err(_) if value == "null" => Vec::new(),
                Err(_) => serde_json::from_str(&value).map_err(|_| hidden_model())?,
            };
            names.iter().try_for_each(|name| self.check_use(name, trace))?;
        }
        Ok(())
    }

    /// The same for a form: it may name one model only.
    ///
    /// # Errors
    /// [`Error::ModelNotAllowed`].
    pub(super) fn check_form(&self, form: &[u8]) -> Result<()> {
        if !self.limits_models() {
            return Ok(());
        }
        // Also of a parameter whose name is written in capitals, and of one that is encoded (`name*`).
        let names_model = |at: &usize| {
            let rest = &form[at + 3..];
            let (rest, is_encoded) = match rest.strip_prefix(b"*") {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else { return false };
            let value = value.trim_ascii_start();
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            is_encoded || value.get(..5).is_some_and(|it| it.eq_ignore_ascii_case(b"model"))
        };
        // Not `filename`.
        let is_name = |at: &usize| {
            let is_whole = *at < 2 || !form[at - 2].is_ascii_alphanumeric();
            is_whole && form[at - 1..at + 3].eq_ignore_ascii_case(b"name")
        };
        let is_within = |at: &usize| *at > 0 && at + 3 < form.len();
        let places = memchr::memchr2_iter(b'a', b'A', form).filter(is_within);
        let count = places.filter(is_name).filter(names_model).count();
        if count > 1 { Err(hidden_model()) } else { Ok(()) }
    }
}

/// Refuses a request of Ollama's API whose members name a model that the key may not use.
///
/// # Errors
/// [`Error::ModelNotAllowed`].
pub(super) fn check_named(context: &mut Context<'_>, text: &str, keys: &[&str]) -> Result<()> {
    if !context.app.limits_models() {
        return Ok(());
    }
    match find_name(text.as_bytes(), keys) {
        Some((name, _)) => context.app.check_use(&name, context.trace),
        None => Ok(()),
    }
}

/// Refuses to make a model of one that the key may not use, or of a file, which may be any model.
///
/// # Errors
/// [`Error::ModelNotAllowed`].
pub(super) fn check_create(context: &mut Context<'_>, text: &str) -> Result<()> {
    if !context.app.limits_models() {
        return Ok(());
    }
    check_named(context, text, &["model", "name"])?;
    check_named(context, text, &["from"])?;
    let members = collect_members(text.as_bytes());
    let is_other = |key: &str| OTHER_SOURCES.iter().any(|it| key.eq_ignore_ascii_case(it));
    if members.iter().any(|(key, value)| is_other(key) && value != "null") {
        let text =
            "this key may use some models only: make models \"from\" one of these, not of files";
        return Err(Error::ModelNotAllowed(text.to_owned()));
    }
    Ok(())
}

/// Refuses blobs, of which any model may be made.
///
/// # Errors
/// [`Error::ModelNotAllowed`].
pub(super) fn check_blobs(context: &Context<'_>) -> Result<()> {
    if !context.app.limits_models() {
        return Ok(());
    }
    let text = "this key may use some models only: it cannot upload files of models";
    Err(Error::ModelNotAllowed(text.to_owned()))
}

fn hidden_model() -> Error {
    let text = "this key may use some models only: the request must name one model, as a text";
    Error::ModelNotAllowed(text.to_owned())
}
