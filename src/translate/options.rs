//! Translates Ollama's `options` to an upstream's sampling parameters.
//!
//! Sends only what the caller set, under the name in the upstream's profile; parameters that the
//! upstream does not know, and options that only steer loading (`num_ctx`, `num_gpu`, ...), are left
//! out. So are values that mean "off", because some servers misread them. Numbers keep the digits
//! that the caller wrote. A value of the wrong type is refused in Ollama's words (`api/types.go`,
//! `Options.FromMap`).

use serde_json::{Map, Number, Value};

use crate::api::openai::request::ResponseEffects;
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::profiles::{GENERIC, Profile};
use crate::error::{Error, Result};

/// Limit on the tokens of a bare completion if the caller sets none and the context length is not known:
/// several servers default to 16, as OpenAI does. A limit above the window is lowered when the upstream
/// rejects it.
const DEFAULT_COMPLETION_TOKENS: u64 = 4096;

/// A low estimate of the bytes in a token, so that prompt and limit fit into the window.
const MIN_BYTES_PER_TOKEN: u64 = 2;

/// What `top_p: 0`, only the most likely token, becomes where 0 is refused.
const MIN_TOP_P: f64 = 0.000_001;

/// Stop sequences that every known server takes.
const FEWEST_STOP_SEQUENCES: usize = 4;

/// The options of a request, checked for their types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The numbers by name; integers without a fraction.
    numbers: Map<String, Value>,
    stop: Vec<String>,
}

/// Reads `options`. `null` counts as absent, unknown names are ignored, and integers lose their
/// fraction.
///
/// # Errors
/// [`Error::InvalidOption`] for a value of the wrong type.
pub fn parse(options: Option<&Map<String, Value>>) -> Result<Options> {
    let mut out = Options::default();
    for (name, value) in options.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let wrong =
            |kind: &str| Err(Error::InvalidOption(format!("option \"{name}\" must be {kind}")));
        match name.as_str() {
            "num_ctx" | "num_predict" | "num_keep" | "seed" | "top_k" | "repeat_last_n"
            | "num_batch" | "num_gpu" | "main_gpu" | "num_thread" | "draft_num_predict" => {
                let Some(number) = to_integer(value) else { return wrong("of type integer") };
                out.numbers.insert(name.clone(), number.into());
            }
            "temperature" | "top_p" | "min_p" | "typical_p" | "repeat_penalty"
            | "presence_penalty" | "frequency_penalty" => {
                if !value.is_number() {
                    return wrong("of type float32");
                }
                out.numbers.insert(name.clone(), value.clone());
            }
            "stop" => {
                let Value::Array(items) = value else { return wrong("of type array") };
                for item in items {
                    match item {
                        Value::String(text) if text.is_empty() => {}
                        Value::String(text) => out.stop.push(text.clone()),
                        _ => return wrong("of an array of strings"),
                    }
                }
            }
            "use_mmap" if !value.is_boolean() => return wrong("of type boolean"),
            _ => {}
        }
    }
    Ok(out)
}

/// Options out of members of another API, without those that are absent.
pub(super) fn from_members<const N: usize>(
    members: [(&str, Option<Value>); N],
) -> Map<String, Value> {
    // Not collected: that sorts the members first, by a large function for each of the iterators.
    let mut out = Map::new();
    for (name, value) in members {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    }
    out
}

/// The context length that a request sets, in tokens.
pub fn num_ctx(options: Option<&Map<String, Value>>) -> Option<u64> {
    u64::try_from(to_integer(options?.get("num_ctx")?)?).ok()
}

/// The parameter for the time to keep the model loaded, in whole seconds, for an upstream that has one
/// (LM Studio's `ttl`). It cannot express "unload at once" and "for ever".
pub fn keep_alive_to_ttl(keep_alive: Option<&Value>, profile: &Profile) -> Option<(String, Value)> {
    match KeepAlive::from_json(keep_alive?).ok()?? {
        KeepAlive::For(time) if !time.is_zero() => {
            let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
            Some((profile.ttl_param?.to_owned(), seconds.into()))
        }
        _ => None,
    }
}

/// The tokens that a window leaves beside a prompt, at least a quarter of it.
fn room_beside(prompt: &str, window: u64) -> u64 {
    let prompt_tokens = prompt.len() as u64 / MIN_BYTES_PER_TOKEN + 1;
    window.saturating_sub(prompt_tokens).max(window / 4).max(1)
}

/// Any JSON number as an integer.
fn to_integer(value: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)] // Saturates.
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

impl Options {
    /// The parameters for `chat/completions`.
    pub fn for_chat(&self, profile: &Profile) -> Map<String, Value> {
        let llama = |name| profile.takes_llamacpp_params.then_some(name);
        let integers = [
            // A limit below 1 means none, which is the upstream's default.
            (Some(profile.max_tokens), self.integer("num_predict").filter(|limit| *limit > 0)),
            (Some(profile.seed), self.seed(profile)),
            (profile.top_k, self.top_k(profile)),
            (llama("repeat_last_n"), self.repeat_last_n()),
            (llama("n_keep"), self.integer("num_keep")),
        ];
        // The option, its name upstream, and the value that means "off".
        let floats = [
            ("temperature", Some("temperature"), None),
            ("top_p", Some("top_p").filter(|_| self.is_valid_top_p(profile)), None),
            ("min_p", profile.min_p, Some(0.0)),
            ("repeat_penalty", profile.repeat_penalty, Some(1.0)),
            ("typical_p", llama("typical_p"), Some(1.0)),
        ];
        let penalties = profile.penalties.iter().map(|name| (*name, Some(*name), Some(0.0)));

        let mut out = Map::new();
        for (name, value) in integers {
            out.extend(name.zip(value).map(|(name, value)| (name.to_owned(), value.into())));
        }
        for (option, name, off) in floats.into_iter().chain(penalties) {
            let value = self.float(option).filter(|value| off.is_none() || value.as_f64() != off);
            out.extend(
                name.zip(value).map(|(name, value)| (name.to_owned(), value.clone().into())),
            );
        }
        if profile.needs_positive_top_p
            && let Some(top_p) = out.get_mut("top_p")
            && top_p.as_f64().is_some_and(|value| value <= 0.0)
        {
            *top_p = MIN_TOP_P.into();
        }
        let (sent, _) = self.split_stop(profile);
        if !sent.is_empty() {
            out.insert("stop".into(), sent.into());
        }
        out
    }

    /// The parameters for `completions`. Without a limit of the caller's, it is set to what a window of
    /// `context_length` tokens leaves beside `prompt`, where the server's own default is a few words.
    pub fn for_completion(
        &self,
        profile: &Profile,
        prompt: &str,
        context_length: Option<u64>,
    ) -> Map<String, Value> {
        let mut out = self.for_chat(profile);
        // This endpoint calls the limit `max_tokens` on every server.
        let limit = out.remove(profile.max_tokens);
        let default = || {
            let room = context_length.map(|window| room_beside(prompt, window));
            profile.needs_completion_limit.then(|| room.unwrap_or(DEFAULT_COMPLETION_TOKENS).into())
        };
        if let Some(limit) = limit.or_else(default) {
            out.insert("max_tokens".into(), limit);
        }
        out
    }

    /// True if a set option is translated differently from server to server, so that the upstream's
    /// profile must be known first.
    pub fn needs_profile(&self) -> bool {
        const EXTENDED: &[&str] =
            &["top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "num_keep"];
        EXTENDED.iter().any(|name| self.numbers.contains_key(*name))
            // Values that one server misreads or refuses, although it knows the name.
            || self.integer("seed").is_some_and(|seed| seed < -1)
            || self
                .float("top_p")
                .and_then(Number::as_f64)
                .is_some_and(|value| value >= 1.0 || value <= 0.0)
            || self.stop.len() > FEWEST_STOP_SEQUENCES
            || self.float("presence_penalty").is_some_and(|value| value.as_f64() != Some(0.0))
    }

    /// What the proxy does about stop sequences: it watches for all if there are more than the upstream
    /// takes, and at the end of the text at a server of which nothing is known: some leave the sequence
    /// there (`transformers serve`).
    pub fn stop_effects(&self, profile: &Profile) -> ResponseEffects {
        let is_unknown = *profile == GENERIC && !self.stop.is_empty();
        let is_watched = is_unknown || !self.split_stop(profile).1.is_empty();
        let watched_stop = if is_watched { self.stop.clone() } else { Vec::new() };
        ResponseEffects { watched_stop, sent_stop: is_unknown, ..ResponseEffects::default() }
    }

    fn split_stop(&self, profile: &Profile) -> (&[String], &[String]) {
        let most = profile.max_stop_sequences.unwrap_or(usize::MAX);
        self.stop.split_at(most.min(self.stop.len()))
    }

    fn is_valid_top_p(&self, profile: &Profile) -> bool {
        let top_p = self.float("top_p").and_then(Number::as_f64);
        !(profile.needs_top_p_below_one && top_p.is_some_and(|value| value >= 1.0))
    }

    /// -1 asks for a random seed, which is the default.
    fn seed(&self, profile: &Profile) -> Option<i64> {
        let is_valid = |seed: &i64| *seed != -1 && (*seed >= 0 || !profile.needs_unsigned_seed);
        self.integer("seed").filter(is_valid)
    }

    fn top_k(&self, profile: &Profile) -> Option<i64> {
        self.integer("top_k")
            .and_then(|top_k| if top_k > 0 { Some(top_k) } else { profile.top_k_off })
    }

    /// -1 means the whole context, which newer versions of llama.cpp take only as a number of tokens.
    fn repeat_last_n(&self) -> Option<i64> {
        match self.integer("repeat_last_n") {
            Some(..0) => self.integer("num_ctx"),
            other => other,
        }
    }

    fn float(&self, option: &str) -> Option<&Number> {
        self.numbers.get(option)?.as_number()
    }

    fn integer(&self, option: &str) -> Option<i64> {
        self.numbers.get(option)?.as_i64()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backends::profiles::{self, GENERIC};

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
    fn top_p_zero_is_sent_as_the_nearest_value_that_is_accepted() {
        for name in ["vllm", "sglang", "tgi"] {
            check(family(name), json!({"top_p": 0}), json!({"top_p": 0.000_001}));
            check(family(name), json!({"top_p": 0.5}), json!({"top_p": 0.5}));
        }
        check(&GENERIC, json!({"top_p": 0}), json!({"top_p": 0}));
    }

    #[test]
    fn lm_studio_is_told_how_long_a_model_stays() {
        let said = |name: &str, value: Value| {
            Value::from_iter(keep_alive_to_ttl(Some(&value), family(name)))
        };
        assert_eq!(said("lmstudio", json!("5m")), json!({"ttl": 300}));
        assert_eq!(said("lmstudio", json!(0.5)), json!({"ttl": 1}));
        for none in [json!(0), json!(-1), json!("-1m"), json!(null)] {
            assert_eq!(said("lmstudio", none.clone()), json!({}), "{none}");
        }
        assert_eq!(said("vllm", json!("5m")), json!({}));
        assert!(keep_alive_to_ttl(None, family("lmstudio")).is_none());
    }

    #[test]
    fn no_family_gets_more_stop_sequences_than_it_takes() {
        let five = json!({"stop": ["a", "b", "c", "d", "e"]});
        for name in ["openai", "azure", "vllm"] {
            check(family(name), five.clone(), json!({"stop": ["a", "b", "c", "d"]}));
            let options = options(five.clone()).expect("valid");
            let effects = options.stop_effects(family(name));
            assert_eq!((effects.watched_stop.len(), effects.sent_stop), (5, false));
            let effects = options.stop_effects(&GENERIC);
            assert_eq!((effects.watched_stop.len(), effects.sent_stop), (5, true));
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
            let options = options(from).expect("valid options");
            Value::Object(options.for_completion(profile, "four", None))
        };
        assert_eq!(completion(&GENERIC, json!({})), json!({"max_tokens": 4096}));
        let within = |prompt: &str, window| {
            Options::default().for_completion(&GENERIC, prompt, Some(window))["max_tokens"].clone()
        };
        assert_eq!(within("four", 2048), 2045);
        assert_eq!(within("four", 131_072), 131_069);
        assert_eq!(within(&"x".repeat(4000), 2048), 512, "the estimate is a low one");
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
        let stop = |count: usize| json!({"stop": vec!["a"; count]});
        assert!(needs(stop(5)) && !needs(stop(4)));
        assert!(needs(json!({"top_p": 0})));
        // Only TGI misreads these.
        assert!(needs(json!({"presence_penalty": 0.1})) && !needs(json!({"presence_penalty": 0})));
        assert!(needs(json!({"top_p": 1})) && !needs(json!({"top_p": 0.9})));
        assert!(needs(json!({"seed": -5})) && !needs(json!({"seed": -1})));
    }
}
