//! A real Ollama among the upstreams: its lists, and the routes that manage its models.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::ollama::*;
use crate::support::*;

const PROGRESS: [&str; 3] = [
    "{\"status\":\"pulling manifest\"}\n",
    "{\"status\":\"pulling 3f5c0d1a2b4c\",\"digest\":\"sha256:3f\",\"total\":1000,\"completed\":400,\"new\":1.50}\n",
    "{\"status\":\"success\"}\n",
];

const DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

/// A proxy in front of an Ollama and another server.
fn mixed() -> (Ollama, Upstream, Proxy) {
    let (ollama, other) = (Ollama::start(), Upstream::start());
    let servers = vec![server("other", &other), ollama_server("lab", &ollama)];
    let fast = configured("fast", &["lab/llama3.2:latest"], |_| {});
    let proxy = several(servers, vec![fast]);
    (ollama, other, proxy)
}

/// What the Ollama gets of a request: method, path and body. The answer passes as it is.
fn passed(
    (ollama, proxy): (&Ollama, &Proxy),
    method: &str,
    path: &str,
    body: &str,
) -> (String, String, String) {
    let answer = "{ \"odd\":1.50 }\n";
    ollama.script(object(answer));
    proxy.client().call(method, path, body).answer().assert_body(200, answer);
    let asked = ollama.request();
    (asked.method, asked.path, asked.body)
}

#[test]
fn the_list_shows_its_own_entries_as_they_are() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    let expected = format!(r#"{{"models":[{}]}}"#, TAGS.join(","));
    proxy.fetch("/api/tags").assert_body(200, &expected);
    let (_ollama, _other, proxy) = mixed();
    let body = proxy.fetch("/api/tags").body;
    assert!(TAGS.iter().all(|tag| body.contains(tag)), "{body}");
    let names = proxy.names();
    assert_eq!(names[0], "fast:latest");
    assert!(names.contains(&"m:latest".to_owned()), "{names:?}");
}

#[test]
fn a_name_of_the_configuration_is_not_made_there() {
    let (ollama, other, proxy) = mixed();
    proxy.tags();
    for (path, body) in [
        ("/api/create", r#"{"model":"fast","from":"llama3.2","stream":false}"#),
        ("/api/copy", r#"{"source":"llama3.2","destination":"fast"}"#),
    ] {
        proxy.ask(path, body);
        assert!(ollama.is_idle() && other.is_idle(), "{path}");
    }
}

#[test]
fn show_is_its_own() {
    let (ollama, other, proxy) = mixed();
    for (sent, up) in [
        (
            r#"{"model":"llama3.2", "verbose":true,"new":1.0}"#,
            r#"{"model":"llama3.2", "verbose":true,"new":1.0}"#,
        ),
        (r#"{"model":"","name":"lab/llama3.2"}"#, r#"{"model":"","name":"llama3.2:latest"}"#),
        (r#"{"name":"fast"}"#, r#"{"name":"llama3.2:latest"}"#),
    ] {
        let (method, path, body) = passed((&ollama, &proxy), "POST", "/api/show", sent);
        assert_eq!((method.as_str(), path.as_str(), body.as_str()), ("POST", "/api/show", up));
    }
    assert_eq!(proxy.show("m")["model_info"]["general.basename"], "m");
    proxy.post("/api/show", &json!({"model": "x"})).assert_error(404, "model 'x:latest' not found");
    assert!(ollama.is_idle() && other.is_idle());
}

#[test]
fn it_learns_which_program_asks() {
    let (ollama, _other, proxy) = mixed();
    ollama.script(object("{}"));
    let lines = "User-Agent: GitHubCopilotChat/1.2\r\nAuthorization: Bearer theirs\r\n";
    let mut client = proxy.client();
    client.with("POST", "/api/show", lines, r#"{"model":"llama3.2"}"#);
    assert_eq!(client.answer().status(), 200);
    let asked = ollama.request();
    let agents = asked.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
    let agents: Vec<&str> = agents.map(|(_, value)| value.as_str()).collect();
    assert_eq!(agents, ["GitHubCopilotChat/1.2"]);
    assert_eq!(asked.header("authorization"), None, "the client's key is not for it");
}

#[test]
fn what_is_known_is_shown_while_it_is_down() {
    let (ollama, _other, proxy) = mixed();
    proxy.tags();
    ollama.script(vec![Step::Close]).script(vec![Step::Close]);
    let shown = proxy.show("llama3.2");
    assert_eq!(shown["details"]["family"], "llama");
    assert_eq!(shown["model_info"]["llama.context_length"], 131_072);
}

#[test]
fn its_models_are_copied_and_deleted_there() {
    let (ollama, _other, proxy) = mixed();
    let copy = |body: &str| passed((&ollama, &proxy), "POST", "/api/copy", body).2;
    let body = r#"{"source":"llama3.2","destination":"mine","x":1.0}"#;
    assert_eq!(copy(body), body);
    let prefixed = r#"{"source": "lab/llama3.2" ,"destination":"lab/mine"}"#;
    assert_eq!(copy(prefixed), r#"{"source": "llama3.2:latest" ,"destination":"mine"}"#);
    let delete = |body: &str| passed((&ollama, &proxy), "DELETE", "/api/delete", body);
    let (method, path, body) = delete(r#"{"model":"lab/llama3.2","x":[ ]}"#);
    assert_eq!((method.as_str(), path.as_str()), ("DELETE", "/api/delete"));
    assert_eq!(body, r#"{"model":"llama3.2:latest","x":[ ]}"#);
    // Models of other servers are managed as ever.
    proxy.post("/api/copy", &json!({"source": "m", "destination": "n"})).assert_body(200, "");
    assert!(proxy.names().contains(&"n:latest".to_owned()));
    let gone = proxy.client().call("DELETE", "/api/delete", r#"{"model":"n"}"#).answer();
    gone.assert_body(200, "");
    assert!(ollama.is_idle());
}

#[test]
fn an_empty_success_and_an_error_pass() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    ollama.script(empty()).script(error(404, "model \"x\" not found"));
    let body = json!({"source": "x", "destination": "y"});
    proxy.post("/api/copy", &body).assert_body(200, "");
    proxy.post("/api/copy", &body).assert_error(404, "model \"x\" not found");
}

#[test]
fn the_list_is_fetched_anew_after_a_change() {
    let ollama = Ollama::start();
    let proxy = ollama.proxy();
    assert_eq!(proxy.tags().len(), 2);
    ollama.list(r#"{"data":[]}"#);
    assert_eq!(proxy.tags().len(), 2, "it is kept");
    ollama.script(empty());
    let gone = proxy.client().call("DELETE", "/api/delete", r#"{"model":"llama3.2"}"#).answer();
    assert_eq!(gone.status(), 200);
    assert_eq!(proxy.tags().len(), 0);
    ollama.list(LIST);
    ollama.script(vec![lines_head(), frame(PROGRESS[2]), last_frame()]);
    assert_eq!(proxy.ask("/api/pull", r#"{"model":"llama3.2"}"#).status(), 200);
    assert_eq!(proxy.tags().len(), 2);
}

#[test]
fn progress_comes_line_by_line() {
    let (ollama, _other, proxy) = mixed();
    for (path, sent, up) in [
        (
            "/api/pull",
            r#"{"model":"new:8b","insecure":true}"#,
            r#"{"model":"new:8b","insecure":true}"#,
        ),
        ("/api/pull", r#"{"name":"lab/new:8b"}"#, r#"{"name":"new:8b"}"#),
        ("/api/pull", r#"{"name":"fast"}"#, r#"{"name":"llama3.2:latest"}"#),
        ("/api/push", r#"{"model":"lab/me/new"}"#, r#"{"model":"me/new"}"#),
        (
            "/api/create",
            r#"{"model":"lab/x","from":"lab/llama3.2"}"#,
            r#"{"model":"x","from":"llama3.2"}"#,
        ),
        (
            "/api/create",
            r#"{"model":"x","from": "fast","system":"s","new":1.0}"#,
            r#"{"model":"x","from": "llama3.2:latest","system":"s","new":1.0}"#,
        ),
        (
            "/api/create",
            r#"{"model":"x","files":{"a":"sha256:0"}}"#,
            r#"{"model":"x","files":{"a":"sha256:0"}}"#,
        ),
    ] {
        let (go, told) = bounded(1);
        ollama.script(vec![
            lines_head(),
            frame(PROGRESS[0]),
            Step::Wait(told),
            frame(PROGRESS[1]),
            frame(PROGRESS[2]),
            last_frame(),
        ]);
        let mut client = proxy.client();
        let head = client.post(path, sent).head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
        assert_eq!(client.frame().as_deref(), Some(PROGRESS[0]));
        go.send(()).expect("it waits");
        assert_eq!(client.rest_of_stream(), PROGRESS[1..].concat());
        let asked = ollama.request();
        assert_eq!((asked.path.as_str(), asked.body.as_str()), (path, up));
    }
}

#[test]
fn what_belongs_to_other_servers_is_answered_here() {
    let (ollama, other, proxy) = mixed();
    let pulled = proxy.ask("/api/pull", r#"{"model":"m","stream":false}"#);
    pulled.assert_body(200, r#"{"status":"success"}"#);
    let made =
        proxy.ask("/api/create", r#"{"model":"mario","from":"m","system":"s","stream":false}"#);
    made.assert_body(200, r#"{"status":"success"}"#);
    assert!(proxy.names().contains(&"mario:latest".to_owned()));
    let pushed = proxy.ask("/api/push", r#"{"model":"other/x","stream":false}"#);
    assert_eq!(pushed.status(), 500);
    assert!(ollama.is_idle() && other.is_idle());
}

#[test]
fn of_several_ollamas_the_name_says_which_one() {
    let (first, second) = (Ollama::start(), Ollama::start());
    second.list(r#"{"data":[{"id":"own:1b","object":"model","owned_by":"library"}]}"#);
    let servers = vec![ollama_server("a", &first), ollama_server("b", &second)];
    let proxy = several(servers, Vec::new());
    let sent = |body: &str| {
        second.script(object("{}"));
        proxy.ask("/api/pull", body).assert_body(200, "{}");
        second.request().body
    };
    assert_eq!(sent(r#"{"model":"b/new"}"#), r#"{"model":"new"}"#);
    assert_eq!(sent(r#"{"model":"own:1b"}"#), r#"{"model":"own:1b"}"#);
    // Without a prefix the proxy answers by itself.
    let lines = proxy.ask("/api/pull", r#"{"model":"new"}"#).lines();
    assert_eq!(lines[1]["error"], "pull model manifest: file does not exist");
    assert!(first.is_idle());
}

#[test]
fn a_blob_streams_through_whatever_its_length() {
    let (ollama, _other, proxy) = mixed();
    let path = format!("/api/blobs/{DIGEST}");
    let blob = "0123456789".repeat(100_000);
    let created =
        || vec![Step::Send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_vec())];
    ollama.script(created());
    proxy.ask(&path, &blob).assert_body(201, "");
    let asked = ollama.request();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", path.as_str()));
    assert!(asked.body == blob && asked.header("content-length") == Some("1000000"));
    // As Ollama's own command line sends it.
    ollama.script(created());
    let mut client = proxy.client();
    let head = "HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("POST {path} {head}5\r\n01234\r\n3\r\n567\r\n0\r\n\r\n"));
    assert_eq!(client.answer().status(), 201);
    let asked = ollama.request();
    assert_eq!((asked.body.as_str(), asked.header("content-length")), ("01234567", None));
    ollama.script(error(400, "digest mismatch"));
    client.post(&path, "x").answer().assert_error(400, "digest mismatch");
    proxy.ask("/api/blobs/a%20b", "x").assert_error(400, "invalid digest format");
}

#[test]
fn a_blob_is_sent_on_before_its_end_has_come() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let proxy = Proxy::at(&base, is_ollama);
    let (first, rest) = (vec![b'a'; 200_000], vec![b'b'; 100_000]);
    let mut client = proxy.client();
    let path = format!("/api/blobs/{DIGEST}");
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n");
    client.send([head.as_bytes(), &first].concat());
    let (mut upstream, _) = listener.accept().expect("the proxy connects");
    upstream.set_read_timeout(Some(HANG)).expect("a socket");
    let mut received = Vec::new();
    let mut read_until = |count: usize| {
        let body_length = |received: &[u8]| {
            let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            head.map_or(0, |end| received.len() - end - 4)
        };
        while body_length(&received) < count {
            let mut buffer = [0; 16 * 1024];
            let length = upstream.read(&mut buffer).expect("more comes");
            received.extend_from_slice(&buffer[..length]);
        }
    };
    // Most of the beginning is there before the rest was sent.
    read_until(100_000);
    client.send(&rest);
    read_until(300_000);
    upstream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").expect("it reads");
    assert_eq!(client.answer().status(), 201);
}

#[test]
fn a_blob_that_breaks_off_is_not_complete_there() {
    let (ollama, _other, proxy) = mixed();
    proxy.tags();
    let path = format!("/api/blobs/{DIGEST}");
    let mut client = proxy.client();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01"
    ));
    drop(client);
    let mut client = proxy.client();
    client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n01"));
    drop(client);
    // The scripted server only records whole bodies.
    ollama.script(object("{}"));
    proxy.ask("/api/pull", r#"{"model":"new"}"#).assert_body(200, "{}");
    assert_eq!(ollama.request().path, "/api/pull");
    assert!(ollama.is_idle());
}

#[test]
fn any_ollama_may_have_a_blob() {
    let (first, second) = (Ollama::start(), Ollama::start());
    let servers = vec![ollama_server("a", &first), ollama_server("b", &second)];
    let proxy = several(servers, Vec::new());
    let path = format!("/api/blobs/{DIGEST}");
    let no = || vec![Step::Send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n".to_vec())];
    let head = || {
        let mut client = proxy.client();
        client.request("HEAD", &path).head().status
    };
    let yes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec();
    first.script(no());
    second.script(vec![Step::Send(yes)]);
    assert_eq!(head(), 200);
    assert_eq!((first.request().method, second.request().method), ("HEAD".into(), "HEAD".into()));
    first.script(no());
    second.script(no());
    assert_eq!(head(), 404);
}

#[test]
fn running_models_are_its_own_and_ours() {
    let (ollama, other, proxy) = mixed();
    let entry = |name: &str, expires: &str| {
        format!(
            r#"{{"name":"{name}","model":"{name}", "size":5,"expires_at":"{expires}","new":1.50}}"#
        )
    };
    let late = entry("qwen/qwen3:8b", "2318-01-01T00:00:00.5+02:00");
    let early = entry("llama3.2:latest", "2001-01-01T00:00:00Z");
    ollama.side("/api/ps", &format!(r#"{{"models":[{late},{early}]}}"#));
    other.script(upstream::stream(&["ok"]));
    assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 200);
    // What the Ollama serves is its own to tell.
    for name in ["qwen/qwen3:8b", "fast"] {
        ollama.script(object("{}"));
        proxy.post("/api/generate", &json!({"model": name, "prompt": "a"})).assert_body(200, "{}");
    }
    let body = proxy.fetch("/api/ps").body;
    let models: Value = serde_json::from_str(&body).expect("JSON");
    let names = models["models"].as_array().expect("a list").iter();
    let names: Vec<&str> = names.filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(names, ["qwen/qwen3:8b", "fast:latest", "m:latest", "llama3.2:latest"]);
    assert!(body.contains(&late) && body.contains(&early), "{body}");
}

#[test]
fn an_ollama_that_is_down_hides_no_other_running_model() {
    let (ollama, other, proxy) = mixed();
    ollama.side("/api/ps", "no list");
    other.script(upstream::stream(&["ok"]));
    assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 200);
    let models = proxy.get("/api/ps");
    assert_eq!(models["models"][0]["name"], "m:latest");
}
