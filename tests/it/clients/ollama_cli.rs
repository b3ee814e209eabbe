//! What Ollama's own command line sends, and what it reads of the responses.

use super::replay::Read::{Absent, Digest, Holds, Positive, Text, Version, Window};
use super::replay::{Reads, Row, forwarded, get, is, local, replay, usage};
use crate::support::*;

const CLI: &str = "User-Agent: ollama/0.40.16 (amd64 linux) Go/go1.26.0\r\n\
                   Accept: application/json\r\nContent-Type: application/json\r\n";

/// What the Go client writes to show a model.
fn show(name: &str, reads: impl Into<Reads>) -> Row {
    let body = json!({"model": "", "system": "", "template": "", "verbose": false, "options": null, "name": name});
    local("POST /api/show", body, reads)
}

/// A generate request with the zero values that the Go client writes.
fn go_generate(prompt: &str, keep_alive: &Value) -> Value {
    json!({"model": "m", "prompt": prompt, "suffix": "", "system": "", "template": "", "context": null,
           "format": "", "keep_alive": keep_alive, "options": null})
}

#[test]
fn the_cli_lists_and_shows() {
    // This status is what makes it pull.
    let unknown = show("nope", [is("/error", "model 'nope:latest' not found")]).with_status(404);
    let listed = [
        ("/models/0/name", Text),
        ("/models/0/digest", Digest),
        is("/models/0/size", 0),
        ("/models/0/modified_at", Text),
        ("/models/0/remote_model", Absent),
    ];
    let shown = [
        ("/details/family", Text),
        ("/model_info", Window(32_768)),
        ("/capabilities", Holds("completion")),
        ("/remote_host", Absent),
    ];
    let rows = [
        get("HEAD /", []),
        get("GET /api/tags", listed),
        get("HEAD /", []),
        show("m", shown),
        unknown,
        get("GET /api/version", [("/version", Version)]),
    ];
    replay(CLI, rows);
}

#[test]
fn the_cli_runs_and_stops_a_model() {
    let loaded = [is("/done_reason", "load"), is("/response", "")];
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let chat = json!({"model": "m", "messages": messages, "format": "", "keep_alive": "5m0s",
                      "options": {}, "tools": null});
    let chat_sent =
        [is("/messages", messages.clone()), ("/response_format", Absent), ("/tools", Absent)];
    let generated =
        [is("/lines/0/response", "Hi"), is("/last/response", ""), ("/last/context/0", Positive)];
    let generate_sent = [is("/messages", messages), ("/suffix", Absent)];
    let running = [
        is("/models/0/name", "m:latest"),
        ("/models/0/digest", Digest),
        is("/models/0/size_vram", 0),
        is("/models/0/context_length", 32_768),
        ("/models/0/expires_at", Text),
    ];
    let generate = |prompt: &str, keep_alive: Value| go_generate(prompt, &keep_alive);
    let hello = generate("Hello", json!(-1));
    let rows = [
        get("HEAD /", []),
        show("m", [("/capabilities", Holds("completion"))]),
        local("POST /api/generate", generate("", json!("5m0s")), loaded),
        forwarded("POST /api/chat", chat, stream(&["Hi"]), usage(), chat_sent),
        forwarded("POST /api/generate", hello, stream(&["Hi"]), generated, generate_sent),
        get("GET /api/ps", running),
        local("POST /api/generate", generate("", json!("0s")), [is("/done_reason", "unload")]),
        get("GET /api/ps", [is("/models", json!([]))]),
    ];
    replay(CLI, rows);
}

#[test]
fn the_cli_creates_copies_pulls_and_removes() {
    let create = json!({"model": "own", "from": "m", "system": "Brief.", "files": null,
                        "adapters": null, "messages": null, "parameters": null});
    let pull = |name: &str, reads: Reads| {
        let body = json!({"model": "", "insecure": false, "name": name});
        local("POST /api/pull", body, reads)
    };
    let failed = vec![
        is("/lines/0/status", "pulling manifest"),
        is("/last/error", "pull model manifest: file does not exist"),
    ];
    let rows = [
        local("POST /api/create", create, [is("/last/status", "success")]),
        show("own", [is("/system", "Brief.")]),
        // Its answer is empty.
        local("POST /api/copy", json!({"source": "own", "destination": "b"}), [is("", "")]),
        pull("m", vec![is("/last/status", "success")]),
        pull("nope", failed),
        local("DELETE /api/delete", json!({"model": "", "name": "own"}), [is("", "")]),
        show("own", [("/error", Text)]).with_status(404),
        show("b", [is("/system", "Brief.")]),
    ];
    replay(CLI, rows);
}

#[test]
fn errors_before_and_within_a_stream_are_told_as_clients_read_them() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    let refusal = r#"{"error":{"message":"Too fast.","type":"requests","code":"rate_limit"}}"#;
    let failure = frame("data: {\"error\":{\"message\":\"The model gave up.\"}}\n\n");
    let broken = vec![stream_head(), delta("Half"), failure, last_frame()];
    let row = |change: Value, upstream: Vec<Step>, reads: Reads| {
        forwarded("POST /api/chat", with(chat.clone(), &change), upstream, reads, [])
    };
    let half =
        vec![is("/lines/0/message/content", "Half"), ("/last/error", Text), ("/last/done", Absent)];
    let rows = [
        row(json!({}), vec![status(400, &[], refusal)], vec![is("/error", "Too fast.")])
            .with_status(400),
        row(json!({}), broken, half),
        // The connection serves the next request.
        row(json!({"stream": false}), vec![answer("Hi")], vec![is("/message/content", "Hi")]),
    ];
    replay(CLI, rows);
}
