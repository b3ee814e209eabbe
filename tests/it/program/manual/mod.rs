//! The man page and the completions of shells, which are made from the table of options.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it program::manual` writes them anew. That real programs read them is
//! checked by `tests/deploy/manual.py`.

mod completions;
mod man_page;

use std::fs;
use std::path::Path;

use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::config::{COMMANDS, Config, OPTIONS};

/// A row of the table.
type Row = ollama_openai_proxy::config::OptionSpec;

/// The program's name.
const PROGRAM: &str = env!("CARGO_PKG_NAME");

/// Placeholders of values that nobody can guess.
const FREE: &[&str] = &[
    "DURATION", "HOST[:PORT]", "ID", "ID,...", "JSON", "KEY", "KEY,...", "LINES", "MS", "N",
    "NAME=ID,...", "ORIGIN,...", "PORT", "SECONDS", "SIZE", "TOKENS", "URL",
];

/// What a shell can offer as the value of an option.
#[derive(Debug, PartialEq)]
enum Values {
    Files,
    OneOf(Vec<&'static str>),
    Free,
}

/// What stands for the value of an option.
fn placeholder(row: &Row) -> &'static str {
    match row.flag() {
        Some(flag) => row.usage[flag.len() + 2..].trim(),
        None => row.usage,
    }
}

/// The values of an option: those that its placeholder means, or else the words of its help text.
fn values(row: &Row) -> Values {
    match placeholder(row) {
        _ if row.is_path => Values::Files,
        "BOOL" => Values::OneOf(vec!["true", "false"]),
        _ if row.variable == "UPSTREAM_PROFILE" => {
            Values::OneOf([vec!["auto"], profiles::names()].concat())
        }
        free if FREE.contains(&free) => Values::Free,
        _ => Values::OneOf(row.help.split('`').skip(1).step_by(2).collect()),
    }
}

/// The rows with a flag, each with its flag.
fn flags() -> impl Iterator<Item = (&'static Row, &'static str)> {
    OPTIONS.iter().filter_map(|row| Some((row, row.flag()?)))
}

/// The flags without a value, each with its short form.
fn commands() -> impl Iterator<Item = (Option<&'static str>, &'static str, &'static str)> {
    COMMANDS.iter().map(|(usage, help)| match usage.split_once(", --") {
        Some((short, long)) => (Some(short), long, *help),
        None => (None, usage.trim_start_matches('-'), *help),
    })
}

/// Compares a file of `scripts/deploy` with what it must hold, or writes it.
fn compare(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, expected).expect("written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{name} is not what the options say, first at {differs:?}: \
         run `UPDATE_GOLDEN=1 cargo test --test it program::manual` and review the difference"
    );
}

#[test]
fn the_values_that_shells_offer_are_those_that_the_options_take() {
    let apply = |row: &Row, text: &str| (row.apply)(&mut Config::default(), text);
    for row in OPTIONS {
        let Values::OneOf(words) = values(row) else { continue };
        assert!(words.len() > 1, "{}: a new placeholder? Tell it here", row.variable);
        for word in words.iter().filter(|_| row.flag().is_some()) {
            assert_eq!(apply(row, word), Ok(None), "{} {word}", row.variable);
            assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{word}");
        }
        if row.flag().is_some() {
            assert_ne!(apply(row, "no-such-word"), Ok(None), "{}", row.variable);
            let default = row.default_text().to_lowercase();
            assert!(words.contains(&default.as_str()), "{} {default}", row.variable);
        }
    }
    let levels = vec!["error", "warn", "info", "debug", "trace"];
    let row = |name: &str| OPTIONS.iter().find(|row| row.variable == name).expect(name);
    assert_eq!(values(row("LOG_LEVEL")), Values::OneOf(levels));
    assert_eq!(values(row("PROXY_STATE")), Values::Files);
    assert_eq!(values(row("PROXY_PORT")), Values::Free);
}

#[test]
fn every_flag_of_the_help_is_known_here() {
    let help = ollama_openai_proxy::config::help();
    let of_help = help.lines().filter_map(|line| line.strip_prefix("  ")).filter_map(|line| {
        let line = line.strip_prefix("-h, ").or(line.strip_prefix("-V, ")).unwrap_or(line);
        line.strip_prefix("--")?.split_whitespace().next()
    });
    let known: Vec<_> = flags().map(|(_, flag)| flag).chain(commands().map(|it| it.1)).collect();
    assert_eq!(of_help.collect::<Vec<_>>(), known);
    assert!(known.len() > 25 && known.contains(&"json"), "{known:?}");
}
