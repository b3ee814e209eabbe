//! SIGHUP: what a reload changes, what it leaves alone, and that it costs nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::program::{Running, program};
use crate::support::*;

/// A folder with a `.env` file, and a program that runs there.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        // Another run of the tests may use the same target folder.
        let name = format!("reload-{name}-{}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub(super) fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::write(&path, text).expect("a file");
        path
    }

    pub(super) fn program(&self) -> Command {
        let mut command = program();
        command.current_dir(&self.0);
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The value of a series of `/metrics`; 0 if it is not there.
pub(super) fn metric(running: &Running, series: &str) -> u64 {
    let answer = Client::connect(running.addr).get("/metrics").answer();
    let value = answer.body.lines().find_map(|line| line.strip_prefix(series));
    value.map_or(0, |value| value.trim().parse().expect("a number"))
}

pub(super) fn reloads(running: &Running, result: &str) -> u64 {
    metric(running, &format!("ollama_proxy_reloads_total{{result=\"{result}\"}}"))
}

/// Sends the signal and waits until it had its effect.
pub(super) fn reload(running: &Running, result: &str) {
    let before = reloads(running, result);
    running.signal("HUP");
    wait_until("the reload", || reloads(running, result) > before);
}

pub(super) fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !is_done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

fn status_with_key(running: &Running, key: &str) -> u16 {
    let line = format!("Authorization: Bearer {key}\r\n");
    Client::connect(running.addr).with("GET", "/api/version", &line, "").answer().status()
}

#[test]
fn without_a_configuration_file_the_env_file_and_the_client_keys_are_read_anew() {
    let (upstream, folder) = (Upstream::start(), Folder::new("env"));
    let keys = folder.write("keys", "first-key-1\n");
    folder.write(".env", "OLLAMA_CONTEXT_LENGTH=1234\nMAX_BODY_BYTES=100\n");
    let upstream_key = folder.write("upstream-key", "upstream-key-1\n");
    let mut command = folder.program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("PROXY_API_KEYS_FILE", &keys);
    command.env("OPENAI_API_KEY_FILE", &upstream_key);
    let running = Running::start(&mut command);
    // The list takes no key away: `/metrics` needs one, too.
    let with = |key: &str, method: &str, path: &str, body: String| {
        let line = format!("Authorization: Bearer {key}\r\n");
        Client::connect(running.addr).with(method, path, &line, body).answer()
    };
    let show = |key: &str| {
        let shown = with(key, "POST", "/api/show", r#"{"model":"text-embed"}"#.into());
        shown.json()["model_info"].to_string()
    };
    assert!(show("first-key-1").contains("1234"));
    assert_eq!(with("first-key-1", "POST", "/api/chat", chat(&"x".repeat(200))).status(), 413);
    let with_origin = |key: &str| {
        let line = format!("Origin: http://app.example\r\nAuthorization: Bearer {key}\r\n");
        Client::connect(running.addr).with("GET", "/api/version", &line, "").answer().status()
    };
    assert_eq!(with_origin("first-key-1"), 403);
    folder.write("keys", "second-key-2\n");
    folder.write("upstream-key", "upstream-key-2\n");
    folder.write(
        ".env",
        "OLLAMA_CONTEXT_LENGTH=4321\nPROXY_WORKERS=7\nOLLAMA_ORIGINS=http://app.example\n",
    );
    running.signal("HUP");
    wait_until("the new key", || status_with_key(&running, "second-key-2") == 200);
    assert_eq!(status_with_key(&running, "first-key-1"), 401);
    wait_until("the new length", || show("second-key-2").contains("4321"));
    upstream.script(upstream::stream(&["ok"]));
    let answer = with("second-key-2", "POST", "/api/chat", chat(&"x".repeat(200)));
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.request().header("authorization"), Some("Bearer upstream-key-2"));
    assert_eq!(with_origin("second-key-2"), 200);
    let log = running.stop();
    let named = "change only with a restart: PROXY_WORKERS";
    assert!(log.contains(named) && log.contains("reloaded: upstream \"default\" changed"), "{log}");
    assert!(!log.contains("-key-2"), "{log}");
}

#[test]
fn a_mistake_changes_nothing_and_every_mistake_is_told() {
    let (upstream, folder) = (Upstream::start(), Folder::new("mistake"));
    folder.write(".env", "OLLAMA_CONTEXT_LENGTH=1234\n");
    let mut command = folder.program();
    let running = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    folder.write(".env", "OLLAMA_CONTEXT_LENGTH=4321\nREQUEST_TIMEOUT=soon\nPROXY_WORKERS=many\n");
    reload(&running, "failed");
    let show =
        Client::connect(running.addr).post("/api/show", r#"{"model":"text-embed"}"#).answer();
    assert!(show.body.contains("1234"), "{}", show.body);
    assert_eq!(reloads(&running, "ok"), 0);
    let log = running.stop();
    for mistake in ["reload: REQUEST_TIMEOUT", "reload: PROXY_WORKERS"] {
        assert!(log.contains(mistake), "{log}");
    }
    assert!(log.contains("the configuration stays as it was"), "{log}");
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let (upstream, folder) = (Upstream::start(), Folder::new("level"));
    folder.write(".env", "");
    let mut command = folder.program();
    let running = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    let ask = |path: &str| Client::connect(running.addr).get(path).answer().status();
    folder.write(".env", "LOG_LEVEL=warn\n");
    reload(&running, "ok");
    ask("/quiet");
    folder.write(".env", "LOG_LEVEL=info\n");
    reload(&running, "ok");
    ask("/loud");
    let log = running.stop();
    assert!(!log.contains("/quiet") && log.contains("/loud"), "{log}");
}

#[test]
fn signals_in_a_row_and_during_the_shutdown_do_no_harm() {
    let (upstream, folder) = (Upstream::start(), Folder::new("signals"));
    folder.write(".env", "");
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut command = folder.program();
    let mut running = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    for _ in 0..20 {
        running.signal("HUP");
    }
    wait_until("one reload at least", || reloads(&running, "ok") > 0);
    let mut client = Client::connect(running.addr);
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    running.signal("TERM");
    wait_until("the shutdown", || TcpStream::connect(running.addr).is_err());
    running.signal("HUP");
    drop(go_on);
    assert!(client.frame().expect("a line").contains("two"));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_signal_before_it_listens_is_a_reload_and_no_end() {
    let (upstream, folder) = (Upstream::start(), Folder::new("early"));
    folder.write(".env", "");
    // Opening it for reading blocks until somebody writes: the program is still reading its options.
    let keys = folder.0.join("keys");
    let made = Command::new("mkfifo").arg(&keys).status().expect("mkfifo");
    assert!(made.success());
    let mut command = folder.program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("PROXY_API_KEYS_FILE", &keys);
    let starting = std::thread::spawn(move || Running::start(&mut command));
    // This returns once the program reads.
    let mut first = fs::OpenOptions::new().write(true).open(&keys).expect("a reader");
    let id = child_that_reads(&keys);
    let sent = Command::new("kill").args(["-s", "HUP", &id.to_string()]).status().expect("kill");
    assert!(sent.success());
    std::io::Write::write_all(&mut first, b"first-key-1\n").expect("a reader");
    drop(first);
    let running = starting.join().expect("it starts");
    let mut second = fs::OpenOptions::new().write(true).open(&keys).expect("the reload reads");
    std::io::Write::write_all(&mut second, b"second-key-2\n").expect("a reader");
    drop(second);
    wait_until("the reload", || status_with_key(&running, "second-key-2") == 200);
    running.stop();
}

#[test]
fn a_terminal_that_is_gone_ends_the_program_that_was_started_in_it() {
    let (upstream, folder) = (Upstream::start(), Folder::new("terminal"));
    let mut command = Command::new("script");
    command.args(["-qec", env!("CARGO_BIN_EXE_ollama-openai-proxy"), "/dev/null"]);
    command.current_dir(folder.path()).env("OPENAI_BASE_URL", upstream.base_url());
    command.env("OLLAMA_HOST", "127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
    // Without `script`, of util-linux, there is no terminal to test with.
    let Ok(mut terminal) = command.spawn() else { return };
    let shown =
        BufReader::new(terminal.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let addr = shown.into_iter().find_map(|line| {
        let (_, rest) = line.split_once("listening on ")?;
        rest.split(',').next()?.parse::<SocketAddr>().ok()
    });
    let addr = addr.expect("it listens");
    assert!(TcpStream::connect(addr).is_ok());
    terminal.kill().expect("it runs");
    terminal.wait().expect("it ends");
    wait_until("the end", || TcpStream::connect(addr).is_err());
}

/// The process that has this file open for reading, beside this one.
fn child_that_reads(file: &std::path::Path) -> u32 {
    let reads = |process: &fs::DirEntry| {
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == file))
    };
    let own = std::process::id();
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let ids = processes.filter_map(|it| Some((it.file_name().to_str()?.parse::<u32>().ok()?, it)));
    let mut others = ids.filter(|(id, process)| *id != own && reads(process));
    others.next().expect("the program").0
}
