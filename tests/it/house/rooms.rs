//! The structure of `src`, checked by reading the sources: the rooms and their arrows, circles of
//! imports, who names ureq and tiny_http, and which files are pure.
//!
//! The rooms and their order come from the table in `src/lib.rs`, so the table cannot go stale.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::tidy::{code, files, root};

/// Entries directly below `src`.
const MAX_ENTRIES: usize = 14;

/// The room that every room returns an error of, and the ones that stand outside the table.
const ERROR: &str = "error";

/// Files and folders that only compute: no socket, thread, clock, environment or random source.
const PURE: &[&str] = &[
    "src/api",
    "src/backends",
    "src/config/options.rs",
    "src/config/parsers.rs",
    "src/error.rs",
    "src/error",
    "src/http/access.rs",
    "src/http/client_keys.rs",
    "src/http/cors.rs",
    "src/http/error_format.rs",
    "src/http/framing.rs",
    "src/http/key_lines.rs",
    "src/http/routes.rs",
    "src/http/wrong_keys.rs",
    "src/models/entry.rs",
    "src/models/list.rs",
    "src/models/model.rs",
    "src/models/modelfile.rs",
    "src/models/probes.rs",
    "src/models/render.rs",
    "src/models/virtual_model",
    "src/net/connection_guard/rules.rs",
    "src/net/connection_guard/scan_interval.rs",
    "src/net/key_limits/counts.rs",
    "src/net/listen_address.rs",
    "src/observe/key_list.rs",
    "src/observe/logging/line.rs",
    "src/observe/metrics/histogram.rs",
    "src/observe/metrics/mod.rs",
    "src/observe/metrics/openmetrics.rs",
    "src/observe/redact.rs",
    "src/observe/timestamp.rs",
    "src/translate",
    "src/upstream/answer_watcher.rs",
    "src/upstream/backoff.rs",
    "src/upstream/base_url.rs",
    "src/upstream/basic_auth.rs",
    "src/upstream/breaker",
    "src/upstream/failure_text.rs",
    "src/upstream/proxy.rs",
    "src/upstream/repair",
];

/// What a pure file does not name.
const IMPURE: &[&str] = &[
    "tiny_http", "ureq::", "crossbeam_channel", "std::net::Tcp", "std::thread", "std::env",
    "std::fs", "Instant::now", "SystemTime::now", "rand::",
];

/// The sources by their module's path, such as `upstream/retry`; tests are left out.
fn modules() -> BTreeMap<String, String> {
    let sources = files("src", ".rs").into_iter().filter(|(name, _)| !name.ends_with("/tests.rs"));
    sources
        .map(|(name, source)| {
            let path = name.trim_start_matches("src/").trim_end_matches(".rs");
            (path.trim_end_matches("/mod").to_owned(), code(&source))
        })
        .collect()
}

/// The paths that a piece of code names, each split at `::`; lists in braces are taken apart.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if !(before.is_alphanumeric() || before == '_' || before == ':') {
                tree(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path, or a list of them, from the beginning of `text`; returns what follows.
fn tree<'a>(text: &'a str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    let Some(mut list) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        prefix.push(text[..end].to_owned());
        let rest = match text[end..].strip_prefix("::") {
            Some(rest) => tree(rest, prefix, found),
            None => {
                found.push(prefix.clone());
                &text[end..]
            }
        };
        prefix.pop();
        return rest;
    };
    loop {
        list = list.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        match list.strip_prefix('}') {
            Some(rest) => return rest,
            None if list.is_empty() => return list,
            None => {
                let rest = tree(list, prefix, found);
                // What follows a path in a list, such as `as Name`.
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                list = &rest[end..];
            }
        }
    }
}

/// The modules that each module names, without its own ancestors and descendants.
fn imports(modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let known: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
    let mut all = BTreeMap::new();
    for (module, code) in modules {
        let mut targets = BTreeSet::new();
        for path in paths(code) {
            let mut at: Vec<&str> = match path[0].as_str() {
                "crate" => Vec::new(),
                _ => module.split('/').collect(),
            };
            for step in &path {
                match step.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(at.pop()),
                    step => at.push(step),
                }
            }
            while !at.is_empty() && !known.contains(at.join("/").as_str()) {
                at.pop();
            }
            let target = at.join("/");
            let is_kin = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}/"));
            if !(target.is_empty() || is_kin(&target, module) || is_kin(module, &target)) {
                targets.insert(target);
            }
        }
        all.insert(module.clone(), targets);
    }
    all
}

/// The rooms of the table in `src/lib.rs`, from top to bottom.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split_once("`]"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

fn room(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

#[test]
fn the_table_of_rooms_is_the_list_of_folders() {
    let rooms: BTreeSet<String> = rooms().into_iter().collect();
    let sources = files("src", "").into_iter();
    let mut entries: BTreeSet<String> = sources
        .map(|(name, _)| room(name.trim_start_matches("src/")).trim_end_matches(".rs").to_owned())
        .collect();
    assert!(entries.len() <= MAX_ENTRIES, "{} entries", entries.len());
    entries.remove("main");
    entries.remove("lib");
    assert_eq!(entries, rooms);
}

#[test]
fn arrows_between_rooms_point_down() {
    let order = rooms();
    let place = |room: &str| order.iter().position(|known| known == room);
    for (module, targets) in imports(&modules()) {
        for target in targets {
            let (from, to) = (room(&module), room(&target));
            if to == ERROR || from == to || from == "main" || from == "lib" {
                continue;
            }
            let (Some(from_place), Some(to_place)) = (place(from), place(to)) else {
                panic!("{module} or {target} is in no room")
            };
            assert!(from_place <= to_place, "{module} imports {target}, which stands above it");
        }
    }
}

#[test]
fn no_imports_go_in_a_circle() {
    let imports = imports(&modules());
    let mut circles = Vec::new();
    for start in imports.keys() {
        let (mut todo, mut seen) = (vec![start], BTreeSet::new());
        while let Some(module) = todo.pop() {
            for target in imports.get(module).into_iter().flatten() {
                if target == start {
                    circles.push(format!("{start} by way of {module}"));
                }
                if seen.insert(target) {
                    todo.push(target);
                }
            }
        }
    }
    assert_eq!(circles, Vec::<String>::new());
}

#[test]
fn every_room_says_what_it_owns_what_it_never_does_and_its_invariant() {
    for room in rooms() {
        let Ok(source) = fs::read_to_string(root().join(format!("src/{room}/mod.rs"))) else {
            assert_eq!(room, ERROR);
            continue;
        };
        let doc: Vec<&str> = source.lines().take_while(|line| line.starts_with("//!")).collect();
        let text = doc.join("\n");
        assert!(doc.len() >= 3, "{room}");
        assert!(text.contains("ever ") && text.contains("nvariant"), "{room}");
    }
}

#[test]
fn the_http_crates_are_named_in_their_rooms_only() {
    let upstream = ["upstream/"];
    let downstream = ["http/", "net/acceptor", "app/server"];
    for (module, code) in modules() {
        let within = |list: &[&str]| list.iter().any(|name| module.starts_with(name));
        assert!(within(&upstream) || !code.contains("ureq::"), "{module} names ureq");
        assert!(within(&downstream) || !code.contains("tiny_http"), "{module} names tiny_http");
    }
}

#[test]
fn pure_files_name_nothing_that_acts() {
    for (name, source) in files("src", ".rs") {
        let is_pure = PURE.iter().any(|pure| name.starts_with(pure));
        if is_pure && !name.ends_with("/tests.rs") {
            let code = code(&source);
            let named = IMPURE.iter().find(|word| code.contains(*word));
            assert_eq!(named, None, "{name}");
        }
    }
    for pure in PURE {
        assert!(root().join(pure).exists(), "{pure}");
    }
}

#[test]
fn the_ways_through_the_program_name_functions_that_are_there() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let (_, ways) = lib.split_once("# A streaming").expect("the ways");
    let ways = ways.split("# Invariants").next().unwrap_or_default();
    let (mut source, mut named) = (String::new(), 0);
    for name in ways.split('`').skip(1).step_by(2) {
        if name.ends_with(".rs") {
            let path = root().join("src").join(name);
            source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            let is_there = ["(", "<"].iter().any(|end| source.contains(&format!("fn {name}{end}")));
            assert!(is_there, "{name}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
    for way in ways.split("\n//! # ") {
        let steps = way.lines().filter(|line| line[3..].trim_start().starts_with(char::is_numeric));
        assert!(steps.count() <= 15);
    }
}

#[test]
fn lists_of_paths_are_taken_apart() {
    let found = paths("use crate::a::{self, b::{C, D as E}, f};\nfn x() { super::g::h(); }");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    let expected =
        ["crate::a::self", "crate::a::b::C", "crate::a::b::D", "crate::a::f", "super::g::h"];
    assert_eq!(found, expected);
}
