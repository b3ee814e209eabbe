//! Renders a virtual model for `/api/tags`, `/api/ps` and `/api/show`, whose Modelfile would create
//! the model again.
//!
//! Fields that the virtual model does not set are those of its upstream model. Invariant: the digest
//! covers all fields, so it changes whenever the model does.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::VirtualModel;
use crate::api::ollama::response::{ListModelResponse, ProcessModelResponse, ShowResponse};
use crate::api::wire::digest::sha256_hex;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::models::model::{Model, RenderContext};
use crate::models::modelfile;
use crate::models::render::ShowOptions;
use crate::observe::timestamp;

impl VirtualModel {
    /// The time of creation.
    pub fn modified_time(&self) -> SystemTime {
        timestamp::parse_rfc3339(&self.modified_at).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// An entry of `/api/tags`; `base` is the upstream's model.
    pub fn render_tag(&self, base: &Model, context: &RenderContext<'_>) -> ListModelResponse {
        let mut tag = base.render_tag(context);
        tag.name.clone_from(&self.name);
        tag.model.clone_from(&self.name);
        tag.modified_at = context.format_local_time(self.modified_time());
        tag.digest = self.digest(&tag.digest);
        tag.details.details.parent_model = names::display_name(&self.from);
        tag
    }

    /// An entry of `/api/ps`; `base` is the upstream's model.
    pub fn render_process(
        &self,
        base: &Model,
        context: &RenderContext<'_>,
        expires_at: SystemTime,
        num_ctx: Option<u64>,
    ) -> ProcessModelResponse {
        let mut process = base.render_process(context, expires_at, num_ctx);
        process.name.clone_from(&self.name);
        process.model.clone_from(&self.name);
        process.digest = self.digest(&process.digest);
        process
    }

    /// The response of `/api/show`; `base` is the upstream's model.
    pub fn render_show(
        &self,
        base: &Model,
        context: &RenderContext<'_>,
        show_options: &ShowOptions<'_>,
    ) -> ShowResponse {
        let mut response = base.render_show(context, show_options);
        if !self.template.is_empty() {
            response.template.clone_from(&self.template);
        }
        if show_options.system.is_empty() {
            response.system.clone_from(&self.system);
        }
        response.modelfile = self.render_modelfile(&response.system, &show_options.options);
        response.license = self.license.join("\n");
        response.parameters = modelfile::render_parameters(&self.parameters);
        response.messages.clone_from(&self.messages);
        response.details.parent_model = names::display_name(&self.from);
        response.modified_at = context.format_local_time(self.modified_time());
        response.requires.clone_from(&self.requires);
        response
    }

    /// SHA-256 of the base model's digest and of all fields, as 64 hexadecimal digits.
    fn digest(&self, base: &str) -> String {
        let mut bytes = base.as_bytes().to_vec();
        ndjson::append(&mut bytes, self);
        sha256_hex(&bytes)
    }

    fn render_modelfile(&self, system: &str, options: &Map<String, Value>) -> String {
        let mut parameters = self.parameters.clone();
        parameters.extend(options.clone());
        let (from, system) = (names::display_name(&self.from), system.to_owned());
        modelfile::render(&Self { from, system, parameters, ..self.clone() })
    }
}
