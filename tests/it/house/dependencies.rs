//! The review of dependencies, `scripts/dependencies.md`, names every crate of `Cargo.lock` in its
//! version, so that a new crate, or a new version of one, is reviewed again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const REVIEW: &str = "scripts/dependencies.md";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The crates that the lock file holds beside our own, as `name version`.
fn locked() -> BTreeSet<String> {
    let lock = read("Cargo.lock");
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").filter(|package| package.contains("source = "));
    packages
        .map(|it| Some(format!("{} {}", field(it, "name")?, field(it, "version")?)))
        .collect::<Option<BTreeSet<_>>>()
        .expect("each package has a name and a version")
}

/// What the review names: each `name version` between back ticks in the first column of its tables.
fn reviewed() -> BTreeSet<String> {
    let review = read(REVIEW);
    let cells = review.lines().filter(|line| line.starts_with("| "));
    let names = cells.filter_map(|line| line.split('|').nth(1));
    let ticked = names.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    ticked.map(|name| name.split('+').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_crate_is_named_in_the_review_in_its_version() {
    let without_build = |name: String| name.split('+').next().unwrap_or_default().to_owned();
    let locked: BTreeSet<_> = locked().into_iter().map(without_build).collect();
    let reviewed = reviewed();
    let missing: Vec<_> = locked.difference(&reviewed).collect();
    let gone: Vec<_> = reviewed.difference(&locked).collect();
    assert!(missing.is_empty(), "not in {REVIEW}: {missing:?}");
    assert!(gone.is_empty(), "in {REVIEW} and not in Cargo.lock: {gone:?}");
}

#[test]
fn the_crates_of_the_fuzz_targets_are_the_proxy_s_own_where_they_are_both() {
    let version = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let fuzz = read("tests/fuzz/Cargo.lock");
    for name in ["serde_json", "ruzstd", "ureq", "tiny_http", "time"] {
        assert_eq!(version(&fuzz, name), version(&read("Cargo.lock"), name), "{name}");
    }
}
