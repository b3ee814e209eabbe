//! What the program shows on a terminal: five lines at the start, and colours.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::support::program::program;
use crate::support::*;

/// Runs the program with a terminal as its standard error, until that shows `marker`; gives all it showed.
fn show(command: &mut Command, marker: &str) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).expect("a terminal");
    grantpt(&master).expect("a terminal");
    unlockpt(&master).expect("a terminal");
    let slave = ioctl_tiocgptpeer(&master, flags).expect("a terminal");
    let mut child = command.stderr(Stdio::from(slave)).spawn().expect("it starts");
    // The command holds the terminal open, too.
    command.stderr(Stdio::null());
    let (mut terminal, mut shown, mut buffer) = (File::from(master), Vec::new(), [0; 4096]);
    let mut is_asked_to_end = false;
    // Reading fails once the program has closed its end.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
        if !is_asked_to_end && String::from_utf8_lossy(&shown).contains(marker) {
            let pid = child.id().to_string();
            assert!(
                Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill").success()
            );
            is_asked_to_end = true;
        }
    }
    let code = child.wait().expect("it ends").code();
    let shown = String::from_utf8(shown).expect("UTF-8").replace("\r\n", "\n");
    assert_eq!(code, Some(0), "{shown}");
    shown
}

fn command(upstream: &Upstream) -> Command {
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OLLAMA_HOST", "127.0.0.1:0");
    // Below any limit of descriptors, so that no warning is logged.
    command.env("MAX_CONNECTIONS", "100").env("OPENAI_API_KEY", KEY);
    command
}

/// The lines but for that of the end.
fn lines(shown: &str) -> Vec<String> {
    let lines = shown.lines().filter(|line| !line.contains("shutting down"));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_start_shows_five_lines_on_a_terminal() {
    let upstream = Upstream::start();
    upstream.list(r#"{"data":[{"id":"one"},{"id":"two"},{"id":"three"}]}"#);
    let shown = show(command(&upstream).env("NO_COLOR", "1"), "/status");
    let lines = lines(&shown);
    assert_eq!(lines.len(), 5, "{shown}");
    let texts: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| line.split_at("listening on ".len()))
        .map(|(label, text)| (label.trim(), text))
        .collect();
    let address = texts[0].1.trim().strip_prefix("127.0.0.1:").expect("an address");
    assert!(address.parse::<u16>().is_ok_and(|port| port > 0), "{shown}");
    assert_eq!(texts[0].0, "listening on");
    assert_eq!((texts[1].0, texts[1].1.trim()), ("upstream", upstream.base_url().as_str()));
    assert_eq!((texts[2].0, texts[2].1.trim()), ("models", "3"));
    let who = "every program on this machine, without a key";
    assert_eq!((texts[3].0, texts[3].1.trim()), ("who may ask", who));
    assert_eq!(texts[4].0, "status page");
    assert_eq!(texts[4].1.trim(), format!("http://127.0.0.1:{address}/status"));
    assert!(!shown.contains('\u{1b}') && !shown.contains(KEY), "{shown}");
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    let upstream = Upstream::start();
    let is_colored = |changes: &[(&str, &str)]| {
        let mut command = command(&upstream);
        let shown = show(command.envs(changes.iter().copied()), "/status");
        assert_eq!(lines(&shown).len(), 5, "{shown}");
        shown.contains("\u{1b}[")
    };
    assert!(is_colored(&[]));
    assert!(is_colored(&[("NO_COLOR", ""), ("LOG_FORMAT", "auto")]));
    assert!(!is_colored(&[("NO_COLOR", "0")]));
    assert!(!is_colored(&[("TERM", "dumb")]));
}

#[test]
fn json_has_no_lines_for_people_on_a_terminal_either() {
    let upstream = Upstream::start();
    let shown = show(command(&upstream).env("LOG_FORMAT", "json"), "listening on");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    for line in lines {
        serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
}

#[test]
fn an_upstream_that_is_not_there_or_never_answers_does_not_keep_the_start_from_its_lines() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_url = format!("http://{}/v1", silent.local_addr().expect("an address"));
    for url in ["http://127.0.0.1:9/v1", &silent_url] {
        let upstream = Upstream::start();
        let mut command = command(&upstream);
        command.env("OPENAI_BASE_URL", url).env("NO_COLOR", "1").env("SHUTDOWN_GRACE", "1");
        let shown = show(&mut command, "/status");
        assert!(shown.contains("models       not known yet: "), "{shown}");
        assert!(shown.contains(&format!("upstream     {url}")), "{shown}");
    }
}
