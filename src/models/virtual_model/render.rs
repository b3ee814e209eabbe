//! What clients see of a virtual model: its entry in `/api/tags` and `/api/ps`, and `/api/show` with
//! the Modelfile from which it could be made again (ollama-api.md 11.4 to 11.6).
//!
//! Everything that the model does not say itself is told of the upstream's model that it leads to.
//! The digest covers all that the model says, so that it changes whenever the model does.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::VirtualModel;
use crate::api::ollama::decode::GoString;
use crate::api::ollama::response::{ListModelResponse, ProcessModelResponse, ShowResponse};
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::models::model::{Model, RenderContext, ShowOptions, sha256_hex};
use crate::models::modelfile;
use crate::models::modelfile::Modelfile;
use crate::observe::timestamp;

impl VirtualModel {
    /// When it was made.
    #[must_use]
    pub fn modified_time(&self) -> SystemTime {
        timestamp::parse_rfc3339(&self.modified_at).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// An entry of `/api/tags`; `base` is the upstream's model.
    #[must_use]
    pub fn render_tag(&self, base: &Model, context: &RenderContext<'_>) -> ListModelResponse {
        let mut tag = base.render_tag(context);
        tag.name.clone_from(&self.name);
        tag.model.clone_from(&self.name);
        tag.modified_at = context.format_local_time(self.modified_time());
        tag.digest = self.digest(&tag.digest);
        tag.details.details.parent_model = names::display_name(&self.from);
        tag
    }

    /// An entry of `/api/ps`; the rest as in [`Model::render_process`].
    #[must_use]
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

    /// The answer of `/api/show`; `base` is the upstream's model.
    #[must_use]
    pub fn render_show(
        &self,
        base: &Model,
        context: &RenderContext<'_>,
        show_options: &ShowOptions<'_>,
    ) -> ShowResponse {
        let mut answer = base.render_show(context, show_options);
        if !self.template.is_empty() {
            answer.template.clone_from(&self.template);
        }
        if show_options.system.is_empty() {
            answer.system.clone_from(&self.system);
        }
        answer.modelfile = self.render_modelfile(&answer.system, &show_options.options);
        answer.license = self.license.join("\n");
        answer.parameters = modelfile::render_parameters(&self.parameters);
        answer.messages.clone_from(&self.messages);
        answer.details.parent_model = names::display_name(&self.from);
        answer.modified_at = context.format_local_time(self.modified_time());
        answer.requires.clone_from(&self.requires);
        answer
    }

    /// SHA-256 of the upstream's model and of everything laid over it, as 64 hex digits.
    fn digest(&self, base: &str) -> String {
        let mut bytes = base.as_bytes().to_vec();
        ndjson::append(&mut bytes, self);
        sha256_hex(&bytes)
    }

    fn render_modelfile(&self, system: &str, options: &Map<String, Value>) -> String {
        let from = names::display_name(&self.from);
        let mut parameters = self.parameters.clone();
        parameters.extend(options.clone());
        let messages = self.stored_messages().into_iter().map(|message| {
            let text = |text: Option<GoString<'_>>| text.unwrap_or_default().0.into_owned();
            (text(message.role), text(message.content))
        });
        Modelfile {
            name: &self.name,
            from: &from,
            template: &self.template,
            system,
            renderer: &self.renderer,
            parser: &self.parser,
            requires: &self.requires,
            parameters,
            license: &self.license,
            messages: messages.collect(),
        }
        .render()
    }
}
