//! The state file as processes use it: two at once, after a crash, and beside `--check`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{Running, program, run};
use crate::support::*;

const SHARED: &str = "another running process uses the state file ";

/// A folder of one test, which is empty.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("program-state-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn command(upstream: &Upstream, path: &Path) -> Command {
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
    command.env("PROXY_STATE", path);
    command
}

fn start(upstream: &Upstream, path: &Path) -> Running {
    Running::start(&mut command(upstream, path))
}

fn create(running: &Running, name: &str) {
    let body = json!({"model": name, "from": "m", "stream": false}).to_string();
    let answer = Client::connect(running.addr).post("/api/create", body).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
}

/// The names of all files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The created models that the file holds.
fn stored(path: &Path) -> Vec<String> {
    let state: Value =
        serde_json::from_str(&fs::read_to_string(path).expect("there")).expect("JSON");
    let models = state["models"].as_array().expect("a list");
    models.iter().map(|model| model["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_second_process_on_the_file_says_so_and_neither_loses_a_model_of_the_other() {
    let (upstream, folder) = (Upstream::start(), folder("shared"));
    let path = folder.join("state.json");
    let (first, second) = (start(&upstream, &path), start(&upstream, &path));
    std::thread::scope(|scope| {
        for (running, prefix) in [(&first, "a"), (&second, "b")] {
            scope.spawn(move || {
                (0..20).for_each(|number| create(running, &format!("{prefix}{number}")));
            });
        }
    });
    assert_eq!(stored(&path).len(), 40);
    assert_eq!(names(&folder), ["state.json", "state.json.lock"]);
    let log = first.stop();
    assert!(!log.contains(SHARED), "the first one was alone: {log}");
    let log = second.stop();
    assert_eq!(log.matches(SHARED).count(), 1, "{log}");
    let warned = log.find(SHARED).expect("it warns");
    assert!(warned < log.find("listening on").expect("it listens"), "at start: {log}");
    // A lock that nobody holds is none.
    let third = start(&upstream, &path);
    let shown = Client::connect(third.addr).get("/api/tags").answer().json();
    assert_eq!(shown["models"].as_array().map(Vec::len), Some(43), "and three of the upstream");
    assert!(!third.stop().contains(SHARED));
}

#[test]
fn a_process_that_was_killed_leaves_nothing_that_hinders_the_next_one() {
    let (upstream, folder) = (Upstream::start(), folder("killed"));
    let path = folder.join("state.json");
    let first = start(&upstream, &path);
    create(&first, "a");
    first.signal("KILL");
    drop(first);
    // What it had written when it was killed, and what others have in the folder.
    for name in ["state.json.1.new", "state.json.00112233445566aa.new", "state.json.bak"] {
        fs::write(folder.join(name), "half").expect("written");
    }
    let second = start(&upstream, &path);
    let victim = folder.join("victim");
    fs::write(&victim, "mine").expect("written");
    // The name that could be guessed: whoever may write there would get the process to write elsewhere.
    let guessed = folder.join(format!("state.json.{}.new", second.id()));
    symlink(&victim, &guessed).expect("a link");
    create(&second, "b");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "mine");
    assert!(fs::symlink_metadata(&guessed).is_ok_and(|it| it.is_symlink()), "not ours");
    fs::remove_file(&guessed).expect("removable");
    assert_eq!(stored(&path), ["a:latest", "b:latest"]);
    assert_eq!(names(&folder), ["state.json", "state.json.bak", "state.json.lock", "victim"]);
    assert!(!second.stop().contains(SHARED));
}

#[test]
fn only_the_owner_may_read_what_is_written() {
    let (upstream, folder) = (Upstream::start(), folder("mode"));
    let path = folder.join("state.json");
    let running = start(&upstream, &path);
    create(&running, "a");
    for name in ["state.json", "state.json.lock"] {
        let mode = fs::metadata(folder.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(running);
}

#[test]
fn a_check_beside_a_running_process_succeeds_and_leaves_nothing() {
    let (upstream, folder) = (Upstream::start(), folder("check"));
    let path = folder.join("state.json");
    let running = start(&upstream, &path);
    create(&running, "a");
    let before = names(&folder);
    let (code, out, errors) = run(command(&upstream, &path).arg("--check"));
    assert_eq!(code, Some(0), "{out}{errors}");
    assert!(out.contains("ok, 1 model") && !format!("{out}{errors}").contains(SHARED), "{out}");
    assert_eq!(names(&folder), before);
    create(&running, "b");
    assert_eq!(stored(&path), ["a:latest", "b:latest"]);
    assert!(!running.stop().contains(SHARED));
}

#[test]
fn a_file_behind_a_link_is_written_and_the_link_stays() {
    let (upstream, folder) = (Upstream::start(), folder("link"));
    fs::create_dir(folder.join("data")).expect("a folder");
    let (link, target) = (folder.join("link.json"), folder.join("data/state.json"));
    symlink("data/state.json", &link).expect("a link");
    let running = start(&upstream, &link);
    create(&running, "a");
    assert_eq!(stored(&target), ["a:latest"]);
    assert!(fs::symlink_metadata(&link).is_ok_and(|it| it.is_symlink()));
    // The link and its target are one file.
    let second = start(&upstream, &target);
    assert!(second.stop().contains(SHARED));
    running.stop();
}
