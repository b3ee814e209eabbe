//! Ollama's `options` to an upstream's sampling parameters (ollama-api.md 5.1, openai-wire.md 3.2).
//!
//! Only what the caller set is sent, under the name that the upstream's family knows; what the
//! family does not know, and what only steers loading (`num_ctx`, `num_gpu`, ...), is left out.
//! Values that mean "off" are left out too, because some servers misread them. Digits are passed on
//! as the caller wrote them. A value of the wrong type is refused in Ollama's words.

use serde_json::{Map, Number, Value};

use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};

/// How many tokens a bare completion may have when the caller set no limit: without one, several
/// servers stop after 16 (openai-wire.md 1.3).
const COMPLETION_TOKENS: i64 = 4096;

/// The options of a request, checked for their types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    integers: Vec<(&'static str, i64)>,
    floats: Vec<(&'static str, Number)>,
    stop: Vec<String>,
}

const INTEGER_OPTIONS: &[&str] = &[
    "num_ctx",
    "num_predict",
    "num_keep",
    "seed",
    "top_k",
    "repeat_last_n",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
];

const FLOAT_OPTIONS: &[&str] = &[
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// Reads `options`: `null` counts as absent, unknown names are ignored, whole numbers may come with
/// a fraction, which is cut.
///
/// # Errors
/// [`Error::InvalidOption`] for a value of the wrong type.
pub fn parse(options: Option<&Map<String, Value>>) -> Result<Options> {
    let mut out = Options::default();
    for (name, value) in options.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let wrong = |kind: &str| {
            Err(Error::InvalidOption { reason: format!("option \"{name}\" must be {kind}") })
        };
        if let Some(&name) = INTEGER_OPTIONS.iter().find(|known| *known == name) {
            match to_integer(value) {
                Some(number) => out.integers.push((name, number)),
                None => return wrong("of type integer"),
            }
        } else if let Some(&name) = FLOAT_OPTIONS.iter().find(|known| *known == name) {
            match value {
                Value::Number(number) => out.floats.push((name, number.clone())),
                _ => return wrong("of type float32"),
            }
        } else if name == "stop" {
            let Value::Array(items) = value else { return wrong("of type array") };
            for item in items {
                match item {
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => out.stop.push(text.clone()),
                    _ => return wrong("of an array of strings"),
                }
            }
        } else if name == "use_mmap" && !value.is_boolean() {
            return wrong("of type boolean");
        }
    }
    Ok(out)
}

/// The window that a request asks for, in tokens, if it asks for one.
#[must_use]
pub fn num_ctx(options: Option<&Map<String, Value>>) -> Option<u64> {
    u64::try_from(to_integer(options?.get("num_ctx")?)?).ok()
}

/// How long the model is to stay loaded, for a family that can be told: in whole seconds, and only
/// where a time is asked for. "At once" and "for ever" it has no words for.
#[must_use]
pub fn keep_alive_to_ttl(keep_alive: Option<&Value>, profile: &Profile) -> Map<String, Value> {
    let asked = keep_alive.and_then(|value| KeepAlive::from_json(value).ok().flatten());
    match (profile.ttl_param, asked) {
        (Some(name), Some(KeepAlive::For(time))) if !time.is_zero() => {
            let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
            let mut members = Map::new();
            members.insert(name.to_owned(), seconds.into());
            members
        }
        _ => Map::new(),
    }
}

/// Any JSON number as a whole one.
fn to_integer(value: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)] // Saturates.
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

impl Options {
    /// The parameters for `chat/completions`.
    #[must_use]
    pub fn for_chat(&self, profile: &Profile) -> Map<String, Value> {
        let mut out = Map::new();
        self.add_limit(profile, &mut out);
        self.add_core(profile, &mut out);
        self.add_extended(profile, &mut out);
        if profile.takes_llamacpp_params {
            self.add_llama(&mut out);
        }
        out
    }

    /// The parameters for `completions`.
    #[must_use]
    pub fn for_completion(&self, profile: &Profile) -> Map<String, Value> {
        let mut out = self.for_chat(profile);
        // The old endpoint kept the old name everywhere.
        let limit = out.remove(profile.max_tokens);
        let default = || profile.needs_completion_limit.then(|| Value::from(COMPLETION_TOKENS));
        if let Some(limit) = limit.or_else(default) {
            out.insert("max_tokens".into(), limit);
        }
        out
    }

    /// Whether a parameter is set that only some families know, so that the family is worth
    /// finding out.
    #[must_use]
    pub fn needs_profile(&self) -> bool {
        const EXTENDED: &[&str] =
            &["top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "num_keep"];
        let integers = self.integers.iter().map(|(name, _)| name);
        integers.chain(self.floats.iter().map(|(name, _)| name)).any(|name| EXTENDED.contains(name))
            || self.has_risky_value()
    }

    /// Whether a value is set that one family would misread or refuse, although it knows the name.
    fn has_risky_value(&self) -> bool {
        self.integer("seed").is_some_and(|seed| seed < -1)
            || self.float("top_p").and_then(Number::as_f64).is_some_and(|value| value >= 1.0)
            || self.float("presence_penalty").is_some_and(|value| value.as_f64() != Some(0.0))
    }

    /// The stop sequences that are more than the family takes, to be watched for in its answer.
    #[must_use]
    pub fn watched_stop(&self, profile: &Profile) -> Vec<String> {
        let most = profile.max_stop_sequences.unwrap_or(usize::MAX);
        self.stop.iter().skip(most).cloned().collect()
    }

    fn add_limit(&self, profile: &Profile, out: &mut Map<String, Value>) {
        // Any value below 1 means "no limit", which is an upstream's default.
        if let Some(limit) = self.integer("num_predict").filter(|limit| *limit > 0) {
            out.insert(profile.max_tokens.into(), limit.into());
        }
    }

    /// What nearly every server knows.
    fn add_core(&self, profile: &Profile, out: &mut Map<String, Value>) {
        self.add_float("temperature", "temperature", None, out);
        let below_one = profile.needs_top_p_below_one;
        let top_p_off = |value: f64| below_one && value >= 1.0;
        if !self.float("top_p").and_then(Number::as_f64).is_some_and(top_p_off) {
            self.add_float("top_p", "top_p", None, out);
        }
        // -1 asks for a seed by chance, which is what comes without one.
        let bad_seed = |seed: i64| seed == -1 || (profile.needs_unsigned_seed && seed < 0);
        if let Some(seed) = self.integer("seed").filter(|seed| !bad_seed(*seed)) {
            out.insert(profile.seed.into(), seed.into());
        }
        let stops = profile.max_stop_sequences.unwrap_or(usize::MAX).min(self.stop.len());
        if stops > 0 {
            out.insert("stop".into(), self.stop[..stops].into());
        }
        for name in profile.penalties {
            self.add_float(name, name, Some(0.0), out);
        }
    }

    /// What some families know, each by its own name.
    fn add_extended(&self, profile: &Profile, out: &mut Map<String, Value>) {
        if let (Some(name), Some(top_k)) = (profile.top_k, self.integer("top_k")) {
            match (top_k > 0, profile.top_k_off) {
                (true, _) => drop(out.insert(name.into(), top_k.into())),
                (false, Some(off)) => drop(out.insert(name.into(), off.into())),
                (false, None) => {}
            }
        }
        if let Some(name) = profile.min_p {
            self.add_float("min_p", name, Some(0.0), out);
        }
        if let Some(name) = profile.repeat_penalty {
            self.add_float("repeat_penalty", name, Some(1.0), out);
        }
    }

    /// What only llama.cpp knows.
    fn add_llama(&self, out: &mut Map<String, Value>) {
        self.add_float("typical_p", "typical_p", Some(1.0), out);
        // -1 means the whole context, which newer servers no longer take as a number.
        let last_n = match self.integer("repeat_last_n") {
            Some(..0) => self.integer("num_ctx"),
            other => other,
        };
        if let Some(last_n) = last_n {
            out.insert("repeat_last_n".into(), last_n.into());
        }
        if let Some(keep) = self.integer("num_keep") {
            out.insert("n_keep".into(), keep.into());
        }
    }

    /// Sends a float under `name`, unless it has the value that means "off".
    fn add_float(&self, option: &str, name: &str, off: Option<f64>, out: &mut Map<String, Value>) {
        if let Some(value) = self.float(option)
            && (off.is_none() || value.as_f64() != off)
        {
            out.insert(name.into(), Value::Number(value.clone()));
        }
    }

    fn float(&self, option: &str) -> Option<&Number> {
        self.floats.iter().rfind(|(known, _)| *known == option).map(|(_, value)| value)
    }

    fn integer(&self, option: &str) -> Option<i64> {
        self.integers.iter().rfind(|(name, _)| *name == option).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backends::profiles;
    use crate::backends::profiles::GENERIC;

    fn options(value: Value) -> Result<Options> {
        parse(value.as_object())
    }

    fn family(name: &str) -> &'static Profile {
        let found = profiles::find_by_owner(name).or_else(|| profiles::find_by_host(name));
        found.or_else(|| profiles::find_by_name(name)).expect("a known family")
    }

    fn check(profile: &Profile, from: Value, to: Value) {
        let sent = options(from.clone()).expect("valid options").for_chat(profile);
        assert_eq!(Value::Object(sent), to, "{} {from}", profile.name);
    }

    #[test]
    fn only_what_was_set_is_sent() {
        check(&GENERIC, json!({}), json!({}));
        check(&GENERIC, json!({"temperature": null, "num_predict": null}), json!({}));
        check(
            &GENERIC,
            json!({"temperature": 0, "top_p": 0.5, "seed": 0, "stop": ["a", "", "b"], "num_predict": 7.9}),
            json!({"temperature": 0, "top_p": 0.5, "seed": 0, "stop": ["a", "b"], "max_tokens": 7}),
        );
    }

    #[test]
    fn values_that_mean_off_are_left_out() {
        check(
            family("llamacpp"),
            json!({"num_predict": -1, "seed": -1, "stop": [], "min_p": 0, "typical_p": 1.0,
                "presence_penalty": 0, "frequency_penalty": 0.0, "repeat_penalty": 1}),
            json!({}),
        );
        check(&GENERIC, json!({"num_predict": -2}), json!({}));
        check(&GENERIC, json!({"num_predict": 0}), json!({}));
    }

    #[test]
    fn each_family_gets_its_own_names() {
        let all = json!({"num_predict": 5, "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1,
            "typical_p": 0.9, "repeat_last_n": 64, "num_keep": 4, "seed": 3, "num_ctx": 8192,
            "presence_penalty": 0.5});
        check(
            family("api.openai.com"),
            all.clone(),
            json!({"max_completion_tokens": 5, "seed": 3, "presence_penalty": 0.5}),
        );
        check(
            family("llamacpp"),
            all.clone(),
            json!({"max_tokens": 5, "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "n_keep": 4,
                "typical_p": 0.9, "repeat_last_n": 64, "seed": 3, "presence_penalty": 0.5}),
        );
        check(
            family("vllm"),
            all.clone(),
            json!({"max_tokens": 5, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3,
                "presence_penalty": 0.5}),
        );
        check(
            family("api.mistral.ai"),
            all.clone(),
            json!({"max_tokens": 5, "random_seed": 3, "presence_penalty": 0.5}),
        );
        check(family("api.x.ai"), all.clone(), json!({"max_tokens": 5, "seed": 3}));
        check(&GENERIC, all, json!({"max_tokens": 5, "seed": 3, "presence_penalty": 0.5}));
    }

    #[test]
    fn the_others_differ_from_an_unknown_server_in_what_they_take() {
        let all = json!({"num_predict": 5, "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1,
            "typical_p": 0.9, "repeat_last_n": 64, "num_keep": 4, "seed": 3, "top_p": 0.5,
            "presence_penalty": 0.5, "frequency_penalty": 0.25});
        let core = json!({"max_tokens": 5, "seed": 3, "top_p": 0.5, "presence_penalty": 0.5,
            "frequency_penalty": 0.25});
        let with = |change: &Value, without: &[&str]| {
            let mut out = core.clone();
            let members = out.as_object_mut().expect("an object");
            without.iter().for_each(|name| drop(members.remove(*name)));
            members.extend(change.as_object().expect("an object").clone());
            out
        };
        let azure = with(&json!({"max_completion_tokens": 5}), &["max_tokens"]);
        check(family("azure"), all.clone(), azure);
        check(family("tgi"), all.clone(), with(&json!({}), &["presence_penalty"]));
        let gemini = with(&json!({}), &["presence_penalty", "frequency_penalty"]);
        check(family("gemini"), all.clone(), gemini);
        check(family("litellm"), all.clone(), core.clone());
        check(family("ollama"), all.clone(), core.clone());
        let lmstudio = with(&json!({"top_k": 40, "repeat_penalty": 1.1}), &[]);
        check(family("lmstudio"), all.clone(), lmstudio);
        let localai = json!({"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "typical_p": 0.9,
            "repeat_last_n": 64, "n_keep": 4});
        check(family("localai"), all, with(&localai, &[]));
    }

    #[test]
    fn values_that_tgi_would_refuse_are_left_out() {
        let tgi = family("tgi");
        let odd = json!({"top_p": 1.0, "seed": -7, "presence_penalty": 0});
        check(tgi, odd.clone(), json!({}));
        check(tgi, json!({"top_p": 0.99, "seed": 0}), json!({"top_p": 0.99, "seed": 0}));
        check(&GENERIC, odd, json!({"top_p": 1.0, "seed": -7}));
    }

    #[test]
    fn lm_studio_is_told_how_long_a_model_stays() {
        let said =
            |name: &str, value: Value| Value::Object(keep_alive_to_ttl(Some(&value), family(name)));
        assert_eq!(said("lmstudio", json!("5m")), json!({"ttl": 300}));
        assert_eq!(said("lmstudio", json!(0.5)), json!({"ttl": 1}));
        for none in [json!(0), json!(-1), json!("-1m"), json!(null)] {
            assert_eq!(said("lmstudio", none.clone()), json!({}), "{none}");
        }
        assert_eq!(said("vllm", json!("5m")), json!({}));
        assert!(keep_alive_to_ttl(None, family("lmstudio")).is_empty());
    }

    #[test]
    fn openai_gets_no_more_stop_sequences_than_it_takes() {
        let five = json!({"stop": ["a", "b", "c", "d", "e"]});
        for name in ["openai", "azure"] {
            check(family(name), five.clone(), json!({"stop": ["a", "b", "c", "d"]}));
            let options = options(five.clone()).expect("valid");
            assert_eq!(options.watched_stop(family(name)), ["e"], "it is watched for instead");
            assert!(options.watched_stop(&GENERIC).is_empty());
        }
        check(&GENERIC, five.clone(), five);
    }

    #[test]
    fn top_k_zero_is_said_in_each_family_s_way() {
        check(family("llamacpp"), json!({"top_k": 0}), json!({"top_k": 0}));
        check(family("sglang"), json!({"top_k": 0}), json!({"top_k": -1}));
        check(family("openrouter.ai"), json!({"top_k": 0}), json!({}));
    }

    #[test]
    fn the_whole_context_is_said_as_a_number() {
        let llama = family("llamacpp");
        check(llama, json!({"repeat_last_n": -1, "num_ctx": 4096}), json!({"repeat_last_n": 4096}));
        check(llama, json!({"repeat_last_n": -1}), json!({}));
        check(llama, json!({"repeat_last_n": 0}), json!({"repeat_last_n": 0}));
    }

    #[test]
    fn bare_completions_are_not_cut_after_a_few_words() {
        let completion = |profile: &Profile, from: Value| {
            Value::Object(options(from).expect("valid options").for_completion(profile))
        };
        assert_eq!(completion(&GENERIC, json!({})), json!({"max_tokens": 4096}));
        assert_eq!(completion(family("llamacpp"), json!({})), json!({}));
        let openai = family("api.openai.com");
        assert_eq!(completion(openai, json!({"num_predict": 3})), json!({"max_tokens": 3}));
    }

    #[test]
    fn digits_stay_as_they_were_written() {
        let sent = options(json!({"temperature": 0.7, "top_p": 1})).expect("valid");
        let text = Value::Object(sent.for_chat(&GENERIC)).to_string();
        assert_eq!(text, r#"{"temperature":0.7,"top_p":1}"#);
    }

    #[test]
    fn wrong_types_are_refused_in_ollama_s_words() {
        let check = |value: Value, expected: &str| match options(value) {
            Err(error) => {
                assert_eq!(error.message(), expected);
                assert_eq!(error.status(), Some(500));
            }
            Ok(options) => panic!("accepted as {options:?}"),
        };
        check(json!({"temperature": "hot"}), r#"option "temperature" must be of type float32"#);
        check(json!({"num_predict": "5"}), r#"option "num_predict" must be of type integer"#);
        check(json!({"stop": "x"}), r#"option "stop" must be of type array"#);
        check(json!({"stop": [1]}), r#"option "stop" must be of an array of strings"#);
        check(json!({"use_mmap": 1}), r#"option "use_mmap" must be of type boolean"#);
    }

    #[test]
    fn unknown_and_former_options_are_ignored() {
        check(&GENERIC, json!({"mirostat": "x", "tfs_z": {}, "low_vram": true}), json!({}));
    }

    #[test]
    fn the_family_matters_only_for_extended_options() {
        let needs = |value: Value| options(value).expect("valid").needs_profile();
        assert!(!needs(json!({"temperature": 1, "num_predict": 3, "seed": 1})));
        assert!(needs(json!({"top_k": 1})));
        assert!(needs(json!({"min_p": 0.1})));
        // Only TGI misreads these.
        assert!(needs(json!({"presence_penalty": 0.1})) && !needs(json!({"presence_penalty": 0})));
        assert!(needs(json!({"top_p": 1})) && !needs(json!({"top_p": 0.9})));
        assert!(needs(json!({"seed": -5})) && !needs(json!({"seed": -1})));
    }
}
