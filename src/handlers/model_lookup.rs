//! From a name in a request to the model that it means (ollama-api.md 3).
//!
//! Three things can be meant, in this order: a virtual model, a model of the upstream's list, and a
//! model that the list does not show. Source suffixes and Ollama's grammar matter only for names that
//! none of the first two has. What a route does with an unknown name is its own affair.

use std::sync::Arc;

use super::{App, Context};
use crate::backends::names;
use crate::backends::names::Source;
use crate::error::{Error, Result};
use crate::models::catalog;
use crate::models::model::Model;
use crate::models::virtual_model::VirtualModel;
use crate::upstream::Trace;

/// A model that exists.
pub(super) enum Known {
    /// One that lives here, over this model of the upstream.
    Virtual(Arc<VirtualModel>),
    /// One of the upstream.
    Upstream(Box<Model>),
}

/// What Ollama says where a cloud model is to answer.
const NO_CLOUD: &str = "ollama cloud is disabled: remote model is unavailable";

impl Context<'_> {
    /// As [`App::name`].
    pub(super) fn name(
        &mut self,
        name: Option<&str>,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        self.app.name(name, self.trace, missing)
    }

    /// The same for routes that leave suffixes alone.
    pub(super) fn any_name(
        &mut self,
        name: Option<&str>,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        any_name(name, self.trace, missing)
    }
}

fn any_name(
    name: Option<&str>,
    trace: &mut Trace,
    missing: impl FnOnce() -> Error,
) -> Result<String> {
    let name = name.unwrap_or_default().trim();
    if name.is_empty() {
        return Err(missing());
    }
    names::check(name)?;
    name.clone_into(&mut trace.model);
    Ok(name.to_owned())
}

impl App {
    /// Checks a model's name and notes it for the log; blanks around it and a source suffix do not
    /// count. Cloud models there are none.
    pub(super) fn name(
        &self,
        name: Option<&str>,
        trace: &mut Trace,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        let name = any_name(name, trace, missing)?;
        let (bare, source) = names::source(&name).unwrap_or((&name, Source::Cloud));
        if source == Source::Unsaid && names::is_plausible(bare) {
            return Ok(name);
        }
        // Unusual names may be somebody's all the same.
        let list = self.any_list(trace);
        let listed = |name| list.as_ref().is_some_and(|list| catalog::find(list, name).is_some());
        if self.overlay(&name).is_some() || listed(&name) {
            return Ok(name);
        }
        let (bare, source) = names::source(&name)?;
        if source == Source::Cloud {
            return Err(Error::Forbidden { reason: NO_CLOUD.into() });
        }
        names::check(bare)?;
        if names::is_plausible(bare) || listed(bare) {
            Ok(bare.to_owned())
        } else {
            Err(names::invalid())
        }
    }

    /// The model of a name, after a fresh look at the list if the kept one is without it.
    ///
    /// # Errors
    /// Those of the upstream. A virtual model is found without it.
    pub(super) fn known(&self, name: &str, trace: &mut Trace) -> Result<Option<Known>> {
        if let Some(model) = self.overlay(name) {
            return Ok(Some(Known::Virtual(model)));
        }
        let model = self.listed(name, trace)?;
        Ok(model.map(|model| Known::Upstream(Box::new(model))))
    }

    /// The upstream's model of a name, whatever virtual model hides it.
    ///
    /// # Errors
    /// Those of the upstream.
    pub(super) fn listed(&self, name: &str, trace: &mut Trace) -> Result<Option<Model>> {
        let mut list = self.list(trace)?;
        if catalog::find(&list, name).is_none() {
            // It may be new: a miss is worth a fresh look.
            list = self.catalog.renew(|| self.client.list_models(trace))?;
        }
        Ok(catalog::find(&list, name).cloned())
    }

    /// The upstream's model below a virtual one, as far as it can be known quickly.
    pub(super) fn base(&self, model: &VirtualModel, trace: &Trace) -> Model {
        let list = self.any_list(trace);
        let listed = list.as_deref().and_then(|list| catalog::find(list, &model.from));
        listed.cloned().unwrap_or_else(|| Model::unlisted(&model.from))
    }
}
