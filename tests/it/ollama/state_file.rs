//! The state file: created models are kept across restarts, and a file that cannot be written is an error.

use super::manage::{create, delete, mario};
use crate::support::*;
use std::fs;
use std::path::PathBuf;

/// The state file of one test, in a folder that does not exist yet.
fn state(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{test}"));
    // A run that was killed may have left a file in its place.
    let _ = fs::remove_file(&folder).or_else(|_| fs::remove_dir_all(&folder));
    folder.join("state.json")
}

#[test]
fn made_models_are_there_after_a_new_start() {
    let path = state("start");
    let (upstream, proxy) = pair_with(|config| config.state_file = Some(path.clone()));
    assert_eq!(proxy.names().len(), 3);
    assert!(!path.exists(), "the file is created when it is first needed");
    create(&proxy, mario());
    let text = fs::read_to_string(&path).expect("a file");
    assert!(
        text.contains("\n      \"system\": \"You are Mario.\",\n"),
        "for people to read: {text}"
    );
    let again = Proxy::with(&upstream, |config| config.state_file = Some(path.clone()));
    assert_eq!(again.show("mario"), proxy.show("mario"));
    let made = proxy.tags().into_iter().find(|tag| tag["name"] == "mario:latest");
    assert!(made.is_some_and(|made| again.tags().contains(&made)));
}

#[test]
fn a_state_that_cannot_be_written_is_a_500_and_changes_nothing() {
    let path = state("unwritable");
    let (_upstream, proxy) = pair_with(|config| config.state_file = Some(path.clone()));
    let folder = path.parent().expect("a folder").to_owned();
    create(&proxy, mario());
    // A file takes the place of the folder.
    fs::remove_dir_all(&folder).expect("removable");
    fs::write(&folder, "").expect("writable");
    for (path, body) in [
        ("/api/create", json!({"model": "a", "from": "m"})),
        ("/api/copy", json!({"source": "m", "destination": "a"})),
    ] {
        let failed = proxy.post(path, &body);
        assert_eq!(failed.status(), 500);
        assert!(
            failed.error().starts_with("the state file cannot be written: "),
            "{}",
            failed.body
        );
        assert!(!failed.error().contains("unwritable"), "no path is told: {}", failed.body);
    }
    assert_eq!(delete(&proxy, &json!({"model": "mario"})).status(), 500);
    assert_eq!(proxy.names().len(), 4, "mario still exists");
    fs::remove_file(&folder).expect("removable");
    assert_eq!(
        delete(&proxy, &json!({"model": "mario"})).status(),
        200,
        "and is deleted once the file can be written"
    );
}
