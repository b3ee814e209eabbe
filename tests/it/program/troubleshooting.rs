//! The tables of troubleshooting in the documents: every text that they quote as a symptom is one that the
//! program really prints, with the status that stands beside it.
//!
//! A symptom is the first cell of a row, such as `` 502 `connection refused` ``. Each is provoked here, by the
//! program itself; a text that the program changes fails here until the documents say it, too.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ollama_openai_proxy::error::Error;

use crate::support::program::{Running, program, run};
use crate::support::reserved::Reserved;
use crate::support::tls_server::{ISSUED, SELF_SIGNED, TlsServer};
use crate::support::*;

/// What a client or a terminal shows: a status, if it is a response, and all that can be read.
type Shown = (Option<u16>, String);

/// The program in front of this base URL, which is asked once.
fn at(base: &str) -> Command {
    let mut command = program();
    command.env("OPENAI_BASE_URL", base).env("RETRY_MAX", "0");
    command
}

/// A response as curl shows it.
fn shown(answer: &Answer) -> Shown {
    let headers = answer.head.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    (Some(answer.status()), headers.collect::<String>() + &answer.body)
}

fn ask(running: &Running, body: String) -> Shown {
    shown(&Client::connect(running.addr).post("/api/chat", body).answer())
}

/// What a chat gives where the base URL is this.
fn chat_at(base: &str) -> Shown {
    ask(&Running::start(&mut at(base)), chat_whole("Hi"))
}

/// What a chat gives where the upstream answers it so.
fn chat_with(steps: Vec<Step>) -> Shown {
    let upstream = Upstream::start();
    upstream.script(steps);
    chat_at(&upstream.base_url())
}

fn errors_of(command: &mut Command) -> Shown {
    let (code, _, errors) = run(command);
    assert_eq!(code, Some(1), "{errors}");
    (None, errors)
}

/// What keeps the program from starting.
fn starts() -> Vec<Shown> {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let refused = Reserved::new();
    vec![
        errors_of(at("http://127.0.0.1:9").args(["--port", &port])),
        errors_of(&mut program()),
        errors_of(at("http://127.0.0.1:9").args(["--config", "/nothing.toml"])),
        {
            let (_, output, errors) = run(at(&refused.base_url()).arg("--check"));
            (None, output + &errors)
        },
        {
            let running = Running::start(&mut at(&refused.base_url()));
            Client::connect(running.addr).get("/api/tags").answer();
            (None, running.stop())
        },
    ]
}

/// What the access rules refuse, and what the log says of it.
fn access() -> Vec<Shown> {
    let upstream = Upstream::start();
    let running = Running::start(at(&upstream.base_url()).env("PROXY_API_KEYS", "key-one-1"));
    let mut all = Vec::new();
    for line in ["Origin: https://page.example", "Host: ollama.example.com"] {
        let mut client = Client::connect(running.addr);
        let host = if line.starts_with("Host") { "" } else { "Host: localhost\r\n" };
        client.send(format!("GET /api/tags HTTP/1.1\r\n{host}{line}\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.body.as_str()), (403, ""), "{line}");
    }
    for _ in 0..12 {
        let lines = "Authorization: Bearer key-two-2";
        let mut client = Client::connect(running.addr);
        client.send(format!("GET /api/tags HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"));
        all.push(shown(&client.answer()));
    }
    // What the log tells of the two that have no body.
    all.push((Some(403), running.stop()));
    all
}

/// What the limits of a key with a name refuse.
fn limits() -> Vec<Shown> {
    let upstream = Upstream::start();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("troubleshooting.keys");
    fs::write(&file, "alice:key-one-1 models=m requests_per_minute=1\n").expect("written");
    let mut command = at(&upstream.base_url());
    let running = Running::start(command.env("PROXY_API_KEYS_FILE", &file));
    let with = |name: &str| {
        let body = chat_whole("Hi").replace("\"m\"", &format!("\"{name}\""));
        let mut client = Client::connect(running.addr);
        client.send(format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key-one-1\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        shown(&client.answer())
    };
    let other = with("x");
    upstream.script(vec![answer("ok")]);
    with("m");
    vec![other, with("m")]
}

/// Connections and certificates.
fn connections() -> Vec<Shown> {
    let refused = Reserved::new();
    let plain = Upstream::start();
    let secure = TlsServer::answering(ISSUED);
    let self_signed = TlsServer::answering(SELF_SIGNED);
    let proxied = {
        let mut command = at("http://upstream.invalid/v1");
        Running::start(command.env("HTTP_PROXY", format!("http://{}", refused.addr())))
    };
    vec![
        chat_at(&refused.base_url()),
        chat_at("http://upstream.invalid/v1"),
        chat_at(&format!("https://{}/v1", plain.addr())),
        chat_at(&format!("http://{}/v1", secure.addr())),
        chat_at(&format!("https://{}/v1", secure.addr())),
        chat_at(&format!("https://{}/v1", self_signed.addr())),
        ask(&proxied, chat_whole("Hi")),
    ]
}

/// What an upstream answers.
fn upstreams() -> Vec<Shown> {
    let error = |text: &str| json!({"error": {"message": text}}).to_string();
    vec![
        chat_with(vec![status(401, &[], &error("Incorrect API key provided"))]),
        chat_with(vec![status(402, &[], &error("Insufficient balance"))]),
        chat_with(vec![status(429, &[], &error("Rate limit reached"))]),
        chat_with(vec![typed(404, "text/plain", &[], "404 page not found")]),
        chat_with(vec![stream_head(), Step::Close]),
        {
            let upstream = Upstream::start();
            let (_go_on, waits) = bounded(0);
            upstream.script(vec![Step::Wait(waits)]);
            let mut command = at(&upstream.base_url());
            let running = Running::start(command.env("REQUEST_TIMEOUT", "0.2"));
            ask(&running, chat_whole("Hi"))
        },
        {
            let missing = json!({"error": {"message": "The model `x` does not exist",
                "code": "model_not_found"}});
            let upstream = Upstream::start();
            upstream.script(vec![status(404, &[], &missing.to_string())]);
            let body = chat_whole("Hi").replace("\"m\"", "\"x\"");
            ask(&Running::start(&mut at(&upstream.base_url())), body)
        },
        {
            // The circuit opens after failures that span a second, for which no test waits.
            let reason = "cannot reach the upstream".to_owned();
            let down = Error::UpstreamDown { reason, retry_after: Duration::from_secs(1) };
            (down.status(), down.message())
        },
    ]
}

/// What a request asks for that there is not.
fn requests() -> Vec<Shown> {
    let upstream = Upstream::start();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("troubleshooting.toml");
    let text = format!(
        "[[upstream]]\nname = \"lab\"\nbase_url = \"{}\"\n[[model]]\nname = \"x\"\nuse = [\"lab/m\"]\n\
         capabilities = [\"completion\"]\n",
        upstream.base_url()
    );
    fs::write(&file, text).expect("written");
    let mut command = program();
    let running = Running::start(command.arg("--config").arg(&file).env("MAX_BODY_BYTES", "2000"));
    let with = |member: &str, value: Value| {
        let mut body: Value = serde_json::from_str(&chat_whole("Hi")).expect("JSON");
        body["model"] = "x".into();
        body[member] = value;
        ask(&running, body.to_string())
    };
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    vec![
        with("tools", tool),
        with("think", true.into()),
        with("model", "text-embed".into()),
        with("format", "x".repeat(3000).into()),
    ]
}

/// A full queue.
fn busy() -> Shown {
    let upstream = Upstream::start();
    let (_go_on, steps) = halting();
    upstream.script(steps);
    let mut command = at(&upstream.base_url());
    command.env("PROXY_WORKERS", "1").env("OLLAMA_MAX_QUEUE", "0");
    let running = Running::start(&mut command);
    let mut first = Client::connect(running.addr);
    first.post("/api/chat", chat("Hi")).head();
    assert!(first.frame().is_some());
    ask(&running, chat_whole("Hi"))
}

/// The symptoms of a document: the status and the quoted texts of each row.
fn symptoms(document: &str) -> Vec<(Option<u16>, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(path).expect("a document");
    let (_, section) = text.split_once("\n## Troubleshooting\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let mut found = Vec::new();
    for row in rows {
        let cell = row.split(" | ").next().unwrap_or_default().trim_start_matches("| ");
        let status = cell.get(..3).and_then(|code| code.parse().ok());
        let quotes: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(status.is_none() || !quotes.is_empty(), "{document} quotes nothing: {cell}");
        found.extend(quotes.iter().map(|quote| (status, (*quote).to_owned())));
    }
    found
}

#[test]
fn the_configuration_file_of_the_readme_is_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).expect("a README");
    let file = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme.toml");
    fs::write(&path, file.expect("an example")).expect("written");
    let mut command = program();
    let running = Running::start(command.arg("--config").arg(path).env("OPENAI_KEY", "sk-1"));
    let log = running.stop();
    let told = "upstreams lab https://vllm.lan/v1, openai https://api.openai.com/v1";
    assert!(log.contains(told) && !log.contains("[WARN]"), "{log}");
}

#[test]
fn what_the_documents_quote_is_what_the_program_prints() {
    let mut shown = [starts(), access(), limits(), connections(), upstreams(), requests()].concat();
    shown.push(busy());
    for (document, least) in [("README.md", 8), ("scripts/deploy/README.md", 15)] {
        let symptoms = symptoms(document);
        assert!(symptoms.len() >= least, "{document}: {symptoms:?}");
        for (status, quote) in symptoms {
            let is_it = |(code, text): &Shown| *code == status && text.contains(&quote);
            assert!(
                shown.iter().any(is_it),
                "{document} quotes {status:?} `{quote}`, but the program prints: {shown:#?}"
            );
        }
    }
}
