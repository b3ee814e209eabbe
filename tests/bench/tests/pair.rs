//! The two programs against each other: every kind of answer, in the closed loop and the open one.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};

/// The scripted upstream. It ends when its standard input is dropped with this.
struct Upstream {
    child: Child,
    input: Option<ChildStdin>,
    url: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench-upstream"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the upstream starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening ").expect("an address").to_owned();
        let input = child.stdin.take();
        Self { child, input, url: format!("http://{address}") }
    }

    /// Closes its standard input and waits for its end.
    fn stop(&mut self) -> bool {
        self.input.take();
        self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Exit code, and the report.
fn load(url: &str, flags: &str) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-load"))
        .args(["--url", url])
        .args(flags.split_whitespace())
        .stderr(Stdio::null())
        .output()
        .expect("the load runs");
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report)
}

#[test]
fn every_kind_is_answered_whole() {
    let upstream = Upstream::start();
    let check = |flags: &str, requests: u64, tokens: u64| {
        let (code, report) = load(&upstream.url, &format!("--api openai --check {flags}"));
        assert_eq!((code, &report["errors"]), (Some(0), &json!({})), "{flags}: {report}");
        assert_eq!(report["requests"], requests, "{flags}: {report}");
        assert_eq!((&report["tokens"], &report["lost"]), (&json!(tokens), &json!(0)), "{flags}");
        assert!(report["total_ms"]["max"].is_f64() && report["ttft_ms"]["p50"].is_f64(), "{flags}");
        report
    };
    check("--model short --connections 3 --requests 100", 100, 0);
    check("--model stream-256 --stream --connections 3 --requests 20", 20, 20 * 256);
    // More than the sockets hold: the rest is written as there is room.
    check("--model stream-100000 --stream --connections 2 --requests 2", 2, 2 * 100_000);
    let paced = "--model paced-1000-20 --stream --connections 4 --requests 8 --late-ms 60000";
    let report = check(paced, 8, 160);
    assert!(report["transit_ms"]["p99"].is_f64() && report["late"] == 0, "{report}");
    check("--model embed-16x1536 --embed 16 --connections 2 --requests 5", 5, 0);
    check("--model embed-1x1 --embed 1 --connections 1 --requests 5", 5, 0);
    check("--model short --image-bytes 3000001 --connections 2 --requests 4", 4, 0);
    check("--model short --connections 2 --requests 20 --rate 2000", 20, 0);
    check("--model short --connections 3 --requests 9 --conversations 2 --key k-1", 9, 0);
    check("--model stream-3 --stream --connections 9 --requests 9 --from-connect", 9, 27);
    check("--model stream-3 --stream --connections 9 --requests 20 --ramp 0.01", 20, 60);
}

#[test]
fn wrong_answers_are_counted_as_what_they_are() {
    let mut upstream = Upstream::start();
    let errors = |flags: &str| {
        let (code, report) = load(&upstream.url, &format!("--connections 2 --requests 4 {flags}"));
        assert_eq!((code, &report["requests"]), (Some(0), &json!(0)), "{flags}: {report}");
        report["errors"].clone()
    };
    assert_eq!(errors("--api openai --model other"), json!({"status_404": 4}));
    assert_eq!(errors("--api ollama --model short"), json!({"status_404": 4}));
    assert_eq!(errors("--api openai --model short --stream"), json!({"incomplete": 4}));
    assert_eq!(errors("--api openai --model stream-2"), json!({"incomplete": 4}));
    assert!(upstream.stop());
    let (code, report) = load(&upstream.url, "--api openai --model short --requests 30");
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(load(&upstream.url, "--api openai --model short").0, Some(2));
}
