//! The threat model of `src/http/threat_model.rs` names what is there: constants and options, scenarios of
//! `scripts/fault`, and tests.

use std::fs;

use super::tidy::{files, root};

/// The cells of the tables' rows, without their heads.
fn rows() -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("src/http/threat_model.rs")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect());
    cells
        .filter(|row: &Vec<String>| {
            row[0] != "---" && row.last().is_some_and(|it| it != "shown by")
        })
        .collect()
}

/// What stands in backquotes, without the names of links.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).filter(|name| !name.starts_with("crate::")).collect()
}

#[test]
fn every_threat_has_a_bound_and_a_test() {
    let rows = rows();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(!quoted(&row[3]).is_empty(), "nothing shows it: {row:?}");
    }
}

#[test]
fn every_bound_of_the_threat_model_is_in_the_sources() {
    let sources = files("src", ".rs");
    let is_name = |name: &&str| name.bytes().all(|it| it.is_ascii_uppercase() || it == b'_');
    for row in rows() {
        for name in quoted(&row[2]).into_iter().filter(is_name) {
            let known = |(file, text): &(String, String)| {
                file != "src/http/threat_model.rs" && text.contains(name)
            };
            assert!(sources.iter().any(known), "{name} is not in the sources: {row:?}");
        }
    }
}

#[test]
fn every_test_of_the_threat_model_is_there() {
    let tests = files("tests/it", ".rs");
    let units = files("src", ".rs");
    let scenarios = files("tests/fault", ".py");
    for row in rows() {
        for name in quoted(&row[3]) {
            let known = if name.starts_with("scripts/") {
                root().join(name).exists()
            } else if let Some((file, test)) = name.rsplit_once("::") {
                let is_file = |path: &str| path.ends_with(&format!("/{file}.rs"));
                // The targets of fuzz_replay are made by a macro.
                let declared = [format!("fn {test}("), format!(" {test} "), format!(" {test}\n")];
                let mut found = tests.iter().chain(&units).filter(|(path, _)| is_file(path));
                found.any(|(_, text)| declared.iter().any(|it| text.contains(it.as_str())))
            } else {
                scenarios.iter().any(|(_, text)| text.contains(&format!("\"{name}\",")))
            };
            assert!(known, "{name} is no test and no scenario: {row:?}");
        }
    }
}
