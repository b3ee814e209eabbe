//! Which values of `think` a model takes, as `/api/show` tells them (Ollama docs, thinking): switches and
//! named levels, and what holds without any.
//!
//! Sources, the first that tells counts: the entry of a model list (OpenRouter's `reasoning` and
//! `supported_parameters`, LM Studio's `reasoning`), the chat template of a running llama.cpp, the name of
//! a family (the makers' API references and model cards). Pure. Invariant: a model of which nothing is
//! known has none, so that nothing is promised and every level is passed on.

use serde_json::{Value, json};

use super::model_families as families;
pub use crate::api::ollama::response::ThinkingModes;

/// The levels that servers and clients name, from little to much.
const LEVELS: [&str; 7] = ["minimal", "low", "medium", "high", "xhigh", "max", "ultra"];

impl ThinkingModes {
    /// What an entry of a model list tells.
    pub fn from_entry(entry: &Value) -> Option<Self> {
        let lm_studio = &entry["capabilities"]["reasoning"];
        if let Some(options) = lm_studio["allowed_options"].as_array() {
            return Self::new(options.clone(), lm_studio["default"].clone());
        }
        let reasoning = &entry["reasoning"];
        if reasoning.is_object() {
            return Self::from_openrouter(reasoning);
        }
        let parameters = entry["supported_parameters"].as_array()?;
        let is_named = |name: &str| parameters.iter().any(|it| it == name);
        let all = json!([false, "low", "medium", "high"]);
        is_named("reasoning").then(|| Self::new(to_list(all), "medium".into()))?
    }

    fn from_openrouter(reasoning: &Value) -> Option<Self> {
        let mut values = match reasoning.get("supported_efforts") {
            Some(Value::Array(efforts)) => efforts.clone(),
            // `null` stands for all that the gateway knows.
            Some(Value::Null) => LEVELS[..5].iter().map(|level| (*level).into()).collect(),
            _ => Vec::new(),
        };
        let is_mandatory = reasoning["mandatory"] == true;
        values.retain(|value| !is_mandatory || !is_off(value));
        if !is_mandatory {
            values.push(false.into());
        }
        if !values.iter().any(Value::is_string) {
            values.push(true.into());
        }
        let is_off = reasoning["default_enabled"] == false;
        Self::new(values, if is_off { false.into() } else { reasoning["default_effort"].clone() })
    }

    /// What the chat template of a model reads.
    pub fn from_template(reads_switch: bool, reads_effort: bool) -> Option<Self> {
        match (reads_switch, reads_effort) {
            (true, true) => {
                Self::new(to_list(json!([false, "low", "medium", "high"])), "medium".into())
            }
            (true, false) => Self::new(to_list(json!([false, true])), true.into()),
            (false, true) => Self::new(to_list(json!(["low", "medium", "high"])), "medium".into()),
            (false, false) => None,
        }
    }

    /// What the name of a model tells.
    pub fn from_id(id: &str) -> Option<Self> {
        let (values, default) = families::thinking_values(id)?;
        let value = |word: &str| match word {
            "off" => false.into(),
            "on" => true.into(),
            level => level.into(),
        };
        Self::new(values.split(' ').map(value).collect(), value(default))
    }

    /// The values in their order, each once; a default that is not among them is replaced. `None` without
    /// any value.
    fn new(values: Vec<Value>, default: Value) -> Option<Self> {
        let given = values.into_iter().filter_map(normalize);
        let mut values: Vec<Value> = Vec::new();
        for value in given {
            let place = values.partition_point(|other| rank(other) <= rank(&value));
            if !values.contains(&value) {
                values.insert(place, value);
            }
        }
        let is_listed = |value: &Value| values.contains(value);
        let substitutes = [true.into(), "medium".into(), "high".into()];
        let default = normalize(default).filter(is_listed);
        let default = default.or_else(|| substitutes.into_iter().find(is_listed));
        let default = default.or_else(|| values.last().cloned())?;
        Some(Self { values, default })
    }

    /// The level that the model takes for one that a client names: the same, or for another name of much
    /// or little the nearest; `None` for a name that means nothing to it, so that its default holds.
    pub fn find_level<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut levels = self.values.iter().filter_map(Value::as_str);
        if let Some(same) = levels.clone().find(|level| level.eq_ignore_ascii_case(name)) {
            return Some(same);
        }
        let known = LEVELS.contains(&name).then_some(name)?;
        match known {
            _ if levels.clone().next().is_none() => Some(known),
            "minimal" => levels.next(),
            "xhigh" | "max" | "ultra" => levels.next_back(),
            _ => self.default.as_str().or_else(|| levels.next_back()),
        }
    }
}

/// The items of a list.
fn to_list(list: Value) -> Vec<Value> {
    match list {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn is_off(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "off")) || *value == false
}

/// A value as Ollama writes it; `None` for what is none.
fn normalize(value: Value) -> Option<Value> {
    match &value {
        _ if is_off(&value) => Some(false.into()),
        Value::String(word) if word == "on" => Some(true.into()),
        Value::String(word) if !word.is_empty() => Some(value),
        Value::Bool(_) => Some(value),
        _ => None,
    }
}

/// The place of a value: the switches, then the levels from little to much, then all others.
fn rank(value: &Value) -> usize {
    match value {
        Value::Bool(is_on) => usize::from(*is_on),
        _ => {
            let level = LEVELS.iter().position(|level| value == level);
            2 + level.unwrap_or(LEVELS.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(modes: Option<ThinkingModes>, expected: Value, about: &str) {
        let found = modes.map(|modes| serde_json::to_value(modes).expect("serialisable"));
        assert_eq!(found.unwrap_or_default(), expected, "{about}");
    }

    #[test]
    fn model_lists_tell_switches_and_levels() {
        let entry = |entry: Value, values: Value, default: Value| {
            let expected = json!({"values": values, "default": default});
            check(ThinkingModes::from_entry(&entry), expected, &entry.to_string());
        };
        let reasoning = |members: Value| json!({ "reasoning": members });
        entry(
            reasoning(json!({"mandatory": true, "supported_efforts": ["high", "medium", "low"],
                "default_effort": "medium"})),
            json!(["low", "medium", "high"]),
            json!("medium"),
        );
        entry(
            reasoning(json!({"mandatory": false, "supported_efforts": ["xhigh", "high", "none"],
                "default_enabled": false})),
            json!([false, "high", "xhigh"]),
            json!(false),
        );
        entry(
            reasoning(json!({"supported_efforts": null, "default_effort": "low"})),
            json!([false, "minimal", "low", "medium", "high", "xhigh"]),
            json!("low"),
        );
        entry(reasoning(json!({"mandatory": true})), json!([true]), json!(true));
        entry(reasoning(json!({})), json!([false, true]), json!(true));
        entry(
            json!({"supported_parameters": ["tools", "reasoning"]}),
            json!([false, "low", "medium", "high"]),
            json!("medium"),
        );
        let options = json!({"allowed_options": ["on", "off"], "default": "on"});
        entry(json!({"capabilities": {"reasoning": options}}), json!([false, true]), json!(true));
        for nothing in [
            json!({}),
            json!({"supported_parameters": ["tools"]}),
            json!({"reasoning": true}),
            json!({"capabilities": {"reasoning": true}}),
            json!({"capabilities": {"reasoning": {"allowed_options": [5, null]}}}),
        ] {
            check(ThinkingModes::from_entry(&nothing), Value::Null, &nothing.to_string());
        }
    }

    #[test]
    fn templates_and_names_tell_them_too() {
        let modes = |values: Value, default: Value| json!({"values": values, "default": default});
        let check_template = |switch: bool, effort: bool, expected: Value| {
            check(ThinkingModes::from_template(switch, effort), expected, "a template");
        };
        check_template(true, false, modes(json!([false, true]), json!(true)));
        check_template(false, true, modes(json!(["low", "medium", "high"]), json!("medium")));
        let both = json!([false, "low", "medium", "high"]);
        check_template(true, true, modes(both, json!("medium")));
        check_template(false, false, Value::Null);
        for (id, expected) in [
            ("gpt-oss:20b", modes(json!(["low", "medium", "high"]), json!("medium"))),
            ("Qwen/Qwen3-8B", modes(json!([false, true]), json!(true))),
            ("gemma4:31b", modes(json!([false, true]), json!(false))),
            ("minimax-m2.7", modes(json!([true]), json!(true))),
            ("m", Value::Null),
            ("o1", modes(json!(["low", "medium", "high"]), json!("medium"))),
            ("openai/o3-mini", modes(json!(["low", "medium", "high"]), json!("medium"))),
            ("o3x", Value::Null),
            ("gpt-5.2-chat-latest", Value::Null),
            ("chat-gpt-oss", modes(json!(["low", "medium", "high"]), json!("medium"))),
            ("gpt-5.1", modes(json!([false, "low", "medium", "high"]), json!(false))),
            ("qwen3-chat", modes(json!([false, true]), json!(true))),
        ] {
            check(ThinkingModes::from_id(id), expected, id);
        }
    }

    #[test]
    fn a_level_is_the_same_or_the_nearest_or_the_default() {
        let check = |values: Value, name: &str, expected: Option<&str>| {
            let modes = ThinkingModes::new(to_list(values.clone()), Value::Null).expect("values");
            assert_eq!(modes.find_level(name), expected, "{values} {name}");
        };
        let three = || json!(["low", "medium", "high"]);
        check(three(), "high", Some("high"));
        check(three(), "HIGH", Some("high"));
        check(three(), "minimal", Some("low"));
        for much in ["xhigh", "max", "ultra"] {
            check(three(), much, Some("high"));
        }
        check(three(), "hyper", None);
        let named = || json!([false, "low", "high", "max", "turbo"]);
        check(named(), "turbo", Some("turbo"));
        check(named(), "medium", Some("high"));
        check(json!(["low", "max"]), "high", Some("max"));
        check(json!([false, true]), "high", Some("high"));
        check(json!([false, true]), "hyper", None);
    }
}
