//! The program at its most verbose, with a mark for each secret, and all that it says.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::program::{Running, program};
use crate::support::*;

pub(super) const UPSTREAM_KEY: &str = "upstream-key-5ec2e7a1";
pub(super) const OWN_KEY: &str = "own-key-5ec2e7b2";
pub(super) const FILE_KEY: &str = "file-key-5ec2e7c3";
pub(super) const WRONG_KEY: &str = "wrong-key-5ec2e7d4";
pub(super) const PROMPT: &str = "promptmark5ec2e7";
pub(super) const ANSWER: &str = "answermark5ec2e7";

/// Keys, which are never logged. A key that is wrong here may be valid elsewhere.
pub(super) const KEYS: [&str; 4] = [UPSTREAM_KEY, OWN_KEY, FILE_KEY, WRONG_KEY];

pub(super) type Steps = Vec<Step>;

/// The program under test, its upstream, and the responses of clients.
pub(super) struct Stage {
    pub(super) upstream: Upstream,
    pub(super) running: Running,
    pub(super) state: PathBuf,
    pub(super) answers: Vec<String>,
}

/// Everything that the program has written.
pub(super) struct Said {
    pub(super) log: String,
    pub(super) answers: String,
    pub(super) state: String,
}

impl Stage {
    pub(super) fn start(name: &str, more: &[(&str, &str)]) -> Self {
        let upstream = Upstream::start();
        let (mut command, state) = command(name, &upstream.base_url());
        let running = Running::start(command.envs(more.iter().copied()));
        Self { upstream, running, state, answers: Vec::new() }
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(self.running.addr)
    }

    /// Sends a request, and keeps the whole response as text.
    pub(super) fn send(&mut self, lines: &str, method: &str, target: &str, body: &str) -> String {
        let mut client = self.client();
        send(&mut client, lines, method, target, body);
        let answer = client.any_answer(method);
        let told = format!("{:?} {}", answer.head, answer.body);
        self.answers.push(told.clone());
        told
    }

    /// Sends a request with a valid key; the upstream plays all of these scripts.
    pub(super) fn ask(
        &mut self,
        method: &str,
        target: &str,
        body: &str,
        scripts: Vec<Steps>,
    ) -> String {
        self.ask_with(&own_key(), method, target, body, scripts)
    }

    pub(super) fn ask_with(
        &mut self,
        lines: &str,
        method: &str,
        target: &str,
        body: &str,
        scripts: Vec<Steps>,
    ) -> String {
        let number = scripts.len();
        for script in scripts {
            self.upstream.script(script);
        }
        let told = self.send(lines, method, target, body);
        for _ in 0..number {
            self.upstream.request();
        }
        assert!(self.upstream.is_idle(), "{method} {target} asked more than was expected");
        told
    }

    /// Sends a request with a valid key, for any number of upstream requests.
    pub(super) fn ask_any(&mut self, method: &str, target: &str, body: &str) -> String {
        let told = self.send(&own_key(), method, target, body);
        while !self.upstream.is_idle() {
            self.upstream.request();
        }
        told
    }

    pub(super) fn chat(&mut self, steps: Steps) -> String {
        self.ask("POST", "/api/chat", &chat(PROMPT), vec![steps])
    }

    pub(super) fn end(self) -> Said {
        let log = self.running.stop();
        let state = fs::read_to_string(&self.state).unwrap_or_default();
        Said { log, answers: self.answers.join("\n"), state }
    }
}

/// The program with all keys, at level trace, and a new state file.
pub(super) fn command(name: &str, base: &str) -> (Command, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secrets-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("keys"), format!("team:{FILE_KEY} tokens_per_day=1000000000\n"))
        .expect("a file");
    let state = folder.join("state.json");
    let mut command = program();
    command
        .env("OPENAI_BASE_URL", format!("{base}?key={UPSTREAM_KEY}"))
        .env("OPENAI_API_KEY", UPSTREAM_KEY)
        .env("PROXY_API_KEYS", OWN_KEY)
        .env("PROXY_API_KEYS_FILE", folder.join("keys"))
        .env("PROXY_STATE", &state)
        .env("LOG_LEVEL", "trace")
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "full")
        .env("RETRY_MAX", "1")
        .env("RETRY_INITIAL_MS", "0")
        .env("RETRY_MAX_MS", "0")
        .env("MAX_BODY_BYTES", "8M");
    (command, state)
}

/// The header line with the valid key.
pub(super) fn own_key() -> String {
    format!("Authorization: Bearer {OWN_KEY}\r\n")
}

pub(super) fn send(client: &mut Client, lines: &str, method: &str, target: &str, body: &str) {
    let kind = match body.starts_with("--") {
        true => "multipart/form-data; boundary=b",
        false => "application/json",
    };
    client.with(method, target, &format!("{lines}Content-Type: {kind}\r\n"), body);
}

#[track_caller]
pub(super) fn absent(marks: &[&str], what: &str, text: &str) {
    for mark in marks {
        let line = text.lines().find(|line| line.contains(mark));
        assert!(line.is_none(), "{mark} in {what}: {}", line.unwrap_or_default());
    }
}
