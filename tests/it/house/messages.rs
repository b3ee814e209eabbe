//! What messages must not contain: texts of the standard library and of crates that are for programmers,
//! and words that are riddles for a reader who only sees the message.

use super::tidy::{code, files};

/// Phrases that are in no message, and what says the same.
const RIDDLES: &[(&str, &str)] = &[
    ("whoever", "anyone who"),
    ("somebody", "a client"),
    ("nobody", "no client, no server"),
    ("left alone", "is not asked"),
    ("for a while", "the time, or until when"),
    ("any more", "no longer"),
    ("is no option", "unknown option"),
    ("speaks as", "is sent as"),
    ("told in words", "replaced by an instruction"),
    ("told by", "sent as"),
    ("is there, too", "is set, too"),
    ("is there twice", "is set twice"),
    ("goes on without", "writing without"),
    ("known are", "known keys are"),
    ("entity not found", "no such file"),
    ("uncategorized error", "observe::system_error"),
];

/// Where errors of the system become words.
const SYSTEM_ERRORS: &str = "src/observe/system_error.rs";

/// The sources, without comments and tests.
fn sources() -> impl Iterator<Item = (String, String)> {
    let sources = files("src", ".rs").into_iter().filter(|(name, _)| !name.ends_with("tests.rs"));
    sources.map(|(name, source)| (name, code(&source)))
}

/// The calls of the log's macros, each up to its end.
fn log_calls(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("log::").filter_map(|(at, _)| {
        let call = code[at..].split(';').next()?;
        call.split('(').next()?.ends_with('!').then_some(call)
    })
}

#[test]
fn no_message_is_a_riddle() {
    for (name, code) in sources() {
        for (phrase, instead) in RIDDLES {
            let line = code.lines().find(|line| line.contains(phrase));
            assert!(line.is_none(), "{name}: {phrase:?}; say {instead:?}: {line:?}");
        }
    }
}

#[test]
fn errors_of_the_system_are_told_in_words() {
    for (name, code) in sources().filter(|(name, _)| name != SYSTEM_ERRORS) {
        for text in ["os error", "error.kind()))", "error.kind().to_string()", "kind: {kind}"] {
            // It reads the panic of a crate, which holds such a text.
            let is_parser = name == "src/net/acceptor/reset_panic.rs";
            assert!(is_parser || !code.contains(text), "{name}: {text}");
        }
    }
}

#[test]
fn no_line_of_the_log_holds_an_error_as_its_library_writes_it() {
    let mut calls = 0;
    for (name, code) in sources() {
        for call in log_calls(&code) {
            calls += 1;
            // A server that cannot start has words of its own.
            let is_start = name == "src/main.rs" && call.starts_with("log::error!");
            let is_raw = ["{error}", "{error:?}", "{reason:?}", "{why:?}"]
                .iter()
                .any(|it| call.contains(it));
            assert!(is_start || !is_raw, "{name}: {call}");
        }
    }
    assert!(calls > 50, "only {calls} calls were found");
}
