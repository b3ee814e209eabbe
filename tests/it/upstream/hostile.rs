//! Upstreams whose errors, lists, ids and heads are huge, deep, endless, or other ones each time: every request
//! ends, and memory, log lines, labels and what the client gets stay small.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::program::{Running, program};
use crate::support::*;

/// The longest line of the log, in bytes.
const MAX_LINE: usize = 4 * 1024 + 200;

/// The most that an error of an upstream adds to the body of the client's response.
const MAX_ERROR: usize = 16 * 1024;

/// How long a request may take at such an upstream: an error's body is waited for 5 s.
const LIMIT: Duration = Duration::from_secs(20);

const MIB: usize = 1 << 20;

const ROUTES: [&str; 4] = ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"];

/// The program in front of an upstream of this kind.
struct Victim {
    upstream: Upstream,
    running: Running,
}

impl Victim {
    fn start() -> Self {
        let upstream = Upstream::start();
        let mut command = program();
        command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
        command
            .env("REQUEST_TIMEOUT", "10")
            .env("RETRY_MAX", "0")
            .env("LOG_LEVEL", "debug")
            .env("MODELS_TTL", "0");
        let running = Running::start(&mut command);
        Self { upstream, running }
    }

    /// Asks a route for a whole answer, or for a stream.
    fn ask(&self, route: &str, stream: bool) -> Answer {
        let body = json!({"model": "m", "stream": stream, "max_tokens": 9, "input": "Hi",
            "messages": [{"role": "user", "content": "Hi"}]});
        let began = Instant::now();
        let answer = Client::connect(self.running.addr).post(route, body.to_string()).answer();
        assert!(began.elapsed() < LIMIT, "{route}: {:?}", began.elapsed());
        answer
    }

    /// The most memory that the process has used, in bytes.
    fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// Runs `check`, in which memory may grow by so much, and reads the log.
    fn check(self, growth: usize, check: impl FnOnce(&Self)) {
        assert_eq!(Client::connect(self.running.addr).get("/api/version").answer().status(), 200);
        let before = self.peak();
        check(&self);
        let grown = self.peak() - before;
        assert!(grown < growth, "memory grew by {} MiB", grown / MIB);
        let metrics = Client::connect(self.running.addr).get("/metrics").answer().body;
        assert!(metrics.len() < 256 * 1024, "{} bytes of metrics", metrics.len());
        let Self { running, .. } = self;
        for line in running.stop().lines() {
            let start = &line[..line.len().min(300)];
            assert!(line.len() <= MAX_LINE, "{} bytes in a line: {start}", line.len());
            assert!(
                !line.chars().any(|c| c.is_control() && c != '\t'),
                "control characters: {start}"
            );
        }
    }
}

/// Whether a list has no other model than the one that was asked for: there is no list to be shown.
fn shows_only_m(answer: &Answer) -> bool {
    let list = answer.json();
    let models = list["models"].as_array().or(list["data"].as_array()).expect("a list");
    models.iter().all(|model| model["name"] == "m:latest" || model["id"] == "m")
}

fn with_head(status: u16, headers: &str, rest: Vec<Step>) -> Vec<Step> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}\r\n");
    [Step::Send(head.into_bytes())].into_iter().chain(rest).collect()
}

fn flood(bytes: Vec<u8>) -> Step {
    Step::Drip(bytes, Duration::ZERO)
}

#[test]
fn bodies_of_errors_are_read_to_a_limit() {
    let victim = Victim::start();
    victim.check(48 * MIB, |victim| {
        let long = |text: &str| format!("{{\"error\":{{\"message\":\"{text}\"}}}}");
        let nested = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
        let whole: Vec<Box<dyn Fn(u16) -> Vec<Step> + Send>> = vec![
            Box::new(|code| {
                with_head(code, "Content-Length: 209715200\r\n", vec![flood(vec![b'x'; 65536])])
            }),
            Box::new(|code| {
                let chunk = [b"10000\r\n".as_slice(), &[b'{'; 65536], b"\r\n"].concat();
                with_head(code, "Transfer-Encoding: chunked\r\n", vec![flood(chunk)])
            }),
            Box::new(move |code| vec![status(code, &[], &nested("[", "]"))]),
            Box::new(move |code| vec![status(code, &[], &nested("{\"error\":", "}"))]),
            Box::new(move |code| vec![status(code, &[], &long(&"x".repeat(60_000)))]),
            Box::new(move |code| {
                vec![status(code, &[], &long(&"\\u001b[2J\\n[ERROR] forged ".repeat(50)))]
            }),
            Box::new(move |code| {
                vec![typed(code, "text/plain", &[], &"a\u{1b}[2J\n".repeat(5000))]
            }),
            Box::new(|code| {
                let binary: Vec<u8> = (0..60_000_u32).map(|n| (n * 31 % 251) as u8).collect();
                with_head(code, "Content-Length: 60000\r\n", vec![Step::Send(binary)])
            }),
        ];
        for (number, steps) in whole.iter().enumerate() {
            for code in [[400, 500][number % 2]] {
                for route in ROUTES {
                    let is_passed = matches!(route, "/v1/chat/completions" | "/v1/responses");
                    // What is no text is passed on as it is.
                    if is_passed && number + 1 == whole.len() {
                        continue;
                    }
                    victim.upstream.script(steps(code));
                    // What is refused is repaired and sent again as often as that helps.
                    (0..12).for_each(|_| {
                        victim.upstream.script(steps(code));
                    });
                    let answer = victim.ask(route, false);
                    assert!(answer.status() >= 400, "{number} {route}: {}", answer.status());
                    let limit = if is_passed { MIB + 4096 } else { MAX_ERROR };
                    assert!(answer.body.len() <= limit, "{number} {route}: {}", answer.body.len());
                }
            }
            victim.upstream.clear();
        }
    });
}

#[test]
fn an_error_that_never_ends_is_left_after_seconds() {
    let victim = Victim::start();
    victim.check(16 * MIB, |victim| {
        for route in ["/api/chat", "/v1/chat/completions"] {
            let drip = Step::Drip(b"x".to_vec(), Duration::from_millis(100));
            victim.upstream.script(with_head(500, "Content-Length: 99999\r\n", vec![drip]));
            assert_eq!(victim.ask(route, false).status(), 500);
        }
    });
}

#[test]
fn lists_of_models_are_bounded_in_bytes_entries_depth_and_ids() {
    let victim = Victim::start();
    victim.check(160 * MIB, |victim| {
        let entries = |count: usize, id: &dyn Fn(usize) -> String| {
            let entries: Vec<_> = (0..count).map(|n| format!("{{\"id\":\"{}\"}}", id(n))).collect();
            format!("{{\"data\":[{}]}}", entries.join(","))
        };
        let deep = format!(
            "{{\"data\":[{{\"id\":\"m\",\"x\":{}1{}}}]}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let lists = [
            entries(1_000_000, &|n| format!("m{n}")),
            entries(40, &|n| n.to_string() + &"x".repeat(MIB)),
            format!("{{\"data\":[{{\"id\":\"m\",\"x\":[{}1]}}]}}", "1,".repeat(20 * MIB)),
            format!("{{\"data\":[{{\"id\":\"m\",\"x\":[{}1]}}]}}", "{},".repeat(2 * MIB)),
            deep,
        ];
        for (number, list) in lists.iter().enumerate() {
            victim.upstream.list(list);
            for route in ["/api/tags", "/v1/models"] {
                let began = Instant::now();
                let answer = Client::connect(victim.running.addr).get(route).answer();
                assert!(began.elapsed() < LIMIT, "{number}");
                let is_none = answer.status() == 502 || shows_only_m(&answer);
                assert!(is_none, "{number} {route}: {:.300}", answer.body);
                assert!(answer.body.len() < 12 * MIB, "{number}: {}", answer.body.len());
                assert!(!answer.body.contains(&"x".repeat(2000)), "an id of any length is shown");
            }
            // Without a list, a name is asked for as it is.
            victim.upstream.script(vec![answer("ok")]);
            assert_eq!(victim.ask("/api/chat", false).status(), 200, "{number}");
        }
        victim.upstream.script_lists();
        let endless = vec![flood(vec![b' '; 65536])];
        victim.upstream.script(with_head(200, "Content-Length: 524288000\r\n", endless));
        let answer = Client::connect(victim.running.addr).get("/api/tags").answer();
        assert!(answer.status() == 502 || shows_only_m(&answer), "{:.300}", answer.body);
    });
}

#[test]
fn lists_that_change_each_time_add_nothing() {
    let victim = Victim::start();
    victim.check(32 * MIB, |victim| {
        for round in 0..200 {
            let entries: Vec<_> =
                (0..100).map(|n| json!({"id": format!("m{round}-{n}")})).collect();
            victim.upstream.list(&json!({ "data": entries }).to_string());
            victim.upstream.script(vec![answer("ok")]);
            let name = format!("m{round}-1");
            let body = chat_whole("Hi").replacen("\"m\"", &format!("{name:?}"), 1);
            assert_eq!(
                Client::connect(victim.running.addr).post("/api/chat", body).answer().status(),
                200
            );
        }
    });
}

#[test]
fn heads_are_bounded_and_their_ids_too() {
    let victim = Victim::start();
    victim.check(32 * MIB, |victim| {
        let ok = r#"{"choices":[{"message":{"role":"assistant","content":"ok"}}]}"#;
        let length = format!("Content-Length: {}\r\n", ok.len());
        let long = "x".repeat(MIB);
        let many: String = (0..5000).map(|n| format!("X-H{n}: {n}\r\n")).collect();
        let heads = [
            format!("X-Request-Id: {long}\r\n"),
            format!("X-{long}: 1\r\n"),
            many,
            "X-Request-Id: \u{1b}[2J\r\n".to_owned(),
            format!("Retry-After: {}\r\n", "9".repeat(5000)),
        ];
        for (number, head) in heads.iter().enumerate() {
            for (code, route) in
                [(200, "/api/chat"), (500, "/api/chat"), (500, "/v1/chat/completions")]
            {
                let body = vec![Step::Send(ok.into()), Step::Close];
                victim.upstream.script(with_head(code, &format!("{head}{length}"), body));
                let answer = victim.ask(route, false);
                assert!(
                    answer.status() == code || answer.status() == 502,
                    "{number}: {}",
                    answer.status()
                );
                assert!(answer.body.len() <= MAX_ERROR, "{number}");
                let headers: usize =
                    answer.head.headers.iter().map(|(a, b)| a.len() + b.len()).sum();
                assert!(headers < 32 * 1024, "{number}: {headers}");
            }
        }
        // Interim responses without end, a line that never ends, and a redirect to itself.
        let endless = [
            flood("HTTP/1.1 102 Processing\r\n\r\n".repeat(100).into_bytes()),
            flood("HTTP/1.1 100 Continue\r\n\r\n".repeat(100).into_bytes()),
            flood(vec![b'H'; 4096]),
            flood(b"X-A: b\r\n".repeat(100)),
        ];
        for steps in endless {
            victim.upstream.script(vec![steps]);
            let answer = victim.ask("/api/chat", false);
            assert_eq!(answer.status(), 502, "{}", answer.body);
        }
        victim.upstream.script(with_head(
            302,
            "Location: /v1/chat/completions\r\nContent-Length: 0\r\n",
            vec![],
        ));
        assert_eq!(victim.ask("/api/chat", false).status(), 502);
        while !victim.upstream.is_idle() {
            victim.upstream.request();
        }
    });
}

#[test]
fn names_in_answers_that_change_each_time_grow_nothing() {
    let victim = Victim::start();
    victim.check(48 * MIB, |victim| {
        for round in 0..300 {
            let new = |what: &str| format!("{what}-{round}-{}", "y".repeat(200));
            let body = json!({"id": new("id"), "model": new("model"), "object": new("object"),
                "system_fingerprint": new("print"), "service_tier": new("tier"),
                "choices": [{"index": 0, "finish_reason": new("reason"), "message": {"role": new("role"),
                    "content": "a", "tool_calls": [{"id": new("call"), "type": new("type"),
                    "function": {"name": "f", "arguments": "{}"}}]}}]});
            victim.upstream.script(vec![json(&body.to_string())]);
            let route = ROUTES[round % 3];
            let answer = victim.ask(route, false);
            assert!(answer.status() == 200 || answer.status() == 502, "{route}: {}", answer.body);
            // Errors with types and codes that nobody has seen.
            let error = json!({"error": {"message": new("text"), "type": new("type"), "code": new("code")}});
            victim.upstream.script(vec![status(404, &[], &error.to_string())]);
            assert!(victim.ask(route, false).status() >= 400);
        }
        let metrics = Client::connect(victim.running.addr).get("/metrics").answer().body;
        assert!(!metrics.contains("yyyy"), "a text of the upstream is a label");
    });
}

#[test]
fn ids_of_a_mebibyte_pass_and_are_not_kept() {
    let victim = Victim::start();
    victim.check(96 * MIB, |victim| {
        for round in 0..20 {
            let id = format!("{round}{}", "i".repeat(MIB));
            let body = json!({"id": id, "model": "m", "choices": [{"index": 0,
                "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "",
                "reasoning_content": "r", "tool_calls": [{"id": id, "type": "function",
                "extra_content": {"google": {"thought_signature": id}},
                "function": {"name": "f", "arguments": "{}"}}]}}]});
            victim.upstream.script(vec![json(&body.to_string())]);
            assert_eq!(victim.ask(ROUTES[round % 3], false).status(), 200);
        }
    });
}

#[test]
fn comments_and_chunk_extensions_without_end_keep_no_memory() {
    let victim = Victim::start();
    victim.check(32 * MIB, |victim| {
        let comment = format!(": {}\n\n", "c".repeat(16 * 1024));
        let chunk = format!("{:x}\r\n{comment}\r\n", comment.len());
        // 64 MiB of comments, then the answer.
        let mut steps = vec![stream_head()];
        steps.extend((0..64).map(|_| Step::Send(chunk.repeat(64).into_bytes())));
        steps.push(delta("ok"));
        for route in ["/api/chat", "/v1/messages"] {
            let steps = steps.iter().map(|step| match step {
                Step::Send(bytes) => Step::Send(bytes.clone()),
                _ => Step::Close,
            });
            victim.upstream.script(ended(steps.collect()));
            let answer = victim.ask(route, true);
            assert!(answer.status() == 200 && answer.body.contains("ok"), "{route}");
        }
        // An extension that never ends.
        let extension = [b"5;".to_vec(), vec![b'e'; 65536]].concat();
        victim.upstream.script(vec![
            stream_head(),
            Step::Send(extension),
            flood(vec![b'e'; 65536]),
        ]);
        let answer = victim.ask("/api/chat", true);
        assert!(answer.status() == 502 || answer.body.contains("error"), "{}", answer.body);
    });
}
