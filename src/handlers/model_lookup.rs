//! From a name in a request to the model that it means (ollama-api.md 3).
//!
//! Three things can be meant, in this order: a virtual model, a model of the upstream's list, and a
//! model that the list does not show. Source suffixes and Ollama's grammar matter only for names that
//! none of the first two has. What a route does with an unknown name is its own affair.

use std::sync::Arc;

use super::{App, Context};
use crate::backends::names;
use crate::backends::names::SourceSuffix;
use crate::error::{Error, Result};
use crate::models::catalog;
use crate::models::model::Model;
use crate::models::virtual_model::VirtualModel;
use crate::upstream::Trace;

/// A model that exists.
pub(super) enum AnyModel {
    /// One that lives here, over this model of the upstream.
    Virtual(Arc<VirtualModel>),
    /// One of the upstream.
    Upstream(Box<Model>),
}

/// What Ollama says where a cloud model is to answer.
const CLOUD_DISABLED: &str = "ollama cloud is disabled: remote model is unavailable";

impl Context<'_> {
    /// As [`App::parse_model_name`].
    pub(super) fn parse_model_name(
        &mut self,
        name: Option<&str>,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        self.app.parse_model_name(name, self.trace, missing)
    }

    /// The same for routes that leave suffixes alone.
    pub(super) fn parse_full_model_name(
        &mut self,
        name: Option<&str>,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        parse_full_model_name(name, self.trace, missing)
    }
}

fn parse_full_model_name(
    name: Option<&str>,
    trace: &mut Trace,
    missing: impl FnOnce() -> Error,
) -> Result<String> {
    let name = name.unwrap_or_default().trim();
    if name.is_empty() {
        return Err(missing());
    }
    names::validate(name)?;
    name.clone_into(&mut trace.model);
    Ok(name.to_owned())
}

impl App {
    /// Checks a model's name and notes it for the log; blanks around it and a source suffix do not
    /// count. Cloud models there are none.
    pub(super) fn parse_model_name(
        &self,
        name: Option<&str>,
        trace: &mut Trace,
        missing: impl FnOnce() -> Error,
    ) -> Result<String> {
        let name = parse_full_model_name(name, trace, missing)?;
        let (bare, source) = names::split_source(&name).unwrap_or((&name, SourceSuffix::Cloud));
        if source == SourceSuffix::None && names::is_plausible(bare) {
            return Ok(name);
        }
        // Unusual names may be somebody's all the same.
        let list = self.try_get_model_list(trace);
        let listed =
            |name| list.as_ref().is_some_and(|list| catalog::find_model(list, name).is_some());
        if self.find_virtual_model(&name).is_some() || listed(&name) {
            return Ok(name);
        }
        let (bare, source) = names::split_source(&name)?;
        if source == SourceSuffix::Cloud {
            return Err(Error::Forbidden { reason: CLOUD_DISABLED.into() });
        }
        names::validate(bare)?;
        if names::is_plausible(bare) || listed(bare) {
            Ok(bare.to_owned())
        } else {
            Err(names::invalid_name_error())
        }
    }

    /// The model of a name, after a fresh look at the list if the kept one is without it.
    ///
    /// # Errors
    /// Those of the upstream. A virtual model is found without it.
    pub(super) fn find_model(&self, name: &str, trace: &mut Trace) -> Result<Option<AnyModel>> {
        if let Some(model) = self.find_virtual_model(name) {
            return Ok(Some(AnyModel::Virtual(model)));
        }
        let model = self.find_listed_model(name, trace)?;
        Ok(model.map(|model| AnyModel::Upstream(Box::new(model))))
    }

    /// The upstream's model of a name, whatever virtual model hides it.
    ///
    /// # Errors
    /// Those of the upstream.
    pub(super) fn find_listed_model(&self, name: &str, trace: &mut Trace) -> Result<Option<Model>> {
        let mut list = self.get_model_list(trace)?;
        if catalog::find_model(&list, name).is_none() {
            // It may be new: a miss is worth a fresh look.
            list = self.catalog.refresh(|| self.client.list_models(trace))?;
        }
        Ok(catalog::find_model(&list, name).cloned())
    }

    /// The upstream's model below a virtual one, as far as it can be known quickly.
    pub(super) fn find_base_model(&self, model: &VirtualModel, trace: &Trace) -> Model {
        let list = self.try_get_model_list(trace);
        let listed = list.as_deref().and_then(|list| catalog::find_model(list, &model.from));
        listed.cloned().unwrap_or_else(|| Model::from_id(&model.from))
    }
}
