//! The program as users start it, as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};

/// The program with nothing of this environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-openai-proxy"));
    command.env_clear().current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    command
}

/// Runs it to its end: exit status, output and errors.
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A running program; it does not outlive its test.
pub struct Running {
    child: Child,
    /// Reads on, so that the program never waits for a reader of its log.
    log: Option<JoinHandle<String>>,
    pub addr: SocketAddr,
}

impl Running {
    /// Starts it on a free port; of 127.0.0.1, unless the command says otherwise.
    pub fn start(command: &mut Command) -> Self {
        if !command.get_envs().any(|(name, _)| name == "OLLAMA_HOST") {
            command.env("OLLAMA_HOST", "127.0.0.1:0");
        }
        let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        // From here on it ends with this value.
        let mut running = Self { child, log: None, addr: ([0; 4], 0).into() };
        let mut reader = BufReader::new(running.child.stderr.take().expect("piped"));
        let mut log = String::new();
        let addr = loop {
            let before = log.len();
            let length = reader.read_line(&mut log).expect("a log");
            assert_ne!(length, 0, "it ended: {log}");
            if let Some((_, rest)) = log[before..].split_once("listening on ") {
                break rest.split(',').next().and_then(|addr| addr.parse().ok());
            }
        };
        running.addr = addr.unwrap_or_else(|| panic!("{log}"));
        running.log = Some(thread::spawn(move || {
            while reader.read_line(&mut log).is_ok_and(|length| length > 0) {}
            log
        }));
        running
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success());
    }

    /// Waits for the end; gives the exit status and all that was logged.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let log = self.log.take().expect("it ends once").join().expect("a log");
        (self.child.wait().expect("it ends").code(), log)
    }

    /// Asks it to end and gives all that was logged.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        let (code, log) = self.end();
        assert_eq!(code, Some(0), "{log}");
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
