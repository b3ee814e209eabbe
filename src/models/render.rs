//! Renders an upstream model for `/api/tags`, `/api/ps` and `/api/show` (Ollama docs, API).
//!
//! A string that the upstream does not provide is derived from the model's id, or is empty, and an
//! unknown size is 0, as in Ollama's entries of remote models: clients require the members, and show
//! what is in them. Never decides anything about a request.

use std::time::SystemTime;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::model::{Model, RenderContext, ThinkingModes};
use crate::api::ollama::response::{
    ListEntry, ListModelDetails, ListModelResponse, ModelDetails, ProcessModelResponse,
    ShowResponse,
};
use crate::backends::names;
use crate::models::modelfile;
use crate::models::virtual_model::VirtualModel;

/// Families that occur in ids, the more specific first.
const FAMILIES: &str = "smollm codellama tinyllama llama codestral devstral ministral mixtral \
    mistral deepseek qwen gemma gemini granite claude command grok phi gpt yi glm kimi nemotron \
    nomic bert bge text-embedding";

/// The parts of an `/api/show` request that change the response.
#[derive(Clone, Debug, Default)]
pub struct ShowOptions<'a> {
    /// The name that the client sent; VS Code shows it to its user.
    pub name: &'a str,
    /// Replaces the model's system prompt unless empty.
    pub system: &'a str,
    /// Parameters that override the model's in the Modelfile.
    pub options: Map<String, Value>,
}

impl Model {
    /// An entry of `/api/tags`; an Ollama's is shown as it is.
    pub fn list_entry(&self, context: &RenderContext<'_>) -> ListEntry<ListModelResponse> {
        let own = self.own_tag.as_ref().map(|tag| String::from(&*tag.json));
        match own.and_then(|json| RawValue::from_string(json).ok()) {
            Some(entry) => ListEntry::Passed(entry),
            None => ListEntry::Made(self.render_tag(context)),
        }
    }

    /// An entry of `/api/tags` as it is made here.
    pub fn render_tag(&self, context: &RenderContext<'_>) -> ListModelResponse {
        let name = names::display_name(&self.id);
        ListModelResponse {
            model: name.clone(),
            name,
            modified_at: context.format_local_time(self.modified_time(context)),
            size: self.size.unwrap_or(0),
            digest: self.digest(context),
            details: ListModelDetails {
                details: self.details(),
                context_length: self.context_length,
                embedding_length: self.embedding_length,
            },
            capabilities: self.capability_names(),
        }
    }

    /// An entry of `/api/ps`; `num_ctx` is that of the last request.
    pub fn render_process(
        &self,
        context: &RenderContext<'_>,
        expires_at: SystemTime,
        num_ctx: Option<u64>,
    ) -> ProcessModelResponse {
        let name = names::display_name(&self.id);
        ProcessModelResponse {
            model: name.clone(),
            name,
            size: self.size.unwrap_or(0),
            digest: self.digest(context),
            details: self.details(),
            expires_at: context.format_local_time(expires_at),
            size_vram: self.size.unwrap_or(0),
            context_length: self.context_window(context, num_ctx),
        }
    }

    /// The response of `/api/show`.
    pub fn render_show(
        &self,
        context: &RenderContext<'_>,
        show_options: &ShowOptions<'_>,
    ) -> ShowResponse {
        let details = self.details();
        ShowResponse {
            modelfile: self.render_modelfile(show_options),
            template: self.template(),
            system: show_options.system.to_owned(),
            model_info: self.model_info(context, show_options.name, &details.family),
            details,
            capabilities: self.capability_names(),
            thinking: self.thinking_modes().map(|modes| ThinkingModes::clone(modes)),
            modified_at: context.format_local_time(self.modified_time(context)),
            ..ShowResponse::default()
        }
    }

    fn details(&self) -> ModelDetails {
        let family = self.family();
        ModelDetails {
            parent_model: String::new(),
            format: self.format.clone().unwrap_or_else(|| "gguf".to_owned()),
            families: Some(&family).filter(|it| !it.is_empty()).cloned().into_iter().collect(),
            family,
            parameter_size: self.parameter_size(),
            quantization_level: self.quantization_level(),
        }
    }

    /// The family as listed, otherwise a known family in the id, otherwise the id's first word.
    fn family(&self) -> String {
        if let Some(family) = &self.family {
            return family.clone();
        }
        let id = self.id.to_ascii_lowercase();
        let last = id.rsplit('/').next().unwrap_or_default();
        let known = FAMILIES.split(' ').find(|family| last.contains(family));
        let first = || last.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty());
        known.or_else(first).unwrap_or_default().to_owned()
    }

    fn parameter_size(&self) -> String {
        #[allow(clippy::cast_precision_loss)] // Two decimals are shown at most.
        match self.parameter_count {
            Some(count) if count >= 1_000_000_000 => format!("{:.1}B", count as f64 / 1e9),
            Some(count) => format!("{:.2}M", count as f64 / 1e6),
            None => {
                let listed = self.parameter_size.clone();
                listed.or_else(|| size_from_id(&self.id)).unwrap_or_default()
            }
        }
    }

    /// The quantization as listed, otherwise as found in the id.
    fn quantization_level(&self) -> String {
        let from_id = || {
            let words = self.id.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words.map(str::to_ascii_uppercase).find(|word| {
                let digits = word.strip_prefix("IQ").or_else(|| word.strip_prefix('Q'));
                digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                    || matches!(word.as_str(), "F16" | "BF16" | "F32" | "FP16" | "FP8" | "MXFP4")
            })
        };
        self.quantization.clone().or_else(from_id).unwrap_or_default()
    }

    fn model_info(
        &self,
        context: &RenderContext<'_>,
        requested: &str,
        family: &str,
    ) -> Map<String, Value> {
        let mut info = Map::new();
        info.insert("general.architecture".into(), family.into());
        info.insert("general.basename".into(), requested.into());
        if let Some(parameters) = self.parameter_count {
            info.insert("general.parameter_count".into(), parameters.into());
        }
        let window = self.context_length.unwrap_or(context.default_context_length);
        info.insert(format!("{family}.context_length"), window.into());
        if let Some(length) = self.embedding_length {
            info.insert(format!("{family}.embedding_length"), length.into());
        }
        info
    }

    fn template(&self) -> String {
        let has_insert = self.capabilities.or(&self.assumed).insert == Some(true);
        // Some clients detect `insert` by it.
        TEMPLATE.to_owned() + if has_insert { "{{ .Suffix }}" } else { "" }
    }

    fn render_modelfile(&self, show_options: &ShowOptions<'_>) -> String {
        let name = names::display_name(&self.id);
        modelfile::render(&VirtualModel {
            from: name.clone(),
            name,
            template: self.template(),
            system: show_options.system.to_owned(),
            parameters: show_options.options.clone(),
            ..VirtualModel::default()
        })
    }
}

/// Replaces the real template, which only the upstream knows. Some clients look for `.Tools` to
/// detect tool support.
const TEMPLATE: &str = "{{ if .System }}{{ .System }}\n\n{{ end }}\
    {{ if .Tools }}# tools\n{{ .Tools }}\n\n{{ end }}{{ .Prompt }}";

/// The parameter size in an id, such as `8b` or `135M`, in upper case.
fn size_from_id(id: &str) -> Option<String> {
    id.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').map(str::to_ascii_uppercase).find(
        |word| {
            let number = word.strip_suffix(['B', 'M']).unwrap_or_default();
            number.starts_with(|c: char| c.is_ascii_digit()) && number.parse::<f64>().is_ok()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::model::{Capabilities, DEFAULT_CONTEXT_LENGTH};
    use super::*;
    use crate::models::model::RENDER_CONTEXT;

    #[test]
    fn details_are_read_from_the_id() {
        let check = |id: &str, family: &str, parameters: &str, quantization: &str| {
            let details = Model::from_id(id).details();
            assert_eq!(
                (details.family.as_str(), details.parameter_size.as_str()),
                (family, parameters),
                "{id}"
            );
            assert_eq!(details.quantization_level, quantization, "{id}");
        };
        check("gpt-4o", "gpt", "", "");
        check("meta-llama/Llama-3.1-8B-Instruct", "llama", "8B", "");
        check("Qwen2.5-0.5b-Q4_K_M.gguf", "qwen", "0.5B", "Q4_K_M");
        check("smollm2:135m", "smollm", "135M", "");
        check("zebra-7", "zebra", "", "");
        check("7", "", "", "");
    }

    #[test]
    fn show_names_what_clients_read() {
        let mut asked = ShowOptions {
            name: "gpt-4o:latest",
            system: "Be \"brief\".\nYes.",
            ..ShowOptions::default()
        };
        asked.options.insert("seed".into(), 7.into());
        let show = Model::from_id("gpt-4o").render_show(&RENDER_CONTEXT, &asked);
        assert_eq!(show.model_info["general.architecture"], "gpt");
        assert_eq!(show.model_info["general.basename"], "gpt-4o:latest");
        assert_eq!(show.model_info["gpt.context_length"], 128_000);
        let unknown = Model::from_id("zebra").render_show(&RENDER_CONTEXT, &asked);
        assert_eq!(unknown.model_info["zebra.context_length"], DEFAULT_CONTEXT_LENGTH);
        assert!(show.modelfile.starts_with("# Modelfile generated by \"ollama show\"\n"));
        assert!(!show.template.contains(".Suffix"));
        let abilities = Capabilities { insert: Some(true), ..Capabilities::default() };
        let fills_in = Model { capabilities: abilities, ..Model::from_id("zebra") };
        let shown = fills_in.render_show(&RENDER_CONTEXT, &ShowOptions::default());
        assert!(shown.template.contains(".Suffix") && shown.modelfile.contains(&shown.template));
        let end = "\nSYSTEM \"\"\"Be \"brief\".\nYes.\"\"\"\nPARAMETER seed 7\n";
        assert!(show.modelfile.ends_with(end), "{}", show.modelfile);
        assert_eq!(show.parameters, "", "those are the model's own");
    }
}
