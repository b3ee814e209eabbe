//! Client API keys: which routes require one, in which headers it is accepted, and that it never
//! goes upstream.

use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::program::{Running, program, run};
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::handlers::ROUTES;
use ollama_openai_proxy::http::client_keys::ClientKeys;

/// A client key of the proxy.
const OWN: &str = "own-key-0f-the-proxy";

fn keyed(config: &mut Config) {
    config.proxy_api_keys = ClientKeys::parse(OWN).expect("a key");
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

/// A request with these header lines and a body.
fn ask(client: &mut Client, method: &str, path: &str, lines: &str, body: &str) -> Answer {
    client.with(method, path, lines, body).any_answer(method)
}

/// Whether a response is a 401 that lists how to send a key. On the paths of the status page `Basic` is not
/// one of the ways: browsers would ask for a password.
fn asks_for_a_key(answer: &Answer) -> bool {
    let headers = answer.head.headers.iter().filter(|(name, _)| name == "WWW-Authenticate");
    let ways: Vec<&str> = headers.filter_map(|(_, value)| value.split(' ').next()).collect();
    let is_of_page = answer.head.header("content-security-policy").is_some();
    let expected = if is_of_page { &["Bearer"][..] } else { &["Bearer", "Basic"] };
    assert!(ways.is_empty() || (answer.status() == 401 && ways == expected), "{ways:?}");
    !ways.is_empty()
}

#[test]
fn every_route_but_health_and_the_files_of_the_status_page_asks_for_a_key() {
    let (_upstream, proxy) = pair_with(keyed);
    let mut seen = 0;
    for route in ROUTES {
        let path = route.pattern;
        for method in route.methods().chain(["PUT"]) {
            let target = path.replace([':', '*'], "");
            let ask = |lines: &str| ask(&mut proxy.client(), method, &target, lines, "");
            let open = ["/", "/health", "/status", "/status.css", "/status.js"];
            let open = open.contains(&path) && method != "PUT";
            assert_eq!(asks_for_a_key(&ask("")), !open, "{method} {path}");
            assert_eq!(asks_for_a_key(&ask(&bearer("wrong-key-1"))), !open, "{method} {path}");
            assert!(!asks_for_a_key(&ask(&bearer(OWN))), "{method} {path}");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
    for target in ["/nothing", "/api/tags/", "/v1", "//", "/health/", "/openai/health"] {
        let open = target == "//";
        let told = ask(&mut proxy.client(), "GET", target, "", "");
        assert_eq!(asks_for_a_key(&told), !open, "{target}");
    }
}

#[test]
fn without_keys_nobody_is_asked_for_one() {
    let proxy = Proxy::start(&Upstream::start());
    for lines in [String::new(), bearer("whatever"), "x-api-key: whatever\r\n".to_owned()] {
        let told = ask(&mut proxy.client(), "GET", "/api/version", &lines, "");
        assert_eq!(told.status(), 200, "{lines}");
    }
}

#[test]
fn a_key_may_come_as_bearer_as_x_api_key_and_as_a_password() {
    let proxy = Proxy::with(&Upstream::start(), keyed);
    let mut client = proxy.client();
    let mut check = |line: &str, expected: u16| {
        let told = ask(&mut client, "GET", "/api/version", &format!("{line}\r\n"), "");
        assert_eq!(told.status(), expected, "{line}");
    };
    check(&format!("Authorization: Bearer {OWN}"), 200);
    check(&format!("authorization: BEARER {OWN}"), 200);
    check(&format!("X-Api-Key: {OWN}"), 200);
    // me:own-key-0f-the-proxy, own-key-0f-the-proxy: and me:wrong
    check("Authorization: Basic bWU6b3duLWtleS0wZi10aGUtcHJveHk=", 200);
    check("Authorization: Basic b3duLWtleS0wZi10aGUtcHJveHk6", 200);
    check("Authorization: Basic bWU6d3Jvbmc=", 401);
    check(&format!("Authorization: {OWN}"), 401);
    check(&format!("Authorization: Bearer {KEY}"), 401);
    check(&format!("X-Api-Key: {OWN}x"), 401);
    check(&format!("Cookie: key={OWN}"), 401);
    // The connection stays open.
    check(&format!("Authorization: Bearer {OWN}"), 200);
}

#[test]
fn an_address_that_sends_wrong_keys_is_told_to_wait_and_a_right_key_is_served_all_the_same() {
    let proxy = Proxy::with(&Upstream::start(), keyed);
    let told = |line: &str| ask(&mut proxy.client(), "GET", "/v1/models", line, "");
    let wrong = || told(&bearer("wrong-key-1"));
    for round in 0..2 {
        for _ in 0..10 {
            assert!(asks_for_a_key(&wrong()), "{round}");
            // Clients ask without a key first.
            assert!(asks_for_a_key(&told("")), "{round}");
        }
        let refused = wrong();
        assert_eq!((refused.status(), refused.head.header("connection")), (429, Some("close")));
        assert_eq!(refused.head.header("retry-after"), Some("1"));
        // The official clients would send it twice more.
        assert_eq!(refused.head.header("x-should-retry"), Some("false"));
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
        assert_eq!(wrong().status(), 429);
        assert!(asks_for_a_key(&told("")), "{round}");
        // Another client behind the same address.
        assert_eq!(told(&bearer(OWN)).status(), 200, "{round}");
    }
}

#[test]
fn neither_the_length_of_a_key_nor_the_number_of_keys_matters() {
    let many: String = (0..10_000).map(|number| format!("key-number-{number:05},")).collect();
    let proxy = Proxy::with(&Upstream::start(), |config| {
        config.proxy_api_keys = ClientKeys::parse(&many).expect("keys");
    });
    let check = |line: String, expected: u16| {
        let told = ask(&mut proxy.client(), "GET", "/api/version", &format!("{line}\r\n"), "");
        assert_eq!(told.status(), expected, "{}", &line[..line.len().min(60)]);
    };
    let long = "k".repeat(60_000);
    for (number, expected) in [("00000", 200), ("09999", 200), ("10000", 401)] {
        check(format!("Authorization: Bearer key-number-{number}"), expected);
    }
    for line in [
        format!("Authorization: Bearer {long}"),
        format!("Authorization: Basic {long}"),
        format!("Authorization: {long}"),
        format!("x-api-key: key-number-00001{long}"),
    ] {
        check(line, 401);
    }
    check("x-api-key: key-number-00001".to_owned(), 200);
}

#[test]
fn a_missing_key_is_told_in_each_protocol_s_shape() {
    const NO_KEY: &str = r#"{"error":"unauthorized: send one of this proxy's keys as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\""}"#;
    let (upstream, proxy) = pair_with(keyed);
    let told = |path: &str| ask(&mut proxy.client(), "POST", path, "", &chat("Hi"));
    let native = told("/api/chat");
    native.assert_body(401, NO_KEY);
    assert_eq!(native.head.header("content-type"), Some("application/json; charset=utf-8"));
    let openai = told("/v1/chat/completions").json();
    assert_eq!(openai["error"]["code"], "invalid_api_key");
    assert_eq!(openai["error"]["type"], "invalid_request_error");
    let anthropic = told("/v1/messages").json();
    assert_eq!(anthropic["type"], "error");
    assert_eq!(anthropic["error"]["type"], "authentication_error");
    assert!(upstream.is_idle());
}

#[test]
fn a_body_without_a_key_stays_unread() {
    let (upstream, proxy) = pair_with(keyed);
    for framing in ["Content-Length: 5000000", "Transfer-Encoding: chunked"] {
        for path in ["/api/chat", "/v1/chat/completions", "/api/blobs/sha256:00"] {
            // The body is never sent.
            let mut client = proxy.client();
            client.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"));
            let told = client.answer();
            assert!(asks_for_a_key(&told), "{framing} {path}");
            assert_eq!(told.head.header("connection"), Some("close"), "{framing} {path}");
        }
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_preflight_needs_no_key_and_a_page_can_read_that_one_is_missing() {
    let proxy = Proxy::with(&Upstream::start(), keyed);
    let mut client = proxy.client();
    let from = "Origin: http://localhost:3000\r\n";
    let asked = format!(
        "{from}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    );
    let preflight = ask(&mut client, "OPTIONS", "/api/chat", &asked, "");
    assert_eq!(preflight.status(), 204);
    let allowed = preflight.head.header("access-control-allow-headers").unwrap_or_default();
    assert!(allowed.split(',').any(|name| name == "Authorization"), "{allowed}");
    let told = ask(&mut client, "POST", "/api/chat", from, "{}");
    assert!(asks_for_a_key(&told));
    let origin = told.head.header("access-control-allow-origin");
    assert_eq!(origin, Some("http://localhost:3000"));
    let far = "Origin: http://evil.test\r\n";
    for lines in [far.to_owned(), format!("{far}{}", bearer(OWN))] {
        let told = ask(&mut client, "GET", "/api/tags", &lines, "");
        assert_eq!((told.status(), told.body.as_str()), (403, ""), "a key opens no foreign origin");
    }
}

#[test]
fn a_host_that_is_not_ours_is_refused_with_a_key_too() {
    let proxy = Proxy::with(&Upstream::start(), keyed);
    let mut client = proxy.client();
    client.send(format!("GET /api/tags HTTP/1.1\r\nHost: evil.test\r\n{}\r\n", bearer(OWN)));
    assert_eq!(client.answer().status(), 403);
}

#[test]
fn a_full_queue_is_not_told_to_those_without_a_key() {
    let (proxy, _busy) = full_queue(&bearer(OWN), keyed);
    let mut client = proxy.client();
    assert!(asks_for_a_key(&ask(&mut client, "GET", "/api/tags", "", "")));
    assert_eq!(ask(&mut client, "GET", "/api/tags", &bearer(OWN), "").status(), 503);
}

/// Asserts that the upstream request holds the upstream's key, or none, and nothing of the client's.
fn check_upstream(request: &Recorded, key: Option<&str>) {
    let expected = key.map(|key| format!("Bearer {key}"));
    assert_eq!(request.header("authorization"), expected.as_deref(), "{}", request.path);
    for name in ["x-api-key", "api-key", "proxy-authorization", "cookie"] {
        assert_eq!(request.header(name), None, "{}", request.path);
    }
    let all = format!("{request:?}");
    assert!(!all.contains(OWN) && !all.contains("b3duLWtleS0wZi10aGUtcHJveHk"), "{all}");
}

#[test]
fn the_client_s_key_never_goes_upstream() {
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    let large = chat(&"x".repeat(2 << 20));
    let embed = r#"{"model":"m","input":"Hi","prompt":"Hi"}"#;
    let asked = [
        ("/api/chat", chat_whole("Hi")),
        ("/api/generate", r#"{"model":"m","prompt":"Hi"}"#.to_owned()),
        ("/api/embed", embed.to_owned()),
        ("/v1/chat/completions", chat("Hi")),
        ("/v1/chat/completions", large),
        ("/v1/embeddings", embed.to_owned()),
        ("/v1/responses", embed.to_owned()),
        ("/v1/messages", chat("Hi").replacen('{', "{\"max_tokens\":9,", 1)),
        ("/v1/audio/transcriptions", form.to_owned()),
    ];
    for key in [Some(KEY), None] {
        let (upstream, proxy) = pair_with(|config| {
            keyed(config);
            config.upstream.api_key = config.upstream.api_key.take().filter(|_| key.is_some());
        });
        for (path, body) in &asked {
            let kind = if path.contains("audio") {
                "multipart/form-data; boundary=b"
            } else {
                "application/json"
            };
            for lines in [
                bearer(OWN),
                format!("x-api-key: {OWN}\r\n"),
                "Authorization: Basic b3duLWtleS0wZi10aGUtcHJveHk6\r\nCookie: a=b\r\n".to_owned(),
            ] {
                upstream.script(vec![status(400, &[], r#"{"error":"no"}"#)]);
                let lines = format!("{lines}api-key: {OWN}\r\nContent-Type: {kind}\r\n");
                let target = format!("{path}?key={OWN}");
                ask(&mut proxy.client(), "POST", &target, &lines, body);
                check_upstream(&upstream.request(), key);
            }
        }
    }
}

#[test]
fn a_key_that_the_upstream_repeats_is_masked() {
    let (upstream, proxy) = pair_with(keyed);
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let text = format!(r#"{{"error":{{"message":"neither {OWN} nor {KEY} will do"}}}}"#);
        upstream.script(vec![status(401, &[], &text)]);
        let body = chat("Hi").replacen('{', "{\"max_tokens\":9,", 1);
        let told = ask(&mut proxy.client(), "POST", path, &bearer(OWN), &body);
        assert_eq!(told.status(), 401);
        assert!(!asks_for_a_key(&told), "the client key is right");
        assert!(told.body.contains("neither *** nor *** will do"), "{}", told.body);
        upstream.request();
    }
}

/// A file of keys with this content and mode.
fn file(name: &str, content: &str, mode: u32) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, content).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    path
}

#[test]
fn keys_may_stand_in_a_file() {
    let upstream = Upstream::start();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
        let path = file("keys", &format!("# ours\n\n{OWN}\r\n"), mode);
        let mut command = program();
        command.env("OPENAI_BASE_URL", upstream.base_url()).env("PROXY_API_KEYS_FILE", &path);
        // Below any limit of descriptors, so that no warning is logged.
        command.env("PROXY_API_KEYS", "another-key").env("MAX_CONNECTIONS", "100");
        let running = Running::start(&mut command);
        for (key, expected) in [(OWN, 200), ("another-key", 200), ("# ours", 401)] {
            let mut client = Client::connect(running.addr);
            let told = ask(&mut client, "GET", "/api/version", &bearer(key), "");
            assert_eq!(told.status(), expected, "{key}");
        }
        let log = running.stop();
        assert_eq!(log.contains("[WARN]"), warned, "{log}");
        assert_eq!(log.contains(&format!("(mode {mode:o}): run chmod 600 on it")), warned, "{log}");
        assert!(log.contains("access=wrong_key error=unauthorized"), "{log}");
        assert!(!log.contains(OWN) && !log.contains("another-key"), "{log}");
    }
}

#[test]
fn a_file_that_gives_no_key_stops_the_start() {
    let folder = env!("CARGO_TARGET_TMPDIR").to_owned();
    let path = |name: &str, content: &str| file(name, content, 0o600).display().to_string();
    for (path, reason) in [
        ("/nowhere/s3cret".to_owned(), "no such file"),
        (folder, "cannot read the file: it is a folder"),
        (path("no-keys", "# s3cret\n"), "no key in the file"),
        (path("bad-keys", "s3cret one\n"), "line 1: invalid key; "),
        (path("large-keys", &"# s3cret\n".repeat(200_000)), "the file is larger than 1 MiB"),
    ] {
        for flag in [None, Some("--check")] {
            let mut command = program();
            command.args(flag).arg("--proxy-api-keys-file").arg(&path);
            let (code, out, err) = run(command.env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"));
            assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
            assert!(err.starts_with(&format!("Error: PROXY_API_KEYS_FILE: {reason}")), "{err}");
            assert!(!err.contains("s3cret"), "{err}");
        }
    }
}

#[test]
fn an_open_door_is_told_at_the_start_and_by_a_check() {
    const WARNING: &str = "anyone who can reach this address can use the upstream with your key";
    let upstream = Upstream::start();
    for (host, keys, warned) in [
        ("0.0.0.0:0", "", true),
        (":0", "", true),
        ("127.0.0.1:0", "", false),
        ("localhost:0", "", false),
        ("0.0.0.0:0", OWN, false),
    ] {
        let mut command = program();
        command.env("OPENAI_BASE_URL", upstream.base_url()).env("OLLAMA_HOST", host);
        let log = Running::start(command.env("PROXY_API_KEYS", keys)).stop();
        let warning = log.lines().find(|line| line.contains(WARNING));
        assert_eq!(warning.is_some_and(|line| line.contains("[WARN]")), warned, "{host} {log}");
        let (code, out, _) = run(command.arg("--check"));
        assert_eq!((code, out.contains(&format!("\nwarning: {WARNING}"))), (Some(0), warned));
        assert!(!out.contains(OWN), "{out}");
        assert_eq!(out.contains("\nPROXY_API_KEYS=***\n"), !keys.is_empty(), "{out}");
    }
}
