//! Parses the responses of the endpoints that tell more about models than the model list does.
//!
//! The facts fill what the list leaves unknown; the list wins, except that a running llama.cpp knows
//! its context length and accepted media better than the model file. Never fetches anything.
//! Invariant: a missing entry in a gateway's static table never marks a capability as absent.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::entry::{entries, parse_model};
use super::model::{Capabilities, Model, OwnTag, ThinkingModes};
use crate::api::openai::raw_object::{self, RawObject};
use crate::api::wire::json_cost;
use crate::backends::names;
use crate::backends::profiles::DetailsProbe;
use crate::observe::timestamp;

/// Parts of a chat template that show that the model reasons.
const REASONING_MARKERS: &[&str] = &["enable_thinking", "<think>", "reasoning_effort"];

/// The most bytes of a response's parsed form; a larger response tells nothing.
const MAX_TREE_BYTES: usize = 64 << 20;

/// What a probe told about models.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    probe: DetailsProbe,
    models: Vec<Model>,
}

impl ModelFacts {
    /// Parses a response; `None` if it is not of this probe's format.
    pub fn parse(probe: DetailsProbe, body: &str) -> Option<Self> {
        if json_cost::parsed_bytes(body.as_bytes()) > MAX_TREE_BYTES {
            return None;
        }
        let value: Value = serde_json::from_str(body).ok()?;
        let models = match probe {
            DetailsProbe::LlamaCppProps => vec![parse_props(&value)?],
            DetailsProbe::TgiInfo => vec![parse_tgi_info(&value)?],
            DetailsProbe::LiteLlm => {
                entries(&value)?.iter().filter_map(parse_litellm_entry).collect()
            }
            DetailsProbe::LmStudio | DetailsProbe::LocalAi => {
                entries(&value)?.iter().filter_map(|entry| parse_model(entry, &[])).collect()
            }
            DetailsProbe::OpenRouterEmbeddings => {
                entries(&value)?.iter().filter_map(parse_embedding_model).collect()
            }
            DetailsProbe::OllamaTags => parse_ollama_tags(body)?,
        };
        Some(Self { probe, models })
    }

    /// Fills what the list leaves unknown.
    pub(super) fn merge_into(&self, models: &mut Vec<Model>) {
        match (self.probe, models.as_mut_slice(), self.models.as_slice()) {
            (DetailsProbe::LlamaCppProps, [model], [facts]) => {
                let (own, running) = (&mut model.capabilities, &facts.capabilities);
                own.vision = running.vision.or(own.vision);
                own.audio = running.audio.or(own.audio);
                own.tools = running.tools.or(own.tools);
                model.context_length = facts.context_length.or(model.context_length);
                model.merge_missing(facts);
            }
            (DetailsProbe::TgiInfo, [model], [facts]) => model.merge_missing(facts),
            (DetailsProbe::LlamaCppProps | DetailsProbe::TgiInfo, ..) => {}
            (DetailsProbe::OllamaTags, listed, all_facts) => {
                let mut by_name = HashMap::with_capacity(all_facts.len());
                by_name.extend(all_facts.iter().map(|facts| (facts.id.as_str(), facts)));
                for model in listed {
                    if let Some(facts) = by_name.get(names::display_name(&model.id).as_str()) {
                        model.merge_missing(facts);
                    }
                }
            }
            (_, listed, all_facts) => {
                for model in listed {
                    if let Some(facts) = all_facts.iter().find(|facts| facts.id == model.id) {
                        model.merge_missing(facts);
                    }
                }
            }
        }
        if self.probe == DetailsProbe::OpenRouterEmbeddings {
            let is_new = |facts: &&Model| !models.iter().any(|model| model.id == facts.id);
            let new: Vec<_> = self.models.iter().filter(is_new).cloned().collect();
            models.extend(new);
        }
    }
}

/// llama.cpp's `/props`, which describes the running model.
fn parse_props(value: &Value) -> Option<Model> {
    let settings = value.get("default_generation_settings")?;
    let flag = |name: &str| value["modalities"][name].as_bool();
    let cap = |name: &str| value["chat_template_caps"][name].as_bool();
    let template = value["chat_template"].as_str().unwrap_or_default();
    // llama.cpp drops the tools silently if the template has none.
    let tools = match (cap("supports_tools"), cap("supports_tool_calls")) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (definitions, _) => definitions,
    };
    let thinking = cap("supports_preserve_reasoning") == Some(true)
        || cap("supports_reasoning_effort") == Some(true)
        || REASONING_MARKERS.iter().any(|sign| template.contains(sign));
    let reads_effort = template.contains("reasoning_effort");
    let modes = ThinkingModes::from_template(
        template.contains("enable_thinking"),
        reads_effort || cap("supports_reasoning_effort") == Some(true),
    );
    Some(Model {
        thinking: modes.map(Arc::new),
        context_length: settings["n_ctx"].as_u64().filter(|length| *length > 0),
        quantization: value["model_ftype"].as_str().map(str::to_owned),
        capabilities: Capabilities {
            vision: flag("vision"),
            audio: flag("audio"),
            tools,
            thinking: thinking.then_some(true),
            ..Capabilities::default()
        },
        ..Model::default()
    })
}

/// TGI's `/info`; other servers have an endpoint of this name, so `router` must be TGI's.
fn parse_tgi_info(value: &Value) -> Option<Model> {
    value["router"].as_str().filter(|router| router.starts_with("text-generation-router"))?;
    let kind = value["model_pipeline_tag"].as_str().unwrap_or_default();
    Some(Model {
        context_length: value["max_total_tokens"].as_u64().filter(|length| *length > 0),
        capabilities: Capabilities {
            completion: Some(true),
            vision: (kind == "image-text-to-text").then_some(true),
            ..Capabilities::default()
        },
        ..Model::default()
    })
}

/// An entry of LiteLLM's `/model/info`. Older versions send `false` for unknown capabilities, so only
/// `true` counts, and the type of model.
fn parse_litellm_entry(entry: &Value) -> Option<Model> {
    let info = &entry["model_info"];
    let mut named = info.clone();
    named.as_object_mut()?.insert("id".into(), entry["model_name"].clone());
    let model = parse_model(&named, &[])?;
    let Capabilities { tools, vision, thinking, audio, .. } = model.capabilities;
    let only_true = |flag: Option<bool>| flag.filter(|is_supported| *is_supported);
    let length = info["output_vector_size"].as_u64().filter(|length| *length > 0);
    Some(Model {
        embedding_length: length,
        capabilities: Capabilities {
            tools: only_true(tools),
            vision: only_true(vision),
            thinking: only_true(thinking),
            audio: only_true(audio),
            ..model.capabilities
        },
        ..model
    })
}

/// The entries of an Ollama's `/api/tags`, each with its own text.
fn parse_ollama_tags(body: &str) -> Option<Vec<Model>> {
    let members = RawObject::parse(body)?;
    let entries = raw_object::parse_items(members.get("models")?)?;
    let parse = |json: &str| {
        let entry: Value = serde_json::from_str(json).ok()?;
        let (name, details) =
            (entry["model"].as_str().or(entry["name"].as_str())?, &entry["details"]);
        let text = |name: &str| details[name].as_str().filter(|it| !it.is_empty());
        let text = |name: &str| text(name).map(str::to_owned);
        let number = |name: &str| details[name].as_u64().filter(|number| *number > 0);
        let modified_at = entry["modified_at"].as_str().and_then(timestamp::parse_rfc3339);
        Some(Model {
            id: names::display_name(name),
            size: entry["size"].as_u64(),
            family: text("family"),
            format: text("format"),
            parameter_size: text("parameter_size"),
            quantization: text("quantization_level"),
            context_length: number("context_length"),
            embedding_length: number("embedding_length"),
            capabilities: parse_ollama_capabilities(&entry["capabilities"]),
            own_tag: Some(Arc::new(OwnTag { json: json.into(), modified_at })),
            ..Model::default()
        })
    };
    Some(entries.into_iter().filter_map(parse).collect())
}

/// Older versions of Ollama tell none.
fn parse_ollama_capabilities(list: &Value) -> Capabilities {
    let Some(words) = list.as_array().filter(|words| !words.is_empty()) else {
        return Capabilities::default();
    };
    Capabilities::by_name(&|word| words.iter().any(|known| known == word))
}

/// An entry of OpenRouter's list of embedding models.
fn parse_embedding_model(entry: &Value) -> Option<Model> {
    let mut model = parse_model(entry, &[])?;
    (model.capabilities.embedding, model.capabilities.completion) = (Some(true), Some(false));
    Some(model)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::list::parse_list;
    use super::*;

    /// The only model of a list, with the facts of a probe.
    fn filled(list: &Value, side: DetailsProbe, told: &Value) -> Model {
        let mut listed = parse_list(&list.to_string()).expect("a list");
        listed.merge_facts(&ModelFacts::parse(side, &told.to_string()).expect("an answer"));
        assert_eq!(listed.models.len(), 1);
        listed.models.remove(0)
    }

    #[test]
    fn an_ollama_s_details_are_those_of_the_model() {
        let details = json!({"format": "gguf", "family": "llama", "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M", "context_length": 8192, "embedding_length": 4096});
        let body = json!({"models": [{"model": "m:8b", "size": 5, "details": details,
            "capabilities": ["completion"]}, {"name": "n", "details": {"family": ""}}]});
        let models = parse_ollama_tags(&body.to_string()).expect("tags");
        let text = |text: &str| Some(text.to_owned());
        let first = Model {
            id: "m:8b".into(),
            size: Some(5),
            family: text("llama"),
            format: text("gguf"),
            parameter_size: text("8.0B"),
            quantization: text("Q4_K_M"),
            context_length: Some(8192),
            embedding_length: Some(4096),
            capabilities: parse_ollama_capabilities(&json!(["completion"])),
            own_tag: models[0].own_tag.clone(),
            ..Model::default()
        };
        assert_eq!(models[0], first);
        assert_eq!((models.len(), &models[1].family), (2, &None));
    }

    #[test]
    fn an_ollama_s_entry_is_kept_as_it_is() {
        let list = json!({"data": [{"id": "m", "owned_by": "library"}, {"id": "e:x"}]});
        let m = r#"{"name":"m:latest","model":"m:latest","modified_at":"2026-08-20T09:00:00.5+02:00",
            "size":5,"details":{"family":"llama","families":null,"context_length":9},"capabilities":["completion"],"new":[ 1 ]}"#;
        let body =
            format!(r#"{{"models":[{m},{{"name":"e:x","capabilities":[]}},{{"x":1}}],"z":1}}"#);
        let mut listed = parse_list(&list.to_string()).expect("a list");
        listed.merge_facts(&ModelFacts::parse(DetailsProbe::OllamaTags, &body).expect("tags"));
        let own = |at: usize| listed[at].own_tag.as_ref().map(|tag| tag.json.as_ref());
        assert_eq!(own(0), Some(m));
        assert_eq!(own(1), Some(r#"{"name":"e:x","capabilities":[]}"#));
        assert_eq!((listed[0].size, listed[0].context_length), (Some(5), Some(9)));
        assert_eq!(listed[0].capabilities.to_names(), ["completion"]);
        assert_eq!(listed[1].capabilities.tools, None, "an older one does not tell");
    }

    #[test]
    fn a_running_llama_cpp_knows_its_window_better_than_its_file() {
        let list = json!({"data": [{"id": "m", "owned_by": "llamacpp",
            "meta": {"n_ctx_train": 131_072, "ftype": "Q8_0"}}],
            "models": [{"name": "m", "capabilities": ["completion", "multimodal"]}]});
        let props = json!({"default_generation_settings": {"n_ctx": 4096}, "model_ftype": "Q4_0",
            "modalities": {"vision": false, "audio": true},
            "chat_template": "{% if enable_thinking %}", "chat_template_caps": {"supports_tools": false}});
        let model = filled(&list, DetailsProbe::LlamaCppProps, &props);
        assert_eq!(
            (model.context_length, model.quantization.as_deref()),
            (Some(4096), Some("Q8_0"))
        );
        let Capabilities { vision, audio, tools, thinking, .. } = model.capabilities;
        assert_eq!(
            (vision, audio, tools, thinking),
            (Some(false), Some(true), Some(false), Some(true))
        );
    }

    #[test]
    fn a_template_of_llama_cpp_without_tools_is_believed() {
        let tools = |caps: serde_json::Value| {
            let list = json!({"data": [{"id": "m", "owned_by": "llamacpp"}]});
            let props = json!({"default_generation_settings": {"n_ctx": 4096},
                "chat_template_caps": caps});
            filled(&list, DetailsProbe::LlamaCppProps, &props).capabilities.tools
        };
        assert_eq!(
            tools(json!({"supports_tools": false, "supports_tool_calls": false})),
            Some(false)
        );
        assert_eq!(tools(json!({"supports_tools": false})), Some(false));
        assert_eq!(
            tools(json!({"supports_tools": false, "supports_tool_calls": true})),
            Some(true)
        );
        assert_eq!(tools(json!({"supports_tools": true})), Some(true));
        assert_eq!(tools(json!({"supports_tool_calls": false})), None);
        assert_eq!(tools(json!(null)), None);
    }

    #[test]
    fn the_list_s_own_words_win() {
        let list =
            json!({"data": [{"id": "m", "max_input_tokens": 1000, "supports_vision": false}]});
        let info = json!({"data": [{"model_name": "m", "model_info": {"max_input_tokens": 2000,
            "supports_vision": true, "supports_reasoning": true}}]});
        let model = filled(&list, DetailsProbe::LiteLlm, &info);
        assert_eq!(model.context_length, Some(1000));
        assert_eq!(model.capabilities.vision, Some(false));
        assert_eq!(model.capabilities.thinking, Some(true));
    }

    #[test]
    fn a_no_of_litellm_s_table_is_no_denial() {
        let info = json!({"data": [{"model_name": "m", "model_info": {"mode": "chat",
            "supports_function_calling": false, "supports_reasoning": false}}]});
        let model = filled(&json!({"data": [{"id": "m"}]}), DetailsProbe::LiteLlm, &info);
        assert_eq!((model.capabilities.tools, model.capabilities.thinking), (None, None));
        assert_eq!(model.capabilities.completion, Some(true));
        let info = json!({"data": [{"model_name": "m", "model_info": {"mode": "embedding",
            "output_vector_size": 1024}}]});
        let model = filled(&json!({"data": [{"id": "m"}]}), DetailsProbe::LiteLlm, &info);
        assert_eq!(
            (model.capabilities.to_names(), model.embedding_length),
            (vec!["embedding"], Some(1024))
        );
    }

    #[test]
    fn what_is_not_an_answer_of_the_source_is_none() {
        let check = |side: DetailsProbe, body: &str| {
            assert_eq!(ModelFacts::parse(side, body), None, "{body}")
        };
        for side in [
            DetailsProbe::LlamaCppProps,
            DetailsProbe::LmStudio,
            DetailsProbe::LiteLlm,
            DetailsProbe::LocalAi,
            DetailsProbe::TgiInfo,
            DetailsProbe::OllamaTags,
        ] {
            for body in ["", "<html>", "null", "5", "{}", r#"{"error":"Unexpected endpoint"}"#] {
                check(side, body);
            }
        }
        check(DetailsProbe::TgiInfo, r#"{"router":"text-embeddings-router","max_total_tokens":5}"#);
        check(DetailsProbe::TgiInfo, r#"{"max_total_tokens":5}"#);
    }

    #[test]
    fn one_who_tells_of_one_model_is_not_asked_about_several() {
        let side = |list: Value| parse_list(&list.to_string()).expect("a list").details_probe();
        let entry = |id: &str| json!({"id": id, "owned_by": "llamacpp"});
        assert_eq!(side(json!([entry("a")])), Some(DetailsProbe::LlamaCppProps));
        assert_eq!(side(json!([entry("a"), entry("b")])), None);
        let entry = |id: &str| json!({"id": id, "owned_by": "organization_owner"});
        assert_eq!(side(json!([entry("a"), entry("b")])), Some(DetailsProbe::LmStudio));
        assert_eq!(side(json!([{"id": "a"}])), None);
    }

    #[test]
    fn a_hint_becomes_the_family_only_by_an_answer() {
        let body = r#"{"data":[{"id":"a","object":"model","created":0,"owned_by":"a"}]}"#;
        let mut listed = parse_list(body).expect("a list");
        assert_eq!((listed.profile, listed.details_probe()), (None, Some(DetailsProbe::TgiInfo)));
        let info = r#"{"router":"text-generation-router","max_total_tokens":5}"#;
        listed.merge_facts(&ModelFacts::parse(DetailsProbe::TgiInfo, info).expect("an answer"));
        assert_eq!(listed.profile.map(|profile| profile.name), Some("tgi"));
        assert_eq!(listed[0].context_length, Some(5));
    }

    #[test]
    fn missing_embedding_models_are_added_once() {
        let body = r#"{"data":[{"id":"a"},{"id":"e"}]}"#;
        let mut listed = parse_list(body).expect("a list");
        let more = r#"{"data":[{"id":"e"},{"id":"f","context_length":512}]}"#;
        let told = ModelFacts::parse(DetailsProbe::OpenRouterEmbeddings, more).expect("an answer");
        for _ in 0..2 {
            listed.merge_facts(&told);
            let ids: Vec<_> = listed.iter().map(|model| model.id.as_str()).collect();
            assert_eq!(ids, ["a", "e", "f"]);
        }
        assert_eq!(listed[1].capabilities.to_names(), ["embedding"]);
        assert_eq!(listed[2].context_length, Some(512));
    }
}
