//! The bodies of the fuzz targets: what must hold of each reader for any bytes at all.
//!
//! A body is a function of bytes that panics where an invariant does not hold, so that it serves three
//! drivers: libFuzzer (`fuzz_targets/`, one thin file each), the driver of this crate, which needs
//! nothing but stable Rust, and `tests/it/fuzz_replay.rs`, which takes these files in as a module.
//! Bodies have no state and use neither clock nor random numbers: the same bytes give the same result.

pub mod answers;
pub mod build;
pub mod corpus;
pub mod files;
pub mod items;
pub mod mutate;
pub mod origins;
pub mod passing;
pub mod repairs;
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
    /// Words of its grammar, for the mutations of this crate's driver.
    pub words: &'static [&'static str],
}

type Body = fn(&[u8]);
type Golden = &'static [(&'static str, &'static str)];
type Words = &'static [&'static str];

const fn target(name: &'static str, body: Body, golden: Golden, words: Words) -> Target {
    Target { name, body, golden, words }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("chat", requests::chat, &[("chat", "request.ollama")], requests::WORDS),
    target("generate", requests::generate, &[("generate", "request.ollama")], requests::WORDS),
    target(
        "embed",
        requests::embed,
        &[("embed", "request.ollama"), ("embeddings", "request.ollama")],
        requests::WORDS,
    ),
    target("manage", requests::manage, &[("create", "request.ollama")], requests::WORDS),
    target("messages", requests::messages, &[("anthropic", "request.anthropic")], requests::WORDS),
    target(
        "responses",
        requests::responses,
        &[("responses", "request.responses")],
        requests::WORDS,
    ),
    target(
        "pass",
        passing::pass,
        &[("chat", "request.openai"), ("responses", "request.responses")],
        requests::WORDS,
    ),
    target("form", passing::form, &[], passing::FORM_WORDS),
    target("unpack", passing::unpack, &[], &[]),
    target("sse", sse::sse, &[("chat", "stream.sse"), ("generate", "stream.sse")], sse::WORDS),
    target(
        "stream",
        streams::stream,
        &[("chat", "stream.sse"), ("generate", "stream.sse"), ("anthropic", "stream.sse")],
        streams::WORDS,
    ),
    target(
        "answer",
        answers::answer,
        &[("chat", "answer.openai"), ("generate", "answer.openai")],
        streams::WORDS,
    ),
    target(
        "vectors",
        answers::vectors,
        &[("embed", "answer.openai"), ("embeddings", "answer.openai")],
        answers::VECTOR_WORDS,
    ),
    target(
        "models",
        upstreams::models,
        &[("models", "list.openai"), ("models", "side")],
        requests::WORDS,
    ),
    target("errors", upstreams::errors, &[], upstreams::ERROR_WORDS),
    target("backoff", upstreams::backoff, &[], upstreams::WAIT_WORDS),
    target("names", texts::names, &[], texts::NAME_WORDS),
    target("template", texts::template, &[], texts::TEMPLATE_WORDS),
    target("durations", texts::durations, &[], upstreams::WAIT_WORDS),
    target("redact", texts::redact, &[], texts::KEY_WORDS),
    target("context", texts::context, &[], &[]),
    target("origins", origins::origins, &[], origins::WORDS),
    target("config", settings::config, &[], settings::WORDS),
    target("base_url", settings::base_url, &[], settings::WORDS),
    target("config_file", files::config_file, &[], files::TOML_WORDS),
    target("key_file", files::key_file, &[], files::KEY_WORDS),
    target(
        "repair",
        repairs::repair,
        &[("repairs", "request.json"), ("repairs", "refusal.json")],
        repairs::WORDS,
    ),
    target("plainest_form", repairs::plainest_form, &[("repairs", "request.json")], repairs::WORDS),
    target("responses_items", items::responses_items, &[], items::WORDS),
    target("message_blocks", items::message_blocks, &[], items::WORDS),
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

/// Checks an error that the client's request caused.
fn check_refusal(error: &Error) {
    let status = error.status().expect("a client is there");
    assert!((400..500).contains(&status) || matches!(error, Error::InvalidOption(_)), "{status}");
    check_message(error);
}

/// Checks an error that the upstream's response caused.
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
