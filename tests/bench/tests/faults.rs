//! The load generator against servers that answer wrongly: each fault is counted as what it is, and
//! the run goes on over a new connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

/// Answers one connection after the other, each with one of the texts, and closes it.
fn serve(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    // Ends with the test, even where the load did not ask for every answer.
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            take_request(&mut stream);
            // In small pieces, and to a client that may have seen enough of it.
            let _ = answer.as_bytes().chunks(7).try_for_each(|piece| stream.write_all(piece));
        }
    });
    url
}

/// Reads the one request, whose body ends with the last brace.
fn take_request(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    let is_whole =
        |seen: &[u8]| seen.ends_with(b"}") && seen.windows(4).any(|it| it == b"\r\n\r\n");
    while !is_whole(&seen) {
        let count = stream.read(&mut buffer).expect("a request");
        assert!(count > 0, "a whole request");
        seen.extend_from_slice(&buffer[..count]);
    }
}

fn load(answers: Vec<String>, flags: &str) -> Value {
    let requests = answers.len().to_string();
    let url = serve(answers);
    let output = Command::new(env!("CARGO_BIN_EXE_bench-load"))
        .args(["--url", &url, "--requests", &requests, "--check"])
        .args(flags.split_whitespace())
        .output()
        .expect("the load runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// A whole stream in chunked framing, one frame a line, with `[DONE]` or its like where told.
fn stream(api: &str, tokens: &[&str], done: bool) -> String {
    let mut lines: Vec<String> = tokens
        .iter()
        .map(|text| match api {
            "ollama" => {
                format!("{{\"message\":{{\"content\":\"{text}\"}},\"done\":false}}\n")
            }
            _ => format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"),
        })
        .collect();
    if done {
        lines.push(match api {
            "ollama" => "{\"message\":{\"content\":\"\"},\"done\":true}\n".to_owned(),
            _ => "data: [DONE]\n\n".to_owned(),
        });
    }
    let frames: String = lines.iter().map(|it| format!("{:x}\r\n{it}\r\n", it.len())).collect();
    format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{frames}0\r\n\r\n"
    )
}

fn whole(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[test]
fn faults_of_streams_are_counted() {
    for api in ["ollama", "openai"] {
        let right = stream(api, &[" w0", " w1", " w2"], true);
        let cut = right.find(" w1").expect("a token");
        let answers = vec![
            right.clone(),
            right[..cut].to_owned(),
            stream(api, &[" w0", " w0", " w1", " w2"], true),
            stream(api, &[" w0", " w1", " w2"], false),
            stream(api, &[" w0", " w2"], true),
            whole("503 Busy", "{\"error\":\"busy\"}"),
            "what?\r\n\r\n".to_owned(),
            stream(api, &[" w1", " w0", " w2"], true),
            right,
        ];
        let report = load(answers, &format!("--api {api} --model stream-3 --stream"));
        let errors =
            json!({"closed": 1, "order": 2, "incomplete": 2, "status_503": 1, "framing": 1});
        assert_eq!(report["errors"], errors, "{api}");
        assert_eq!((&report["requests"], &report["lost"]), (&json!(2), &json!(3)), "{api}");
        assert_eq!(report["tokens"], 3 + 1 + 4 + 3 + 2 + 3 + 3, "{api}");
    }
}

#[test]
fn faults_of_whole_answers_are_counted() {
    let vectors = |numbers: &str| whole("200 OK", &format!("{{\"embeddings\":[{numbers}]}}"));
    let answers = vec![
        vectors("[1.5,2],[3,4]"),
        vectors("[1.5,2]"),
        vectors("[1.5],[3]"),
        vectors("[1.5,2,3,4]"),
        whole("200 OK", "{\"embeddings\":[[1,2],[3,4]"),
        vectors("[1.5,2],[3,4]").replace("Content-Length: 30", "Content-Length: 31"),
    ];
    let report = load(answers, "--api ollama --model embed-2x2 --embed 2");
    assert_eq!(report["errors"], json!({"incomplete": 4, "closed": 1}), "{report}");
    let answers = vec![whole("200 OK", "{\"message\":{\"content\":\"other\"},\"done\":true}")];
    let report = load(answers, "--api ollama --model short");
    assert_eq!(report["errors"], json!({"order": 1}), "{report}");
}
