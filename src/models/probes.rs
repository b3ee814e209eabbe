//! Reads what a server tells of its models beside the list (openai-wire.md 2.2).
//!
//! Each source has a shape of its own; all of them become facts about models, which fill what the
//! list left open. The list's own words win, but for what a running server knows better than the
//! file that it runs: its window, and what may go in. Never asks anybody, and never denies what only
//! a table of somebody's denies.

use serde_json::Value;

use super::list::{entries, read_model};
use super::model::{Abilities, Model};
use crate::backends::profiles::Side;

/// Signs in a chat template that the model reasons.
const REASONS: &[&str] = &["enable_thinking", "<think>", "reasoning_effort"];

/// What a side source told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    side: Side,
    models: Vec<Model>,
}

impl Told {
    /// Reads an answer; `None` when it is not one of this source.
    #[must_use]
    pub fn read(side: Side, body: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(body).ok()?;
        let models = match side {
            Side::Props => vec![props(&value)?],
            Side::Tgi => vec![tgi(&value)?],
            Side::LiteLlm => entries(&value)?.iter().filter_map(litellm).collect(),
            Side::LmStudio | Side::LocalAi => {
                entries(&value)?.iter().filter_map(|it| read_model(it, &[])).collect()
            }
            Side::Embeddings => entries(&value)?.iter().filter_map(embedder).collect(),
        };
        Some(Self { side, models })
    }

    /// Fills in what the list did not tell.
    pub(super) fn fill(&self, models: &mut Vec<Model>) {
        match (self.side, models.as_mut_slice(), self.models.as_slice()) {
            (Side::Props, [only], [told]) => {
                only.context_length = told.context_length.or(only.context_length);
                only.abilities.vision = told.abilities.vision.or(only.abilities.vision);
                only.abilities.audio = told.abilities.audio.or(only.abilities.audio);
                only.fill(told);
            }
            (Side::Tgi, [only], [told]) => only.fill(told),
            (Side::Props | Side::Tgi, ..) => {}
            (_, listed, told) => {
                for model in listed {
                    if let Some(told) = told.iter().find(|told| told.id == model.id) {
                        model.fill(told);
                    }
                }
            }
        }
        if self.side == Side::Embeddings {
            let is_new = |told: &&Model| !models.iter().any(|model| model.id == told.id);
            let new: Vec<_> = self.models.iter().filter(is_new).cloned().collect();
            models.extend(new);
        }
    }
}

/// llama.cpp's `/props`: what is running.
fn props(value: &Value) -> Option<Model> {
    let settings = value.get("default_generation_settings")?;
    let flag = |name: &str| value["modalities"][name].as_bool();
    let caps = |name: &str| value["chat_template_caps"][name] == true;
    let template = value["chat_template"].as_str().unwrap_or_default();
    // A template without tools denies nothing: the server then describes them in words.
    let tools = caps("supports_tools") || caps("supports_tool_calls");
    let thinking = caps("supports_preserve_reasoning")
        || caps("supports_reasoning_effort")
        || REASONS.iter().any(|sign| template.contains(sign));
    Some(Model {
        context_length: settings["n_ctx"].as_u64().filter(|length| *length > 0),
        quantization: value["model_ftype"].as_str().map(str::to_owned),
        abilities: Abilities {
            vision: flag("vision"),
            audio: flag("audio"),
            tools: tools.then_some(true),
            thinking: thinking.then_some(true),
            ..Abilities::default()
        },
        ..Model::default()
    })
}

/// TGI's `/info`; others have one, too, so it must say whose it is.
fn tgi(value: &Value) -> Option<Model> {
    value["router"].as_str().filter(|router| router.starts_with("text-generation-router"))?;
    let kind = value["model_pipeline_tag"].as_str().unwrap_or_default();
    Some(Model {
        context_length: value["max_total_tokens"].as_u64().filter(|length| *length > 0),
        abilities: Abilities {
            completion: Some(true),
            vision: (kind == "image-text-to-text").then_some(true),
            ..Abilities::default()
        },
        ..Model::default()
    })
}

/// An entry of LiteLLM's `/model/info`. Its flags stem from a table in which older versions wrote
/// "no" for what nobody knew; so only a "yes" counts, and what kind of model it is.
fn litellm(entry: &Value) -> Option<Model> {
    let info = &entry["model_info"];
    let mut named = info.clone();
    named.as_object_mut()?.insert("id".into(), entry["model_name"].clone());
    let model = read_model(&named, &[])?;
    let Abilities { tools, vision, thinking, audio, .. } = model.abilities;
    let yes = |told: Option<bool>| told.filter(|yes| *yes);
    let length = info["output_vector_size"].as_u64().filter(|length| *length > 0);
    Some(Model {
        embedding_length: length,
        abilities: Abilities {
            tools: yes(tools),
            vision: yes(vision),
            thinking: yes(thinking),
            audio: yes(audio),
            ..model.abilities
        },
        ..model
    })
}

/// An entry of OpenRouter's list of embedding models.
fn embedder(entry: &Value) -> Option<Model> {
    let mut model = read_model(entry, &[])?;
    (model.abilities.embedding, model.abilities.completion) = (Some(true), Some(false));
    Some(model)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::read_list;
    use super::*;

    /// The only model of a list after a side source has told of it.
    fn filled(list: &Value, side: Side, told: &Value) -> Model {
        let mut listed = read_list(&list.to_string()).expect("a list");
        listed.learn(&Told::read(side, &told.to_string()).expect("an answer"));
        assert_eq!(listed.models.len(), 1);
        listed.models.remove(0)
    }

    #[test]
    fn a_running_llama_cpp_knows_its_window_better_than_its_file() {
        let list = json!({"data": [{"id": "m", "owned_by": "llamacpp",
            "meta": {"n_ctx_train": 131_072, "ftype": "Q8_0"}}],
            "models": [{"name": "m", "capabilities": ["completion", "multimodal"]}]});
        let props = json!({"default_generation_settings": {"n_ctx": 4096}, "model_ftype": "Q4_0",
            "modalities": {"vision": false, "audio": true},
            "chat_template": "{% if enable_thinking %}", "chat_template_caps": {"supports_tools": false}});
        let model = filled(&list, Side::Props, &props);
        assert_eq!(
            (model.context_length, model.quantization.as_deref()),
            (Some(4096), Some("Q8_0"))
        );
        let Abilities { vision, audio, tools, thinking, .. } = model.abilities;
        assert_eq!((vision, audio, tools, thinking), (Some(false), Some(true), None, Some(true)));
    }

    #[test]
    fn the_list_s_own_words_win() {
        let list =
            json!({"data": [{"id": "m", "max_input_tokens": 1000, "supports_vision": false}]});
        let info = json!({"data": [{"model_name": "m", "model_info": {"max_input_tokens": 2000,
            "supports_vision": true, "supports_reasoning": true}}]});
        let model = filled(&list, Side::LiteLlm, &info);
        assert_eq!(model.context_length, Some(1000));
        assert_eq!(model.abilities.vision, Some(false));
        assert_eq!(model.abilities.thinking, Some(true));
    }

    #[test]
    fn a_no_of_litellm_s_table_is_no_denial() {
        let info = json!({"data": [{"model_name": "m", "model_info": {"mode": "chat",
            "supports_function_calling": false, "supports_reasoning": false}}]});
        let model = filled(&json!({"data": [{"id": "m"}]}), Side::LiteLlm, &info);
        assert_eq!((model.abilities.tools, model.abilities.thinking), (None, None));
        assert_eq!(model.abilities.completion, Some(true));
        let info = json!({"data": [{"model_name": "m", "model_info": {"mode": "embedding",
            "output_vector_size": 1024}}]});
        let model = filled(&json!({"data": [{"id": "m"}]}), Side::LiteLlm, &info);
        assert_eq!(
            (model.abilities.listed(), model.embedding_length),
            (vec!["embedding"], Some(1024))
        );
    }

    #[test]
    fn what_is_not_an_answer_of_the_source_is_none() {
        let check = |side: Side, body: &str| assert_eq!(Told::read(side, body), None, "{body}");
        for side in [Side::Props, Side::LmStudio, Side::LiteLlm, Side::LocalAi, Side::Tgi] {
            for body in ["", "<html>", "null", "5", "{}", r#"{"error":"Unexpected endpoint"}"#] {
                check(side, body);
            }
        }
        check(Side::Tgi, r#"{"router":"text-embeddings-router","max_total_tokens":5}"#);
        check(Side::Tgi, r#"{"max_total_tokens":5}"#);
    }

    #[test]
    fn one_who_tells_of_one_model_is_not_asked_about_several() {
        let side = |list: Value| read_list(&list.to_string()).expect("a list").side();
        let entry = |id: &str| json!({"id": id, "owned_by": "llamacpp"});
        assert_eq!(side(json!([entry("a")])), Some(Side::Props));
        assert_eq!(side(json!([entry("a"), entry("b")])), None);
        let entry = |id: &str| json!({"id": id, "owned_by": "organization_owner"});
        assert_eq!(side(json!([entry("a"), entry("b")])), Some(Side::LmStudio));
        assert_eq!(side(json!([{"id": "a"}])), None);
    }

    #[test]
    fn a_hint_becomes_the_family_only_by_an_answer() {
        let body = r#"{"data":[{"id":"a","object":"model","created":0,"owned_by":"a"}]}"#;
        let mut listed = read_list(body).expect("a list");
        assert_eq!((listed.profile, listed.side()), (None, Some(Side::Tgi)));
        let info = r#"{"router":"text-generation-router","max_total_tokens":5}"#;
        listed.learn(&Told::read(Side::Tgi, info).expect("an answer"));
        assert_eq!(listed.profile.map(|profile| profile.name), Some("tgi"));
        assert_eq!(listed[0].context_length, Some(5));
    }

    #[test]
    fn missing_embedding_models_are_added_once() {
        let body = r#"{"data":[{"id":"a"},{"id":"e"}]}"#;
        let mut listed = read_list(body).expect("a list");
        let more = r#"{"data":[{"id":"e"},{"id":"f","context_length":512}]}"#;
        let told = Told::read(Side::Embeddings, more).expect("an answer");
        for _ in 0..2 {
            listed.learn(&told);
            let ids: Vec<_> = listed.iter().map(|model| model.id.as_str()).collect();
            assert_eq!(ids, ["a", "e", "f"]);
        }
        assert_eq!(listed[1].abilities.listed(), ["embedding"]);
        assert_eq!(listed[2].context_length, Some(512));
    }
}
