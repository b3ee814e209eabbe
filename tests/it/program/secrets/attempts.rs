//! Every route by each of its methods, and every failure of the upstream and of the client.

use std::net::Shutdown;

use super::stage::*;
use crate::support::*;
use ollama_openai_proxy::handlers::ROUTES;

/// A plausible request for each path of the route table, and the upstream's responses to it.
pub(super) fn sample(path: &str) -> (&str, String, Vec<Steps>) {
    let model = r#"{"model":"m"}"#;
    let vector = r#"{"data":[{"index":0,"embedding":[0.6,0.8]}],"usage":{"prompt_tokens":1}}"#;
    let input = format!(r#"{{"model":"m","input":"{PROMPT}","prompt":"{PROMPT}"}}"#);
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\n\
         Content-Disposition: form-data; name=\"prompt\"\r\n\r\n{PROMPT}\r\n--b--\r\n"
    );
    let with = |members: &str| model.replacen('}', members, 1);
    let text = || vec![json(&format!(r#"{{"text":"{ANSWER}"}}"#))];
    let (body, scripts) = match path {
        "/api/chat" => (chat(PROMPT), vec![stream(&[ANSWER])]),
        "/api/generate" => (input, vec![stream(&[ANSWER])]),
        "/api/embed" | "/api/embeddings" | "/v1/embeddings" => (input, vec![vec![json(vector)]]),
        "/v1/chat/completions" => (chat(PROMPT), vec![stream(&[ANSWER])]),
        "/v1/completions" | "/v1/responses" | "/v1/responses/compact" => (input, vec![text()]),
        "/v1/audio/transcriptions" => (form, vec![text()]),
        "/v1/messages" => {
            (chat(PROMPT).replacen('{', "{\"max_tokens\":9,", 1), vec![vec![answer(ANSWER)]])
        }
        "/v1/messages/count_tokens" => (chat(PROMPT), Vec::new()),
        "/api/create" => {
            (format!(r#"{{"model":"made","from":"m","system":"{PROMPT}"}}"#), Vec::new())
        }
        "/api/copy" => (r#"{"source":"made","destination":"copied"}"#.to_owned(), Vec::new()),
        "/api/delete" => (r#"{"model":"copied"}"#.to_owned(), Vec::new()),
        "/api/show" | "/api/pull" | "/api/push" => {
            (with(&format!(r#","system":"{PROMPT}"}}"#)), Vec::new())
        }
        "/api/experimental/web_search" | "/api/experimental/web_fetch" => {
            (format!(r#"{{"query":"{PROMPT}","url":"{PROMPT}"}}"#), Vec::new())
        }
        "/api/blobs/:digest" => (PROMPT.to_owned(), Vec::new()),
        "/api/me" | "/api/signout" | "/api/user/keys/:encodedKey" => (String::new(), Vec::new()),
        _ => (String::new(), Vec::new()),
    };
    let target = match path {
        "/api/blobs/:digest" => "/api/blobs/sha256:00",
        "/api/user/keys/:encodedKey" => "/api/user/keys/c3No",
        "/v1/models/*model" => "/v1/models/m",
        path => path,
    };
    (target, body, scripts)
}

/// Every route with each of its methods; a route with a body has a sample that contains the prompt.
pub(super) fn every_route(stage: &mut Stage) {
    const WITHOUT_PROMPT: [&str; 5] =
        ["/api/copy", "/api/delete", "/api/me", "/api/signout", "/api/user/keys/:encodedKey"];
    for route in ROUTES {
        let path = route.pattern;
        for method in route.methods() {
            let (target, body, scripts) = sample(path);
            let takes_body = matches!(method, "POST" | "DELETE" | "PUT");
            let has_prompt = body.contains(PROMPT) || WITHOUT_PROMPT.contains(&path);
            assert!(!takes_body || has_prompt, "{method} {path} needs a sample here");
            let body = if takes_body { body } else { String::new() };
            let target = format!("{target}?q={PROMPT}&key={OWN_KEY}");
            let told = stage.ask(method, &target, &body, scripts);
            assert!(!told.contains("status: 405"), "{method} {path}: {told}");
            let wrong = format!("Authorization: Bearer {WRONG_KEY}\r\nX-Api-Key: {WRONG_KEY}\r\n");
            stage.ask_with(&wrong, method, &target, &body, Vec::new());
        }
    }
    // The other header forms of a key, and the key of the file.
    for line in [
        format!("x-api-key: {FILE_KEY}\r\n"),
        format!("Authorization: bearer {FILE_KEY}\r\n"),
        // me:own-key-5ec2e7b2
        "Authorization: Basic bWU6b3duLWtleS01ZWMyZTdiMg==\r\n".to_owned(),
    ] {
        let told = stage.ask_with(&line, "GET", "/api/version", "", Vec::new());
        assert!(told.contains("status: 200"), "{told}");
    }
}

/// Every failure of the upstream.
pub(super) fn every_failure_of_the_upstream(stage: &mut Stage) {
    let keys = KEYS.join(" ");
    let echo = |status_code: u16, headers: &[(&str, &str)]| {
        let text = format!(
            r#"{{"error":{{"message":"{UPSTREAM_KEY} or {OWN_KEY} or {FILE_KEY}","code":"{PROMPT}"}}}}"#
        );
        vec![status(status_code, headers, &text)]
    };
    let ids = [("x-request-id", OWN_KEY), ("cf-ray", UPSTREAM_KEY)];
    // A rejection of no known kind is tried in another form, once in ten minutes.
    let twice = vec![echo(400, &ids), echo(400, &ids)];
    stage.ask("POST", "/api/chat", &chat(PROMPT), twice);
    for code in [400, 401, 403, 404, 422] {
        stage.chat(echo(code, &ids));
        stage.ask("POST", "/v1/chat/completions", &chat(PROMPT), vec![echo(code, &ids)]);
        let messages = chat(PROMPT).replacen('{', "{\"max_tokens\":9,", 1);
        stage.ask("POST", "/v1/messages", &messages, vec![echo(code, &ids)]);
    }
    for code in [429, 500, 503] {
        let twice = vec![echo(code, &ids), echo(code, &[])];
        stage.ask("POST", "/api/chat", &chat(PROMPT), twice);
        let twice = vec![echo(code, &ids), echo(code, &[])];
        stage.ask("POST", "/v1/chat/completions", &chat(PROMPT), twice);
    }
    // A refused parameter, and the repaired request.
    let seed = chat_whole(PROMPT).replacen('{', r#"{"options":{"seed":1},"#, 1);
    let refusal = format!(r#"{{"error":"Unrecognized request argument supplied: seed {PROMPT}"}}"#);
    let scripts = vec![vec![status(400, &[], &refusal)], vec![answer(ANSWER)]];
    stage.ask("POST", "/api/chat", &seed, scripts);
    // Invalid responses, whole and in a stream; skipped events are no errors.
    let whole = chat_whole(PROMPT);
    let nonsense = [
        format!("{ANSWER} {keys}"),
        format!(r#"{{"{ANSWER}":"#),
        format!(r#""{ANSWER}""#),
        format!(r#"{{"choices":"{ANSWER}"}}"#),
        format!(r#"{{"choices":[{{"message":{{"content":{{"{ANSWER}":1}}}}}}]}}"#),
        format!(r#"["{ANSWER}"]"#),
    ];
    for text in &nonsense {
        stage.ask("POST", "/api/chat", &whole, vec![vec![json(text)]]);
        let mut steps = vec![stream_head(), frame(&format!("data: {text}\n\n")), delta(ANSWER)];
        steps.extend(ending());
        stage.chat(steps);
        let input = format!(r#"{{"model":"m","input":"{PROMPT}"}}"#);
        stage.ask("POST", "/api/embed", &input, vec![vec![json(text)]]);
    }
    // An invalid tool call.
    let call = format!(
        r#"{{"index":0,"id":"c","function":{{"name":"{ANSWER}","arguments":"[\"{ANSWER}\"]"}}}}"#
    );
    let call = format!(r#"data: {{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#);
    let mut steps = vec![stream_head(), frame(&format!("{call}\n\n"))];
    steps.extend(ending());
    let told = stage.chat(steps);
    assert!(told.contains("_raw"), "{told}");
    // Errors within a stream, and streams that break off at each stage.
    let told = format!(r#"{{"error":{{"message":"{UPSTREAM_KEY} {OWN_KEY} {PROMPT} {ANSWER}"}}}}"#);
    let events = [format!("data: {told}\n\n"), format!("event: error\ndata: {told}\n\n")];
    for event in &events {
        stage.chat(vec![stream_head(), delta(ANSWER), frame(event), last_frame()]);
        stage.chat(vec![stream_head(), frame(event), last_frame()]);
    }
    stage.ask("POST", "/api/chat", &whole, vec![vec![json(&told)]]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Close]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Send(format!("zz{ANSWER}\r\n").into())]);
    stage.chat(vec![stream_head(), delta(ANSWER), Step::Reset]);
    let junk = || vec![Step::Send(format!("{ANSWER} {keys}\r\n\r\n").into()), Step::Close];
    stage.chat(junk());
    let closed = |stage: &mut Stage, path: &str| {
        // A request on a kept connection is sent once more at once.
        stage.upstream.script(vec![Step::Close]).script(vec![Step::Close]);
        let told = stage.ask_any("POST", path, &chat(PROMPT));
        assert!(told.contains("status: 50"), "{told}");
    };
    closed(stage, "/api/chat");
    closed(stage, "/v1/chat/completions");
}

/// Every failure of the client.
pub(super) fn every_failure_of_the_client(stage: &mut Stage) {
    let prompt = chat(PROMPT);
    let wrong = [
        format!(r#"{{"model":"m","messages":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","{PROMPT}"#),
        format!(r#"{{"model":"m","messages":[],"options":{{"seed":"{PROMPT}"}}}}"#),
        format!(r#"{{"model":"m","messages":[],"format":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[],"think":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[],"keep_alive":"{PROMPT}"}}"#),
        format!(r#"{{"model":"m","messages":[{{"role":"user","images":["{PROMPT}!"]}}]}}"#),
        format!(r#"{{"model":"","input":"{PROMPT}"}}"#),
        format!(r#"{{"model":"made","from":"m","template":"{{{{ {PROMPT}"}}"#),
        PROMPT.to_owned(),
    ];
    for route in ROUTES.iter().filter(|route| route.methods().any(|method| method == "POST")) {
        for body in &wrong {
            let target = sample(route.pattern).0;
            for line in [own_key(), String::new()] {
                stage.send(&line, route.methods().last().expect("one"), target, body);
            }
        }
    }
    while !stage.upstream.is_idle() {
        stage.upstream.request();
    }
    // Unknown paths and methods, a query, a path that is a key, and a redirect.
    for (method, target) in [
        ("GET", format!("/nothing?{PROMPT}={OWN_KEY}")),
        ("PUT", "/api/chat".to_owned()),
        ("POST", format!("/{OWN_KEY}/{UPSTREAM_KEY}")),
        ("GET", format!("/v1/models/{FILE_KEY}")),
        ("POST", format!("http://me:{OWN_KEY}@localhost/api/version?{PROMPT}")),
    ] {
        let told = stage.ask(method, &target, &prompt, Vec::new());
        assert!(told.contains("status: 40"), "{told}");
        // A model name of the client is repeated in its response.
        stage.answers.retain(|told| !told.contains(FILE_KEY));
    }
    stage.ask("POST", "/api/tags/", &prompt, Vec::new());
    // A key as model name: the response contains it, the log does not.
    let named = prompt.replacen("\"m\"", &format!("{OWN_KEY:?}"), 1);
    for path in ["/api/chat", "/v1/chat/completions"] {
        stage.ask("POST", path, &named, vec![stream(&[ANSWER])]);
        stage.answers.pop();
    }
    // A client key in a successful response is passed through unmasked: the client has sent it.
    let (first, second) = OWN_KEY.split_at(7);
    let steps = vec![
        stream_head(),
        frame(&format!("data: {ANSWER} {first}")),
        frame(&format!("{second}\n\ndata: [DONE]\n\n")),
        last_frame(),
    ];
    stage.ask("POST", "/v1/chat/completions", &prompt, vec![steps]);
    stage.answers.pop();
    // A body that is too large, one that breaks off, invalid heads, a client that disconnects.
    let auth = own_key();
    let mut client = stage.client();
    client.send(format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: 9000000\r\n\r\n{PROMPT}"
    ));
    assert_eq!(client.answer().status(), 413);
    for head in [
        format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: 5000\r\n\r\n"),
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
        ),
        format!("{PROMPT} {OWN_KEY}\r\n{auth}\r\n"),
        format!("GET / HTTP/9.9\r\n{auth}\r\n"),
    ] {
        let mut client = stage.client();
        client.send(format!("{head}{PROMPT}"));
        let _ = client.stream().shutdown(Shutdown::Write);
        let told = client.rest();
        stage.answers.push(told);
    }
    let (go_on, told) = bounded::<()>(0);
    let mut steps = vec![stream_head(), delta(ANSWER), Step::Wait(told)];
    steps.extend((0..200).map(|_| delta(&ANSWER.repeat(100))));
    stage.upstream.script(steps);
    let mut client = stage.client();
    send(&mut client, &auth, "POST", "/api/chat", &prompt);
    client.head();
    client.frame();
    stage.upstream.request();
    drop(client);
    drop(go_on);
    // A large body that is streamed, and an invalid compressed body.
    let large = chat(&format!("{PROMPT} {}", "x".repeat(2 << 20)));
    stage.ask("POST", "/v1/chat/completions", &large, vec![stream(&[ANSWER])]);
    let packed = format!("{auth}Content-Encoding: zstd\r\n");
    stage.ask_with(&packed, "POST", "/v1/responses", &prompt, Vec::new());
}

/// Runs all of the above with these settings.
pub(super) fn everything(name: &str, more: &[(&str, &str)]) -> Said {
    let mut stage = Stage::start(name, more);
    every_route(&mut stage);
    every_failure_of_the_upstream(&mut stage);
    every_failure_of_the_client(&mut stage);
    stage.end()
}
