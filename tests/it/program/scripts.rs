//! The scripts name all that is missing before they begin, and no folder is named by what they build.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::program::run;
use std::process::Command;

/// Of each Debian, however small.
const ESSENTIAL: &[&str] = &[
    "bash", "cat", "dirname", "grep", "head", "id", "mktemp", "rm", "sed", "sh", "sort", "tail",
    "tr",
];

/// A folder with the essential programs only.
struct BarePath(PathBuf);

impl BarePath {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("bare-path-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let path = std::env::var_os("PATH").expect("a PATH");
        for name in ESSENTIAL {
            let found = std::env::split_paths(&path).map(|it| it.join(name)).find(|it| it.exists());
            symlink(found.expect(name), folder.join(name)).expect("a link");
        }
        Self(folder)
    }

    /// The status of a script and the lines that it writes to standard error.
    fn run(&self, script: &str) -> (Option<i32>, Vec<String>) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
        let mut command = Command::new("bash");
        command
            .env_clear()
            .env("PATH", &self.0)
            .env("HOME", &self.0)
            .current_dir(&self.0)
            .arg(script);
        let (status, _, errors) = run(&mut command);
        (status, errors.lines().map(str::to_owned).collect())
    }
}

impl Drop for BarePath {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_that_a_script_needs_is_named_in_one_line_first() {
    let bare = BarePath::new();
    let wanted = [
        ("quickstart", &["curl", "gcc", "libc6-dev", "python3", "python3-venv"][..]),
        ("real", &["curl", "gcc", "libc6-dev", "python3", "python3-venv"]),
        (
            "test",
            &["curl", "gcc", "libc6-dev", "python3", "python3-venv", "nodejs", "npm", "systemd"],
        ),
    ];
    for (script, packages) in wanted {
        let (status, lines) = bare.run(script);
        assert_eq!((status, lines.len()), (Some(1), 2), "{lines:?}");
        assert!(lines[0].starts_with("Missing: ") && lines[0].contains(" Rust 1."), "{lines:?}");
        assert!(lines[1].contains("apt-get update && apt-get install -y "), "{lines:?}");
        assert!(lines[1].contains("https://sh.rustup.rs"), "{lines:?}");
        let words: Vec<&str> = lines[1].split([' ', '\'']).collect();
        for package in packages {
            assert!(words.contains(package), "{package}: {lines:?}");
        }
    }
}

#[test]
fn what_the_compiler_builds_names_no_folder_of_this_machine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = fs::read_to_string(root.join(".cargo/config.toml")).expect("a configuration");
    assert!(config.contains("\nrustc-wrapper = \"scripts/rustc\"\n"), "{config}");
    // A crate, and a source that its build script has written.
    let folder = std::env::temp_dir().join(format!("a folder-{}", std::process::id()));
    let (package, out) = (folder.join("crate-1.0"), folder.join("build/crate-0123/out"));
    for part in [&package.join("src"), &out] {
        fs::create_dir_all(part).expect("a folder");
    }
    let source = format!("pub fn a() {{ panic!() }}\ninclude!({:?});\n", out.join("b.rs"));
    let path = package.join("src/lib.rs");
    fs::write(&path, source).expect("a file");
    fs::write(out.join("b.rs"), "pub fn b() { panic!() }\n").expect("a file");
    let mut command = Command::new(root.join("scripts/rustc"));
    command.arg("rustc").args(["--crate-type=lib", "--crate-name=x", "--emit=asm", "-o", "x.s"]);
    command.arg(&path).current_dir(&folder);
    command.env("CARGO_MANIFEST_DIR", &package).env("OUT_DIR", &out);
    let (status, _, errors) = run(&mut command);
    let built = fs::read_to_string(folder.join("x.s")).unwrap_or_default();
    fs::remove_dir_all(&folder).expect("a folder");
    assert_eq!(status, Some(0), "{errors}");
    assert!(built.contains("\"crate-1.0/src/lib.rs") && built.contains("\"out/b.rs"), "{built}");
    assert!(!built.contains(folder.to_str().expect("UTF-8")), "{built}");
}

/// Debug builds are left out, because crates that were compiled long ago may be in them.
#[cfg(not(debug_assertions))]
#[test]
fn the_executable_names_no_folder_of_this_machine() {
    let program = fs::read(env!("CARGO_BIN_EXE_ollama-openai-proxy")).expect("the program");
    let home = std::env::var("HOME").unwrap_or_default();
    for name in ["/registry/src/", concat!(env!("CARGO_MANIFEST_DIR"), "/"), &(home + "/")] {
        let is_there = program.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(name.len() < 3 || !is_there, "{name}");
    }
}
