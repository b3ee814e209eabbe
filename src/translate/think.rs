//! Translates the `think` member to the upstream's parameters for reasoning.
//!
//! Without `think` nothing is sent: whether a model reasons is its own default. The parameter belongs
//! to the pair of server and model:
//!
//! | server | model | off | on |
//! | --- | --- | --- | --- |
//! | llama.cpp, SGLang, vLLM | any | `chat_template_kwargs.enable_thinking` | the same |
//! | the same | DeepSeek V3.1, Kimi K2.5 and later, Granite | `thinking` beside it | the same |
//! | DeepSeek, or Ark, Moonshot and Z.ai with a model that has a switch | | `thinking.type`: `disabled` | `enabled` |
//! | MiniMax | any | `thinking.type`: `disabled` | `adaptive` |
//! | DashScope | any | `enable_thinking` | the same |
//! | OpenAI, OpenRouter, Groq, Together, Gemini | | their own words of `reasoning_effort` or `reasoning` | |
//! | unknown | by its name: what its maker's API takes | the same | the same |
//!
//! A template ignores the variables that it does not read, so that both names may go together. A
//! parameter that the server refuses is left out (`upstream::repair`). Whether reasoning is shown to
//! the client depends on `think` alone.
//!
//! Any text is a level. A server of which it is known gets its own word for `minimal`, `xhigh`, `max` and
//! `ultra`; all other levels are passed on, and a refused one is left out. For a model whose levels are
//! known ([`ThinkingModes`]), an unknown one means its default, as in Ollama (Ollama docs, thinking).

use serde_json::{Map, Value, json};

use crate::backends::model_families::{self, ThinkingSwitch};
use crate::backends::profiles::{Profile, ThinkingParam};
use crate::backends::thinking_modes::ThinkingModes;
use crate::error::{Error, Result};

/// The value of `think`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkMode<'a> {
    /// Absent: reasoning is shown if there is any.
    #[default]
    Unset,
    /// `false`: reasoning is not requested, and not shown if there is any.
    Off,
    /// `true`: reasoning is requested.
    On,
    /// A level, by any name.
    Level(&'a str),
}

impl ThinkMode<'_> {
    /// The same without the name of a level, which only the request needs.
    pub fn without_level(self) -> ThinkMode<'static> {
        match self {
            ThinkMode::Unset => ThinkMode::Unset,
            ThinkMode::Off => ThinkMode::Off,
            ThinkMode::On | ThinkMode::Level(_) => ThinkMode::On,
        }
    }
}

/// Reads `think`.
///
/// # Errors
/// [`Error::InvalidRequest`] in Ollama's words.
pub fn parse(value: Option<&Value>) -> Result<ThinkMode<'_>> {
    match value {
        None | Some(Value::Null) => Ok(ThinkMode::Unset),
        Some(Value::Bool(true)) => Ok(ThinkMode::On),
        Some(Value::Bool(false)) => Ok(ThinkMode::Off),
        Some(Value::String(level)) => Ok(match level.trim() {
            "" => ThinkMode::Unset,
            "none" | "off" | "false" => ThinkMode::Off,
            "on" | "true" => ThinkMode::On,
            level => ThinkMode::Level(level),
        }),
        Some(_) => Err(Error::invalid_request("think must be a boolean or string")),
    }
}

/// Replaces a level by the one that the model takes for it, or removes it if its default is to hold.
pub fn fit(think: &mut Option<Value>, modes: Option<&ThinkingModes>) {
    let Some(modes) = modes else { return };
    let Ok(ThinkMode::Level(level)) = parse(think.as_ref()) else { return };
    let fitted = modes.find_level(level).map(Value::from);
    *think = fitted;
}

/// The parameters for an upstream with this profile; `id` is the model's.
pub fn to_parameters(think: ThinkMode<'_>, profile: &Profile, id: &str) -> Map<String, Value> {
    let is_off = think == ThinkMode::Off;
    let parameters = match profile.thinking {
        _ if think == ThinkMode::Unset => json!({}),
        ThinkingParam::Unknown => parameters_by_name(think, id),
        ThinkingParam::Unsupported => json!({}),
        ThinkingParam::OpenAi => openai_parameters(think, id),
        ThinkingParam::OpenRouter if is_off => json!({"reasoning_effort": "none"}),
        ThinkingParam::OpenRouter => {
            json!({"reasoning": {"effort": level(think, "minimal", "xhigh").unwrap_or("medium")}})
        }
        ThinkingParam::ChatTemplateKwargs => template_parameters(think, id),
        ThinkingParam::DeepSeek => {
            let mut parameters = effort_parameter(None, None, think, id);
            parameters["thinking"] = thinking_type(think, "enabled");
            parameters
        }
        ThinkingParam::ThinkingType => match model_families::thinking_switch(id) {
            Some(ThinkingSwitch::Type) => json!({"thinking": thinking_type(think, "enabled")}),
            _ => json!({}),
        },
        ThinkingParam::MiniMax => json!({"thinking": thinking_type(think, "adaptive")}),
        ThinkingParam::EnableThinking => json!({"enable_thinking": !is_off}),
        ThinkingParam::Groq => groq_parameters(think, id),
        ThinkingParam::Together if id.contains("gpt-oss") => {
            effort_parameter(None, None, think, id)
        }
        ThinkingParam::Together => json!({"reasoning": {"enabled": !is_off}}),
        ThinkingParam::Gemini => effort_parameter(Some("none"), None, think, id),
    };
    match parameters {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// `reasoning_effort` with the upstream's word for off or on, or the level; empty without a word.
fn effort_parameter(off: Option<&str>, on: Option<&str>, think: ThinkMode<'_>, id: &str) -> Value {
    let word = match think {
        ThinkMode::Unset => None,
        ThinkMode::Off => off,
        ThinkMode::On => on,
        ThinkMode::Level(_) => level(think, "low", most_effort(id)),
    };
    word.map_or_else(|| json!({}), |word| json!({"reasoning_effort": word}))
}

/// The level, if there is one, with the upstream's words for the least and the most: most servers know
/// nothing below `low` and above `high`.
fn level<'a>(think: ThinkMode<'a>, least: &'a str, most: &'a str) -> Option<&'a str> {
    match think {
        ThinkMode::Level("minimal") => Some(least),
        ThinkMode::Level("xhigh" | "max" | "ultra") => Some(most),
        ThinkMode::Level(level) => Some(level),
        _ => None,
    }
}

/// The word for the most reasoning, by the name of the model.
fn most_effort(id: &str) -> &'static str {
    let has_max = model_families::thinking_values(id).is_some_and(|it| it.0.ends_with("max"));
    if has_max { "max" } else { "high" }
}

/// OpenAI's generations of models accept different words; older models do not reason.
fn openai_parameters(think: ThinkMode<'_>, id: &str) -> Value {
    let name = id.rsplit('/').next().unwrap_or_default();
    let newer =
        name.strip_prefix("gpt-5.").is_some_and(|it| it.starts_with(|c: char| c.is_ascii_digit()));
    let o_series = name.starts_with('o') && name[1..].starts_with(|c: char| c.is_ascii_digit());
    if newer {
        let word = if think == ThinkMode::Off { "none" } else { "medium" };
        json!({"reasoning_effort": level(think, "low", "xhigh").unwrap_or(word)})
    } else if name.starts_with("gpt-5") && !name.starts_with("gpt-5-chat") {
        match think {
            ThinkMode::Off | ThinkMode::Level("minimal") => json!({"reasoning_effort": "minimal"}),
            _ => effort_parameter(None, None, think, id),
        }
    } else if o_series {
        effort_parameter(Some("low"), None, think, id)
    } else {
        json!({})
    }
}

/// llama.cpp, vLLM and SGLang pass these to the model's chat template, as Ollama does.
fn template_parameters(think: ThinkMode<'_>, id: &str) -> Value {
    let mut kwargs = effort_parameter(None, None, think, id);
    kwargs["enable_thinking"] = (think != ThinkMode::Off).into();
    if model_families::template_reads_thinking(id) {
        kwargs["thinking"] = (think != ThinkMode::Off).into();
    }
    json!({"chat_template_kwargs": kwargs})
}

/// The value of `thinking`, with the maker's word for on.
fn thinking_type(think: ThinkMode<'_>, on: &str) -> Value {
    json!({"type": if think == ThinkMode::Off { "disabled" } else { on }})
}

/// The switch of the model's maker, for a server of which nothing is known; a level is also sent as
/// OpenAI's parameter.
fn parameters_by_name(think: ThinkMode<'_>, id: &str) -> Value {
    let mut parameters = effort_parameter(None, None, think, id);
    match model_families::thinking_switch(id) {
        Some(ThinkingSwitch::Type) => parameters["thinking"] = thinking_type(think, "enabled"),
        Some(ThinkingSwitch::EnableThinking) => {
            parameters["enable_thinking"] = (think != ThinkMode::Off).into();
        }
        Some(ThinkingSwitch::Effort) => return effort_parameter(Some("low"), None, think, id),
        None => {}
    }
    parameters
}

fn groq_parameters(think: ThinkMode<'_>, id: &str) -> Value {
    let is_off = think == ThinkMode::Off;
    let mut parameters = if id.contains("qwen") {
        json!({"reasoning_effort": if is_off { "none" } else { "default" }})
    } else if id.contains("gpt-oss") {
        effort_parameter(Some("low"), Some("medium"), think, id)
    } else {
        return json!({});
    };
    parameters["reasoning_format"] = if is_off { "hidden" } else { "parsed" }.into();
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::profiles;

    #[test]
    fn every_documented_form_is_read() {
        let check = |value: Value, expected: ThinkMode<'_>| {
            assert_eq!(parse(Some(&value)).expect("valid"), expected, "{value}");
        };
        check(json!(null), ThinkMode::Unset);
        check(json!(true), ThinkMode::On);
        check(json!(false), ThinkMode::Off);
        check(json!("low"), ThinkMode::Level("low"));
        check(json!("max"), ThinkMode::Level("max"));
        check(json!(" hyper"), ThinkMode::Level("hyper"));
        check(json!(""), ThinkMode::Unset);
        check(json!("none"), ThinkMode::Off);
        check(json!("true"), ThinkMode::On);
        assert_eq!(parse(None).expect("valid"), ThinkMode::Unset);
    }

    #[test]
    fn everything_else_is_refused_in_ollama_s_words() {
        let check = |value: Value, expected: &str| {
            assert_eq!(parse(Some(&value)).expect_err("refused").message(), expected);
        };
        for value in [json!(1), json!(0.5), json!({}), json!(["high"])] {
            check(value, "think must be a boolean or string");
        }
    }

    #[test]
    fn a_level_that_a_model_does_not_know_is_its_nearest_or_its_default() {
        let gpt_oss = ThinkingModes::from_id("gpt-oss:20b");
        let check = |think: Value, expected: Value| {
            let mut fitted = Some(think.clone());
            fit(&mut fitted, gpt_oss.as_ref());
            assert_eq!(fitted.unwrap_or_default(), expected, "{think}");
            let mut kept = Some(think.clone());
            fit(&mut kept, None);
            assert_eq!(kept, Some(think), "of an unknown model nothing is known");
        };
        check(json!("high"), json!("high"));
        check(json!("xhigh"), json!("high"));
        check(json!("minimal"), json!("low"));
        check(json!("hyper"), Value::Null);
        check(json!(true), json!(true));
        check(json!("none"), json!("none"));
    }

    #[test]
    fn levels_are_told_in_the_words_that_a_server_knows() {
        let check = |family: &str, id: &str, expected: [&str; 4]| {
            let known = profiles::find_by_owner(family).or_else(|| profiles::find_by_host(family));
            let profile = known.unwrap_or(&profiles::GENERIC);
            let sent = |word: &'static str| {
                let sent = to_parameters(ThinkMode::Level(word), profile, id);
                let nested = |name: &str| sent.get(name)?.as_object().cloned();
                let place = nested("reasoning").or_else(|| nested("chat_template_kwargs"));
                let place = place.unwrap_or(sent.clone());
                let word = place.get("effort").or_else(|| place.get("reasoning_effort"));
                word.and_then(Value::as_str).unwrap_or("nothing").to_owned()
            };
            assert_eq!(["minimal", "xhigh", "ultra", "hyper"].map(sent), expected, "{family} {id}");
        };
        check("", "any", ["low", "high", "high", "hyper"]);
        check("llamacpp", "any", ["low", "high", "high", "hyper"]);
        check("openrouter.ai", "x", ["minimal", "xhigh", "xhigh", "hyper"]);
        check("api.openai.com", "gpt-5-mini", ["minimal", "high", "high", "hyper"]);
        check("api.openai.com", "gpt-5.4", ["low", "xhigh", "xhigh", "hyper"]);
        check("api.openai.com", "gpt-4o", ["nothing"; 4]);
        check("api.groq.com", "openai/gpt-oss-20b", ["low", "high", "high", "hyper"]);
    }

    /// What is sent for absent, false, true, `low` and `max`.
    fn check(family: &str, id: &str, expected: [&str; 5]) {
        let known = profiles::find_by_owner(family).or_else(|| profiles::find_by_host(family));
        let profile = match family {
            "" => &profiles::GENERIC,
            _ => known.expect("known"),
        };
        let (low, max) = (ThinkMode::Level("low"), ThinkMode::Level("max"));
        let asked = [ThinkMode::Unset, ThinkMode::Off, ThinkMode::On, low, max];
        let found = asked.map(|think| Value::Object(to_parameters(think, profile, id)).to_string());
        assert_eq!(found, expected, "{family} {id}");
    }

    #[test]
    fn each_family_is_told_in_its_own_words() {
        let effort = |word: &str| format!(r#"{{"reasoning_effort":"{word}"}}"#);
        let [none, low, medium, high] = &["none", "low", "medium", "high"].map(effort);
        check("", "any", ["{}", "{}", "{}", low, high]);
        check("api.openai.com", "gpt-4o", ["{}"; 5]);
        check("api.openai.com", "gpt-5.1", ["{}", none, medium, low, &effort("xhigh")]);
        check("api.openai.com", "gpt-5-mini", ["{}", &effort("minimal"), "{}", low, high]);
        check("api.openai.com", "gpt-5-chat-latest", ["{}"; 5]);
        check("api.openai.com", "o4-mini", ["{}", low, "{}", low, high]);
        let nested = |word: &str| format!(r#"{{"reasoning":{{"effort":"{word}"}}}}"#);
        let [some, little, much] = &["medium", "low", "xhigh"].map(nested);
        check("openrouter.ai", "x", ["{}", none, some, little, much]);
        let kwargs = |on: bool, more: &str| {
            format!(r#"{{"chat_template_kwargs":{{"enable_thinking":{on}{more}}}}}"#)
        };
        let (off, on) = (kwargs(false, ""), kwargs(true, ""));
        let [little, much] =
            &["low", "high"].map(|word| kwargs(true, &format!(r#","reasoning_effort":"{word}""#)));
        for family in ["llamacpp", "vllm", "sglang"] {
            check(family, "x", ["{}", &off, &on, little, much]);
        }
        let both = |on: bool| kwargs(on, &format!(r#","thinking":{on}"#));
        let levels = ["low", "high"]
            .map(|word| kwargs(true, &format!(r#","reasoning_effort":"{word}","thinking":true"#)));
        for family in ["llamacpp", "vllm", "sglang"] {
            for id in ["deepseek-ai/DeepSeek-V3.1", "moonshotai/Kimi-K2.5"] {
                check(family, id, ["{}", &both(false), &both(true), &levels[0], &levels[1]]);
            }
            let most = &levels[1].replace("high", "max");
            check(family, "deepseek-v4", ["{}", &both(false), &both(true), &levels[0], most]);
        }
        let deepseek =
            |more: &str, kind: &str| format!(r#"{{{more}"thinking":{{"type":"{kind}"}}}}"#);
        let (off, on) = (deepseek("", "disabled"), deepseek("", "enabled"));
        let [little, much] = &["low", "high"]
            .map(|word| deepseek(&format!(r#""reasoning_effort":"{word}","#), "enabled"));
        check("api.deepseek.com", "x", ["{}", &off, &on, little, much]);
        check("", "deepseek-v3.1", ["{}", &off, &on, little, much]);
        check("", "zai-org/GLM-4.6", ["{}", &off, &on, little, much]);
        for (host, id) in [
            ("api.moonshot.ai", "kimi-k2.5"),
            ("api.moonshot.cn", "kimi-k2.6"),
            ("api.z.ai", "glm-4.5-air"),
            ("open.bigmodel.cn", "glm-5"),
            ("ark.cn-beijing.volces.com", "doubao-seed-1-6-250615"),
        ] {
            check(host, id, ["{}", &off, &on, &on, &on]);
        }
        for (host, id) in [("api.moonshot.ai", "kimi-k2-0905-preview"), ("api.z.ai", "glm-4-flash")]
        {
            check(host, id, ["{}"; 5]);
        }
        let adaptive = deepseek("", "adaptive");
        check("api.minimax.io", "MiniMax-M3", ["{}", &off, &adaptive, &adaptive, &adaptive]);
        let (off, on) = (r#"{"enable_thinking":false}"#, r#"{"enable_thinking":true}"#);
        check("dashscope-intl.aliyuncs.com", "qwen3.5-plus", ["{}", off, on, on, on]);
        let [little, much] = &["low", "high"]
            .map(|word| format!(r#"{{"enable_thinking":true,"reasoning_effort":"{word}"}}"#));
        check("", "Qwen/Qwen3-8B", ["{}", off, on, little, much]);
        check("", "openai/gpt-oss-20b", ["{}", low, "{}", low, high]);
        let groq = |word: &str, form: &str| {
            format!(r#"{{"reasoning_effort":"{word}","reasoning_format":"{form}"}}"#)
        };
        let (off, on) = (groq("none", "hidden"), groq("default", "parsed"));
        check("api.groq.com", "qwen/qwen3-32b", ["{}", &off, &on, &on, &on]);
        let [some, little, much] = &["medium", "low", "high"].map(|word| groq(word, "parsed"));
        let off = groq("low", "hidden");
        check("api.groq.com", "openai/gpt-oss-20b", ["{}", &off, some, little, much]);
        let (off, on) = (r#"{"reasoning":{"enabled":false}}"#, r#"{"reasoning":{"enabled":true}}"#);
        check("api.together.xyz", "x", ["{}", off, on, on, on]);
        check("generativelanguage.googleapis.com", "x", ["{}", none, "{}", low, high]);
        check("api.x.ai", "x", ["{}"; 5]);
    }
}
