//! The bodies of the fuzz targets: what must hold of each reader for any bytes at all.
//!
//! A body is a function of bytes that panics where an invariant does not hold, so that it serves three
//! drivers: libFuzzer (`fuzz_targets/`, one thin file each), the driver of this crate, which needs
//! nothing but stable Rust, and `tests/it/fuzz_replay.rs`, which takes these files in as a module.
//! Bodies have no state and ask neither clock nor chance: the same bytes always do the same.

pub mod answers;
pub mod corpus;
pub mod mutate;
pub mod origins;
pub mod passing;
pub mod requests;
pub mod settings;
pub mod sse;
pub mod streams;
pub mod texts;
pub mod upstreams;

use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::backends::profiles::{GENERIC, Profile};
use ollama_openai_proxy::error::Error;

/// One target: its name, its body, and where its inputs begin.
pub struct Target {
    /// As in `fuzz_targets/NAME.rs` and `corpus/NAME/`.
    pub name: &'static str,
    /// Panics where an invariant does not hold.
    pub body: fn(&[u8]),
    /// Folders of `tests/golden`, and what the names of files in them begin with, whose files are
    /// seeds too.
    pub golden: &'static [(&'static str, &'static str)],
    /// Words of its grammar, for the mutations of our own driver.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "chat",
        body: requests::chat,
        golden: &[("chat", "request.ollama")],
        words: requests::WORDS,
    },
    Target {
        name: "generate",
        body: requests::generate,
        golden: &[("generate", "request.ollama")],
        words: requests::WORDS,
    },
    Target {
        name: "embed",
        body: requests::embed,
        golden: &[("embed", "request.ollama"), ("embeddings", "request.ollama")],
        words: requests::WORDS,
    },
    Target {
        name: "manage",
        body: requests::manage,
        golden: &[("create", "request.ollama")],
        words: requests::WORDS,
    },
    Target {
        name: "messages",
        body: requests::messages,
        golden: &[("anthropic", "request.anthropic")],
        words: requests::WORDS,
    },
    Target {
        name: "responses",
        body: requests::responses,
        golden: &[("responses", "request.responses")],
        words: requests::WORDS,
    },
    Target {
        name: "pass",
        body: passing::pass,
        golden: &[("chat", "request.openai"), ("responses", "request.responses")],
        words: requests::WORDS,
    },
    Target { name: "form", body: passing::form, golden: &[], words: passing::FORM_WORDS },
    Target { name: "unpack", body: passing::unpack, golden: &[], words: &[] },
    Target {
        name: "sse",
        body: sse::sse,
        golden: &[("chat", "stream.sse"), ("generate", "stream.sse")],
        words: sse::WORDS,
    },
    Target {
        name: "stream",
        body: streams::stream,
        golden: &[("chat", "stream.sse"), ("generate", "stream.sse"), ("anthropic", "stream.sse")],
        words: streams::WORDS,
    },
    Target {
        name: "answer",
        body: answers::answer,
        golden: &[("chat", "answer.openai"), ("generate", "answer.openai")],
        words: streams::WORDS,
    },
    Target {
        name: "vectors",
        body: answers::vectors,
        golden: &[("embed", "answer.openai"), ("embeddings", "answer.openai")],
        words: answers::VECTOR_WORDS,
    },
    Target {
        name: "models",
        body: upstreams::models,
        golden: &[("models", "list.openai"), ("models", "side")],
        words: requests::WORDS,
    },
    Target { name: "errors", body: upstreams::errors, golden: &[], words: upstreams::ERROR_WORDS },
    Target { name: "backoff", body: upstreams::backoff, golden: &[], words: upstreams::WAIT_WORDS },
    Target { name: "names", body: texts::names, golden: &[], words: texts::NAME_WORDS },
    Target { name: "template", body: texts::template, golden: &[], words: texts::TEMPLATE_WORDS },
    Target { name: "durations", body: texts::durations, golden: &[], words: upstreams::WAIT_WORDS },
    Target { name: "redact", body: texts::redact, golden: &[], words: texts::KEY_WORDS },
    Target { name: "context", body: texts::context, golden: &[], words: &[] },
    Target { name: "origins", body: origins::origins, golden: &[], words: origins::WORDS },
    Target { name: "config", body: settings::config, golden: &[], words: settings::WORDS },
    Target { name: "base_url", body: settings::base_url, golden: &[], words: settings::WORDS },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// One of the families, chosen by the length of the input so that a seed needs no byte for it.
fn profile_of(data: &[u8]) -> &'static Profile {
    let names = profiles::names();
    profiles::find_by_name(names[data.len() % names.len()]).unwrap_or(&GENERIC)
}

/// What holds of each error that a client is told because of what it sent.
fn check_refusal(error: &Error) {
    let status = error.status().expect("a client is there");
    assert!(
        (400..500).contains(&status) || matches!(error, Error::InvalidOption { .. }),
        "{status}"
    );
    check_message(error);
}

/// What holds of each error because of what an upstream sent.
fn check_failure(error: &Error) {
    let status = error.status().expect("a client is there");
    assert!((400..600).contains(&status), "{status}");
    check_message(error);
}

fn check_message(error: &Error) {
    let message = error.message();
    assert!(!message.trim().is_empty(), "a blank message");
    assert!(message.len() <= 16 * 1024, "a message of {} bytes", message.len());
}
