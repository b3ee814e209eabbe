//! From a name in a request to the model that it means.
//!
//! A name means, in this order: a model of the configuration, a virtual model, a model of an upstream's list,
//! or a model that the list does not show (`upstream/router/candidates`). Source suffixes (`:cloud`, `:local`) and Ollama's grammar matter only for names that
//! neither the virtual models nor the list has. Never decides what a route does with an unknown name.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::{App, AppView, LoadOptions, ModelUse};
use crate::backends::names;
use crate::backends::names::SourceSuffix;
use crate::backends::profiles::{GENERIC, Profile};
use crate::error::{Error, Result};
use crate::models::catalog;
use crate::models::catalog::SharedModelList;
use crate::models::model::{Capabilities, Model, ThinkingModes};
use crate::models::virtual_model::VirtualModel;
use crate::translate::think::{self, ThinkMode};
use crate::upstream::router::candidates::{Candidate, Candidates};
use crate::upstream::router::slots::Slot;
use crate::upstream::{Trace, Upstream};

/// Ollama's sentence for a cloud model where the cloud is disabled.
const CLOUD_DISABLED: &str = "ollama cloud is disabled: remote model is unavailable";

/// The upstream's model that a name means.
pub(super) struct ResolvedModel {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The place of the request among those of the upstream. Taken by [`ResolvedModel::begin_use`].
    pub slot: Option<Slot>,
    /// The upstream's id.
    pub id: String,
    pub profile: &'static Profile,
    /// What it can do, as far as is known.
    pub capabilities: Capabilities,
    /// Its context length in tokens, as far as is known.
    pub context_length: Option<u64>,
    /// Which values of `think` it takes, as far as is known.
    pub thinking: Option<Arc<ThinkingModes>>,
    /// The name under which it counts as loaded: the id, or that of the virtual model. Taken by
    /// [`ResolvedModel::begin_use`].
    running_name: String,
    /// Whether the upstream has no such model and would answer all the same.
    is_missing: bool,
    /// Whether there was no list to look into.
    list_unavailable: bool,
}

impl ResolvedModel {
    /// Rejects a model that the upstream does not have, in the words of most routes; `name` is what
    /// the client sent.
    pub(super) fn check_exists(&self, name: &str) -> Result<()> {
        if self.is_missing { Err(Error::model_not_found(name)) } else { Ok(()) }
    }

    /// Looks the model up once more where there was no list and the upstream's first response has shown
    /// that it answers to any name; `requested_name` is what the client sent.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    pub(super) fn recheck(
        &self,
        app: AppView<'_>,
        requested_name: &str,
        virtual_model: Option<&VirtualModel>,
        trace: &mut Trace,
    ) -> Result<()> {
        let current = self.upstream.client.current_profile().filter(|_| self.list_unavailable);
        if !current.is_some_and(|profile| profile.ignores_model) {
            return Ok(());
        }
        let candidate = Candidate { upstream: self.upstream.clone(), name: self.id.clone() };
        app.resolve_at(&candidate, (virtual_model, false), trace).check_exists(requested_name)
    }

    /// Replaces a level of thinking by what the model takes for it. A model that does not think is not
    /// asked to: on routes that refuse no level, that is no error.
    pub(super) fn fit_think(&self, think: &mut Option<Value>) -> ThinkMode<'static> {
        let is_off = think::parse(think.as_ref()).is_ok_and(|think| think == ThinkMode::Off);
        if self.capabilities.thinking == Some(false) && !is_off {
            *think = None;
        }
        think::fit(think, self.thinking.as_deref());
        think::parse(think.as_ref()).unwrap_or_default().without_level()
    }

    /// Notes that the model was loaded, for how long and with which context length.
    pub(super) fn mark_loaded(&self, app: &App, load: LoadOptions) {
        app.running_models.mark_loaded(&self.running_name, load, SystemTime::now());
    }

    /// Notes that the model is in use until the returned value is dropped.
    pub(super) fn begin_use<'a>(&mut self, app: AppView<'a>, options: LoadOptions) -> ModelUse<'a> {
        let id = std::mem::take(&mut self.running_name);
        app.running_models.begin_use(&id, options, SystemTime::now());
        let (upstream, _slot) = (self.upstream.clone(), self.slot.take());
        ModelUse { app: app.state, id, was_answered: false, upstream, _slot }
    }
}

/// A model that exists.
pub(super) enum AnyModel {
    /// A model made with create or copy.
    Virtual(Arc<VirtualModel>),
    /// A model of the upstream.
    Upstream(Box<Model>),
}

impl AppView<'_> {
    /// Checks a model's name and notes it for the log; blanks around it do not count. For routes that
    /// leave source suffixes alone.
    pub(super) fn parse_full_model_name(
        &self,
        name: Option<&str>,
        trace: &mut Trace,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        let name = name.unwrap_or_default().trim();
        if name.is_empty() {
            return Err(missing());
        }
        self.check_use(name, trace)?;
        if let Err(error) = names::validate(name)
            && !self.is_listed(name, trace)
        {
            return Err(error);
        }
        name.clone_into(&mut trace.model);
        Ok(name.to_owned())
    }

    /// True if an upstream lists the model. The ids of a list may have any form.
    fn is_listed(&self, name: &str, trace: &Trace) -> bool {
        let Some(only) = self.router.only_upstream() else {
            return self.router.find_listed(name, trace).is_some();
        };
        let list = only.try_get_model_list(trace);
        list.is_some_and(|list| catalog::find_model(&list, name).is_some())
    }

    /// The model of the configuration, or made here, that a name means.
    pub(super) fn find_virtual(&self, name: &str) -> Option<Arc<VirtualModel>> {
        match self.router.find_configured(name) {
            Some(configured) => Some(configured.model.clone()),
            None => self.store.get(name),
        }
    }

    /// The name under which a model is found again: with the upstream that the client named, if there are
    /// several.
    pub(super) fn addressed_name<'n>(&self, name: &'n str, id: &'n str) -> &'n str {
        let names_upstream = name.split_once('/').is_some_and(|(upstream, rest)| {
            names::find_id([rest].into_iter(), id).is_some()
                && self.router.find_upstream(upstream).is_some()
        });
        if names_upstream && self.router.only_upstream().is_none() { name } else { id }
    }

    /// The models of upstreams that a name means.
    pub(super) fn candidates(
        &self,
        name: &str,
        virtual_model: Option<&VirtualModel>,
        trace: &Trace,
    ) -> Candidates {
        let Some(model) = virtual_model else { return self.router.candidates(name, trace) };
        // A model that was made of one of the configuration goes where that one goes.
        let configured = self.router.find_configured(&model.name);
        match configured.or_else(|| self.router.find_configured(&model.from)) {
            Some(configured) => self.router.targets(configured, trace),
            None => self.router.candidates(&model.from, trace),
        }
    }

    /// As [`AppView::parse_full_model_name`], and a source suffix does not count. There are no cloud models.
    pub(super) fn parse_model_name(
        &self,
        name: Option<&str>,
        trace: &mut Trace,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        let name = self.parse_full_model_name(name, trace, missing)?;
        let (bare, source) = names::split_source(&name).unwrap_or((&name, SourceSuffix::Cloud));
        if source == SourceSuffix::None && names::is_plausible(bare) {
            return Ok(name);
        }
        // An unusual name may be one of the upstream's.
        if self.find_virtual(&name).is_some() || self.is_listed(&name, trace) {
            return Ok(name);
        }
        let (bare, source) = names::split_source(&name)?;
        self.check_use(bare, trace)?;
        if source == SourceSuffix::Cloud {
            return Err(Error::Forbidden(CLOUD_DISABLED.into()));
        }
        names::validate(bare)?;
        if names::is_plausible(bare) || self.is_listed(bare, trace) {
            Ok(bare.to_owned())
        } else {
            Err(names::invalid_name_error())
        }
    }

    /// The model that a name means; a list without it is fetched again. A model that is running exists,
    /// although no list shows it.
    ///
    /// # Errors
    /// Those of the upstream, which a virtual model does not need.
    pub(super) fn find_model(&self, name: &str, trace: &mut Trace) -> Result<Option<AnyModel>> {
        if let Some(model) = self.find_virtual(name) {
            return Ok(Some(AnyModel::Virtual(model)));
        }
        let model = self.find_listed_model(name, trace)?.or_else(|| {
            let running = self.unlisted_running_models(&[]);
            catalog::find_model(&running, name).cloned()
        });
        Ok(model.map(|model| AnyModel::Upstream(Box::new(model))))
    }

    /// The upstream's model of a name, even if a virtual model hides it.
    ///
    /// # Errors
    /// Those of the upstream.
    pub(super) fn find_listed_model(&self, name: &str, trace: &mut Trace) -> Result<Option<Model>> {
        let model = match self.router.only_upstream() {
            None => {
                let model = self.router.find_listed(name, trace);
                if model.is_none() {
                    // Without any list, nothing is known.
                    self.router.merged_list(trace)?;
                }
                model
            }
            Some(only) => {
                let candidates = self.router.candidates(name, trace).list;
                let name = candidates.first().map_or("", |candidate| &candidate.name);
                let mut list = only.get_model_list(trace)?;
                if catalog::find_model(&list, name).is_none() {
                    // The model may be newer than the list.
                    list = only.refresh_model_list(trace)?;
                }
                catalog::find_model(&list, name).cloned()
            }
        };
        trace.known_model = model.as_ref().map(|model| model.id.clone());
        Ok(model)
    }

    /// The list of the models of upstreams to show. If no upstream has a list and others are known without
    /// it, which are configured, were made or are running, the list is empty.
    ///
    /// # Errors
    /// Those of the upstream.
    pub(super) fn list_for_display(&self, trace: &mut Trace) -> Result<SharedModelList> {
        let list = match self.router.only_upstream() {
            Some(only) => only.get_model_list(trace),
            None => self.router.merged_list(trace),
        };
        list.or_else(|error| {
            let is_configured = !self.router.models().is_empty();
            let knows_others = || {
                !self.store.snapshot().is_empty() || !self.unlisted_running_models(&[]).is_empty()
            };
            if !(is_configured || error.is_missing_endpoint() && knows_others()) {
                return Err(error);
            }
            log::warn!(
                "{} showing known models only, without the model list: {}",
                trace.request_id,
                error.log_text()
            );
            Ok(SharedModelList::default())
        })
    }

    /// The same list, as far as it is known or comes soon.
    pub(super) fn list_if_known(&self, trace: &Trace) -> Option<SharedModelList> {
        match self.router.only_upstream() {
            Some(only) => only.try_get_model_list(trace),
            None => self.router.merged_list(trace).ok(),
        }
    }

    /// The running models that the upstream's list does not show. The upstream has answered for them, so
    /// they exist as long as they count as loaded.
    pub(super) fn unlisted_running_models(&self, list: &[Model]) -> Vec<Model> {
        let running = self.running_models.list(SystemTime::now());
        let is_unlisted =
            |id: &str| self.find_virtual(id).is_none() && catalog::find_model(list, id).is_none();
        let unlisted = running.iter().filter(|(id, state)| state.was_answered && is_unlisted(id));
        unlisted.map(|(id, _)| Model::from_id(id)).collect()
    }

    /// As [`AppView::find_model`], but if the upstream has no list, any model that could be an upstream's
    /// counts as existing.
    ///
    /// # Errors
    /// Those of the upstream.
    pub(super) fn find_model_or_unlisted(
        &self,
        name: &str,
        trace: &mut Trace,
    ) -> Result<Option<AnyModel>> {
        self.find_model(name, trace).or_else(|error| {
            if !error.is_missing_endpoint() {
                return Err(error);
            }
            Ok(Some(AnyModel::Upstream(Box::new(self.unlisted_model(name, trace)))))
        })
    }

    /// The upstream's model of a name that cannot be looked up.
    pub(super) fn unlisted_model(&self, name: &str, trace: &mut Trace) -> Model {
        let resolved = self.resolve_first((name, None), trace);
        Model::from_id(resolved.as_ref().map_or(name, |resolved| &resolved.id))
    }

    /// The upstream's model below a virtual one, with what the configuration says of it; without a list,
    /// what its name tells.
    pub(super) fn find_base_model(&self, model: &VirtualModel, trace: &Trace) -> Model {
        if let Some(only) = self.router.only_upstream() {
            only.try_get_model_list(trace);
        }
        let candidates = self.candidates(&model.name, Some(model), trace).list;
        let listed = candidates.iter().find_map(Candidate::listed_model);
        let first = candidates.first().map_or(model.from.as_str(), |candidate| &candidate.name);
        let mut base = listed.unwrap_or_else(|| Model::from_id(first));
        if let Some(configured) = self.router.find_configured(&model.name) {
            configured.apply_to(&mut base);
        }
        base
    }

    /// The model of the first candidate of a name; `None` without one.
    pub(super) fn resolve_first(
        &self,
        (name, virtual_model): (&str, Option<&VirtualModel>),
        trace: &mut Trace,
    ) -> Option<ResolvedModel> {
        let candidates = self.candidates(name, virtual_model, trace).list;
        Some(self.resolve_at(candidates.first()?, (virtual_model, false), trace))
    }

    /// Finds the upstream's id for a candidate and the family that serves it; `virtual_model` is the virtual
    /// model that the client named, if there is one. With one upstream, the list is fetched only where it
    /// can change the request: for a name that ends in `:latest`, which may be part of the id or not, for
    /// parameters that only some families know, and for capabilities that only some models have. A name
    /// that no list contains is sent all the same, because lists are often incomplete, except to a family
    /// that would answer as if it had the model.
    pub(super) fn resolve_at(
        &self,
        candidate: &Candidate,
        (virtual_model, needs_profile): (Option<&VirtualModel>, bool),
        trace: &mut Trace,
    ) -> ResolvedModel {
        let (upstream, name) = (&candidate.upstream, candidate.name.as_str());
        let client = &upstream.client;
        upstream.relearn_if_due(trace);
        let configured = client.configured_profile;
        let cached = upstream.catalog.get_cached();
        let needs_list = names::strip_latest_tag(name).is_some()
            || (cached.is_none() && client.current_profile().is_some_and(|it| it.ignores_model))
            || (needs_profile && configured.is_none_or(|profile| profile.lists_capabilities));
        // A server of several models rejects a name that it does not have.
        let ignores_name = |list: &SharedModelList| {
            let profile = configured.or(list.profile_for(list.first()));
            list.len() == 1 && profile.is_some_and(|profile| profile.ignores_model)
        };
        // The cached list may be an old one.
        let may_be_old = |list: &SharedModelList| {
            ignores_name(list) && catalog::find_model(list, name).is_none()
        };
        let needs_list = needs_list || cached.as_ref().is_some_and(may_be_old);
        let list = match self.router.only_upstream() {
            Some(only) if needs_list => only.try_get_model_list(trace),
            // The lists of several upstreams were fetched where the name was looked up.
            _ => cached,
        };
        let found = list.as_deref().and_then(|list| catalog::find_model(list, name));
        // The name of a virtual model becomes a label with its first response, as any client can make one.
        trace.known_model = found.filter(|_| virtual_model.is_none()).map(|model| model.id.clone());
        let listed_profile = list.as_deref().and_then(|list| list.profile_for(found));
        let bare = names::strip_default_prefixes(name);
        let bare = names::strip_latest_tag(bare).unwrap_or(bare);
        // Ollama's own names have tags.
        let bare = if client.is_ollama() { name } else { bare };
        let id = found.map_or(bare, |model| &model.id).to_owned();
        let unlisted = found.is_none().then(|| upstream.catalog.unlisted.get(&id));
        let known = found.or(unlisted.as_deref());
        let mut resolved = ResolvedModel {
            upstream: upstream.clone(),
            slot: None,
            is_missing: found.is_none() && list.as_ref().is_some_and(ignores_name),
            list_unavailable: list.is_none(),
            running_name: virtual_model.map_or_else(|| id.clone(), |model| model.name.clone()),
            capabilities: known.map(|model| model.capabilities).unwrap_or_default(),
            context_length: found.and_then(|model| model.context_length),
            thinking: known.and_then(|model| model.thinking.clone()),
            id,
            profile: configured.or(listed_profile).unwrap_or(&GENERIC),
        };
        if let Some(model) = virtual_model.and_then(|it| self.router.find_configured(&it.name)) {
            resolved.capabilities = model.capabilities_over(resolved.capabilities);
            resolved.context_length = model.context_length.or(resolved.context_length);
        }
        resolved
    }

    /// Whether a model may exist: only a list without it says no, unless the model is running.
    pub(super) fn may_exist(
        &self,
        name: &str,
        virtual_model: Option<&VirtualModel>,
        trace: &mut Trace,
    ) -> bool {
        let Some(only) = self.router.only_upstream() else {
            return !self.candidates(name, virtual_model, trace).list.is_empty();
        };
        let candidates = self.candidates(name, virtual_model, trace).list;
        let Some(Candidate { name, .. }) = candidates.first() else { return false };
        let lacks = |list: &SharedModelList| catalog::find_model(list, name).is_none();
        match only.try_get_model_list(trace) {
            // The cached list may be an old one.
            Some(list) if lacks(&list) => {
                let is_running = || {
                    let running = self.unlisted_running_models(&list);
                    catalog::find_model(&running, name).is_some()
                };
                is_running() || !only.get_model_list(trace).is_ok_and(|list| lacks(&list))
            }
            _ => true,
        }
    }
}
