//! The section `[[key]]`: its table of keys, and the client keys that it defines.

use super::node::{Member, Node};
use super::scope::{KeySpec, Scope};
use super::upstream_keys::{sections, table};
use crate::config::read_file;
use crate::http::client_keys::{ClientKeys, NamedKey};
use crate::http::key_lines;
use crate::observe::redact::Secret;

/// The section's name in messages.
const SECTION: &str = "[[key]]";

/// A client key while its section is read.
#[derive(Default)]
pub struct KeyDraft {
    named: NamedKey,
    key: Option<Secret>,
}

/// Every key of a client key.
pub const KEY_KEYS: &[KeySpec<KeyDraft>] = &[
    KeySpec {
        key: "name",
        example: "\"alice\"",
        help: "for log and metrics; needed",
        is_needed: true,
        apply: |draft, member, scope| {
            scope.set_text(&mut draft.named.name, member, key_lines::parse_name);
        },
    },
    KeySpec {
        key: "key",
        example: "\"${ALICE_KEY}\"",
        help: "or key_file",
        is_needed: false,
        apply: |draft, member, scope| {
            scope.mask_variables(&member.node);
            scope.set_text(&mut draft.key, member, |text| key_lines::parse_key(text).map(Some));
        },
    },
    KeySpec {
        key: "key_file",
        example: "\"/run/secrets/alice\"",
        help: "with nothing but the key",
        is_needed: false,
        apply: |draft, member, scope| {
            let key = scope.path(member).map(|path| {
                let bytes = read_file::read(&path)?;
                let text = String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
                key_lines::parse_key(&text).map(Some)
            });
            scope.set(&mut draft.key, member, key);
        },
    },
    KeySpec {
        key: "models",
        example: "[\"qwen*\", \"gpt-4o\"]",
        help: "only these",
        is_needed: false,
        apply: |draft, member, scope| {
            let texts = scope.texts(member).filter(|texts| !texts.is_empty());
            let patterns =
                texts.map(|texts| key_lines::parse_patterns(texts.iter().map(|(_, text)| *text)));
            let patterns = patterns.map(|it| it.map_err(|_| "expected patterns of models".into()));
            scope.set(&mut draft.named.models, member, patterns);
        },
    },
    KeySpec {
        key: "requests_per_minute",
        example: "60",
        help: "and tokens_per_day, max_parallel: 429 beyond",
        is_needed: false,
        apply: |draft, member, scope| {
            let most = key_lines::MAX_REQUESTS_PER_MINUTE;
            set_number(&mut draft.named.rates.requests_per_minute, member, most, scope);
        },
    },
    KeySpec {
        key: "tokens_per_day",
        example: "1000000",
        help: "prompts and answers, from midnight UTC",
        is_needed: false,
        apply: |draft, member, scope| {
            let most = key_lines::MAX_TOKENS_PER_DAY;
            set_number(&mut draft.named.rates.tokens_per_day, member, most, scope);
        },
    },
    KeySpec {
        key: "max_parallel",
        example: "2",
        help: "requests at once",
        is_needed: false,
        apply: |draft, member, scope| {
            let most = key_lines::MAX_PARALLEL;
            set_number(&mut draft.named.rates.max_parallel, member, most, scope);
        },
    },
];

fn set_number(slot: &mut Option<u64>, member: &Member, most: u64, scope: &mut Scope<'_>) {
    let number = scope.integer(member, 1..=most).map(|number| Ok(Some(number)));
    scope.set(slot, member, number);
}

/// The client keys of the file, of which each has a name of its own.
pub fn read_all(member: &Member, scope: &mut Scope<'_>) -> ClientKeys {
    let mut keys = ClientKeys::default();
    let mut known: Vec<(String, usize)> = Vec::new();
    for node in sections(member, SECTION, scope) {
        let Some(KeyDraft { named, key }) = read(node, scope) else { continue };
        if let Some((_, line)) = known.iter().find(|(name, _)| *name == named.name) {
            let problem = format!("the name is taken by the key in line {line}");
            scope.problems.add(node.line, &problem);
            continue;
        }
        known.push((named.name.clone(), node.line));
        let Some(key) = key else { continue };
        if keys.contains(key.expose()) {
            scope.problems.add(node.line, "the key is that of another [[key]]");
            continue;
        }
        if let Err(why) = keys.add_named(named, key, None) {
            scope.problems.add(node.line, why);
        }
    }
    keys
}

/// One key; `None` without a name.
fn read(node: &Node, scope: &mut Scope<'_>) -> Option<KeyDraft> {
    let members = table(node, SECTION, scope)?;
    let mut draft = KeyDraft::default();
    scope.read_section((SECTION, KEY_KEYS), &mut draft, (node.line, members));
    let find = |key: &str| members.iter().find(|member| member.key == key);
    match (find("key"), find("key_file")) {
        (Some(_), Some(file)) => scope.refuse(file, "key is set, too: remove one of them"),
        (None, None) if !scope.has_broken_line(node.line) => {
            scope.problems.add(node.line, &format!("{SECTION} needs key or key_file"));
        }
        _ => {}
    }
    (!draft.named.name.is_empty()).then_some(draft)
}
