//! The small readers of texts: names, templates, durations, secrets, contexts.

use ollama_openai_proxy::api::wire::keep_alive;
use ollama_openai_proxy::api::wire::keep_alive::KeepAlive;
use ollama_openai_proxy::backends::names;
use ollama_openai_proxy::observe::redact::{Redactor, Secret};
use ollama_openai_proxy::translate::context_codec;
use ollama_openai_proxy::translate::context_codec::Conversation;
use ollama_openai_proxy::translate::template;
use serde_json::Value;

use super::mutate::Dice;

/// Words of names.
pub const NAME_WORDS: &[&str] = &[
    ":latest", "latest", ":", "/", "https://", "http://", "registry.ollama.ai/", "library/",
    "models/", ":cloud", "-cloud", ":local", "LATEST", "llama3.2", "3b", "@", ".", "-", "_", " ",
];

/// Words of templates.
pub const TEMPLATE_WORDS: &[&str] = &[
    "{{", "}}", "{{-", "-}}", "{{ if ", "{{ else }}", "{{ end }}", "{{ range ", "{{ with ",
    "{{ define \"a\" }}", "{{ template \"a\" . }}", "{{ block \"a\" . }}", "{{ break }}",
    "{{ continue }}", ".Prompt", ".Messages", "$x", ":=", "|", "(", ")", "\"", "`", "'", "/*",
    "*/", "and", "or", "not", "eq", "index", "len", "json", "0x1p", "1e5", "nil", "true", ".", ",",
    "=",
];

/// Words that keys are made of.
pub const KEY_WORDS: &[&str] = &[
    "sk-", "Bearer ", "bearer ", "***", "*", "abcdef", "123456", "-", "_", ".", " ", "s3cret-key",
    "s3cret", "-key", "\n", "\"",
];

/// Model names: one key for all spellings, and what has the grammar comes back from its forms.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let name = text.trim();
    let shown = names::display_name(name);
    assert_eq!(names::display_name(&shown), shown, "display");
    assert!(names::full_name(name).ends_with(&shown));
    if let Some(bare) = names::strip_latest_tag(name) {
        assert!(name.starts_with(bare) && !bare.is_empty());
    }
    assert!(name.ends_with(names::strip_default_prefixes(name)));
    if names::validate(name).is_ok() {
        assert_eq!(
            names::canonical_key(&shown),
            names::canonical_key(name),
            "the tag may be left out"
        );
        assert_eq!(
            names::canonical_key(&name.to_ascii_uppercase()),
            names::canonical_key(name),
            "in any case"
        );
        assert!(!name.chars().any(char::is_control) && name.len() <= 1024);
    }
    if let Ok((bare, _)) = names::split_source(name) {
        assert!(name.starts_with(bare));
    }
    if name.is_empty() {
        return;
    }
    let others = ["other", "x/y:z"];
    let ids = || others.into_iter().chain([name]);
    assert_eq!(names::find_id(ids(), name), Some(name), "a listed id means itself");
    if names::is_valid(name) {
        let key = names::canonical_key(name);
        assert_eq!(names::canonical_key(&key), key, "a key is its own");
        assert!(names::is_valid(&shown) && names::is_plausible(name));
        let listed = [shown.as_str()];
        assert_eq!(
            names::find_id(listed.into_iter(), name),
            Some(shown.as_str()),
            "by its own name"
        );
        if names::validate(name).is_ok() {
            let found = names::find_id(listed.into_iter(), &name.to_ascii_uppercase());
            assert_eq!(found, Some(shown.as_str()), "in capitals");
        }
    }
}

/// Templates: every text is accepted or refused, and a plain word before or behind changes nothing.
pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let checked = template::check(&text);
    if let Err(reason) = &checked {
        assert!(reason.starts_with("template: :"), "{reason}");
        assert!(!reason.contains('\n') && reason.len() < 1024, "{} bytes", reason.len());
    }
    assert_eq!(template::check(&format!("word {text}")).is_ok(), checked.is_ok());
    if checked.is_ok() && !text.ends_with('{') {
        assert!(template::check(&format!("{text} word")).is_ok());
        assert!(template::check(&format!("{text}\n{{{{ .Prompt }}}}")).is_ok());
    }
}

/// `keep_alive`: in bounds, and the same from a setting as from a request.
pub fn durations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = keep_alive::parse_go_duration(&text);
    match &read {
        Ok(KeepAlive::For(time)) => assert!(*time <= keep_alive::MAX_DURATION),
        Ok(KeepAlive::Forever) => assert!(text.starts_with('-')),
        Err(reason) => assert!(reason.starts_with("time: "), "{reason}"),
    }
    let quoted = KeepAlive::from_json(&Value::from(text.as_ref()));
    assert_eq!(quoted, read.clone().map(Some));
    if let (Ok(KeepAlive::For(time)), false) = (&read, text.starts_with(['-', '+'])) {
        let twice = keep_alive::parse_go_duration(&format!("{text}1s"));
        let at_least = matches!(&twice, Ok(KeepAlive::For(sum)) if sum >= time);
        assert!(at_least || text.as_ref() == "0", "{twice:?}");
    }
    if let Ok(value) = serde_json::from_str::<Value>(&text)
        && let Ok(Some(KeepAlive::For(time))) = KeepAlive::from_json(&value)
    {
        assert!(time <= keep_alive::MAX_DURATION);
    }
}

/// Secrets: what is clean stays as it is, and the key never comes through.
pub fn redact(data: &[u8]) {
    const KEY: &str = "s3cret-key";
    let redactor = Redactor::new(Some(Secret::new(KEY)));
    let text = String::from_utf8_lossy(data);
    let planted = {
        let mut at = Dice::of(data).below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        format!("{}{KEY}{}", &text[..at], &text[at..])
    };
    for text in [text.as_ref(), &planted] {
        let clean = redactor.redact(text);
        assert!(!clean.contains(KEY), "the key comes through");
        assert_eq!(redactor.redact(&clean), clean, "cleaning twice");
    }
}

/// The `context` of a generate request: anybody's numbers, and our own ones back.
pub fn context(data: &[u8]) {
    let numbers: Vec<i64> = data
        .chunks(3)
        .map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | i64::from(*byte)))
        .collect();
    let turns = context_codec::decode(&numbers);
    let own = Conversation::from_messages(&turns).encode();
    let own: Vec<i64> = own.into_iter().map(i64::from).collect();
    assert_eq!(context_codec::decode(&own).len(), turns.len());
    // The same bytes as the text of a turn that is remembered.
    let text = String::from_utf8_lossy(data);
    let turn = ollama_openai_proxy::api::openai::request::Message::text("user", text.as_ref());
    let kept: Vec<i64> =
        Conversation::from_messages(&[turn]).encode().into_iter().map(i64::from).collect();
    let back = context_codec::decode(&kept);
    assert!(back.len() == 1 && back[0].as_text() == text, "what was said comes back");
    // A list that was changed is nobody's, or says something else; it never panics.
    let mut dice = Dice::of(data);
    let mut broken = kept;
    let place = dice.below(broken.len());
    broken[place] ^= 1 << dice.below(63);
    assert!(context_codec::decode(&broken).len() <= data.len() + 1);
}
