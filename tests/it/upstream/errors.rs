//! Upstream errors and invalid responses, as the client sees them.

use crate::support::*;

fn ask(path: &str, body: &str, step: Step) -> Answer {
    let (upstream, proxy) = asking_once();
    upstream.script(vec![step]);
    let answer = proxy.ask(path, body);
    // Whatever it said, the next request on this proxy is served.
    upstream.script(vec![crate::support::upstream::answer("ok")]);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    answer
}

fn check(step: Step, code: u16, message: &str) {
    let answer = ask("/api/chat", &chat("Hi"), step);
    answer.assert_error(code, message);
    assert_eq!(answer.head.header("content-type"), Some("application/json; charset=utf-8"));
}

#[test]
fn a_wrong_base_url_is_told_as_such() {
    let hint = "upstream returned 404 for POST /v1/chat/completions; check the base URL";
    let llama = r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#;
    for step in [
        typed(404, "text/html", &[], "<h1>Not Found</h1>"),
        typed(404, "text/plain", &[], "nothing here"),
        status(404, &[], llama),
        status(404, &[], ""),
    ] {
        check(step, 502, hint);
    }
    let redirect = status(307, &[("Location", "http://elsewhere/")], "");
    check(redirect, 502, "the upstream answered with a redirect; correct the base URL");
}

#[test]
fn an_endpoint_that_is_missing_is_told_once_the_upstream_has_answered() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("ok")]).script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 200);
    let told = "this upstream has no embeddings endpoint (404 for POST /v1/embeddings)";
    proxy.post("/api/embed", &json!({"model": "m", "input": "x"})).assert_error(502, told);
}

#[test]
fn nonsense_is_a_bad_gateway() {
    let page = "an HTML page instead of JSON (is the base URL right?)";
    let not_http = "not an HTTP response (does this port expect https://?)";
    for (step, what) in [
        (json(""), "the body is empty"),
        (json("{\"choices\":"), "the body is not a JSON object"),
        (json("[]"), "the body is not a JSON object"),
        (json("{\"ok\":true}"), "an answer without choices"),
        (typed(200, "text/html", &[], "<html>"), page),
        (Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), not_http),
        (typed(200, "text/event-stream", &[], ": nothing\n\n"), "an empty stream"),
        (typed(200, "text/event-stream", &[], "data: nonsense\n\n"), "an empty stream"),
    ] {
        check(step, 502, &format!("invalid response from the upstream: {what}"));
    }
}

#[test]
fn an_error_inside_a_success_is_an_error() {
    for text in [
        "Unexpected endpoint or method. (POST /x)",
        "Unexpected endpoint or method. (POST /v1/chat/completions)",
        "No models loaded",
    ] {
        check(json(&json!({"error": text}).to_string()), 502, text);
    }
    check(json(r#"{"error":{"code":429,"message":"slow down"}}"#), 429, "slow down");
    let loading = json(r#"{"error":{"code":503,"message":"loading"}}"#);
    ask("/api/embed", r#"{"model":"m","input":"x"}"#, loading).assert_error(503, "loading");
}

#[test]
fn an_answer_that_breaks_off_is_no_answer() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"choices\":[{\"mess";
    let (upstream, proxy) = pair();
    upstream.script(vec![Step::Send(cut.into()), Step::Close]);
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(502, CUT_SHORT);
}

#[test]
fn the_key_goes_upstream_and_never_comes_back() {
    let (upstream, proxy) = pair();
    let echo = format!(
        r#"{{"error":{{"message":"Incorrect API key provided: {KEY}. Also sk-abcdef123456 is wrong."}}}}"#
    );
    upstream.script(vec![status(401, &[], &echo)]);
    upstream.script(vec![json(&echo)]);
    for expected in [401, 500] {
        let answer = proxy.ask("/api/chat", chat("Hi"));
        assert_eq!(answer.status(), expected);
        assert_eq!(answer.error(), "Incorrect API key provided: ***. Also sk-*** is wrong.");
        let bearer = format!("Bearer {KEY}");
        assert_eq!(upstream.request().header("authorization"), Some(bearer.as_str()));
    }
}

#[test]
fn a_list_that_fails_is_told_and_shown_by_the_health_route() {
    let (upstream, proxy) = pair();
    upstream.script_lists();
    let wrong = format!(r#"{{"error":{{"message":"bad key {KEY}"}}}}"#);
    upstream.script(vec![status(401, &[], &wrong)]).script(vec![status(401, &[], &wrong)]);
    proxy.fetch("/api/tags").assert_error(401, "bad key ***");
    let health = proxy.fetch("/openai/health");
    assert_eq!(health.status(), 503);
    let health = health.json();
    assert_eq!((&health["status"], &health["error"]), (&"unhealthy".into(), &"bad key ***".into()));
    assert_eq!(health["models_available"], 0);
    assert_eq!(health["error_rate"], 1.0);
}

#[test]
fn errors_are_one_text_in_json() {
    let (upstream, proxy) = pair();
    let detail = r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#;
    let nested = r#"{"error":{"message":"{\"error\":{\"message\":\"inner\"}}"}}"#;
    for (status, body) in [(400, detail), (400, nested), (422, "{}"), (404, "Not Found")] {
        upstream.script(vec![upstream::status(status, &[], body)]);
        let answer = proxy.ask("/api/chat", chat("x"));
        assert!((400..600).contains(&answer.status()), "{body}");
        let kind = answer.head.header("content-type").expect("a type");
        assert!(kind.starts_with("application/json"), "{kind}");
        let text = answer.error();
        assert!(!text.is_empty() && !text.starts_with('{'), "{body}: {text}");
        upstream.request();
    }
    let broken = vec![stream_head(), upstream::delta("Half"), Step::Close];
    upstream.script(broken);
    let lines = proxy.ask("/api/chat", chat("x")).lines();
    let last = lines.last().expect("a line");
    assert!(last["error"].is_string() && last.get("done").is_none(), "{last}");
}

#[test]
fn every_shape_of_an_error_becomes_ollamas() {
    for (code, body, message) in [
        (400, r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"t"}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}"#, "m"),
        (400, r#"{"error":{"code":400,"message":"m","type":"t","n_ctx":512}}"#, "m"),
        (400, r#"{"error":{"message":"m","type":"None","param":"None","code":"400"}}"#, "m"),
        (400, r#"{"object":"error","message":"m","type":"t","param":null,"code":400}"#, "m"),
        (
            429,
            r#"{"error":{"code":429,"message":"outer","metadata":{"raw":"{\"error\":{\"message\":\"m\"}}","provider_name":"P"}},"user_id":"u"}"#,
            "m",
        ),
        (
            400,
            r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[]}}]"#,
            "m",
        ),
        (400, r#"{"code":"Client specified an invalid argument","error":"m"}"#, "m"),
        (401, r#"{"error":"m"}"#, "m"),
        (422, r#"{"error":"m","error_type":"validation"}"#, "m"),
        (400, r#"{"detail":"m"}"#, "m"),
        (422, r#"{"detail":[{"loc":["body","x"],"msg":"m","type":"t"}]}"#, "x: m"),
        (400, r#"{"message":"m"}"#, "m"),
        (400, r#"{"error_description":"m"}"#, "m"),
        (400, r#"{"msg":"m"}"#, "m"),
        (
            422,
            r#"{"detail":[{"loc":["body","x"],"msg":"is missing","type":"t"}]}"#,
            "x: is missing",
        ),
    ] {
        check(status(code, &[], body), code, message);
    }
    check(typed(422, "text/plain", &[], "Failed to deserialize"), 422, "Failed to deserialize");
    let page = "<html><style>a{}</style><body><h1>502</h1>Bad Gateway</body></html>";
    check(typed(502, "text/html", &[], page), 502, "502 Bad Gateway");
    check(status(401, &[], ""), 401, "upstream returned HTTP 401");
    check(typed(503, "text/plain", &[], "overloaded"), 503, "overloaded");
    check(typed(500, "text/html", &[], "<html><body>Sorry</body></html>"), 500, "Sorry");
    check(status(500, &[], ""), 500, "upstream returned HTTP 500");
}

#[test]
fn a_key_that_comes_back_within_a_stream_is_masked() {
    let error =
        format!("data: {{\"error\":{{\"message\":\"bad key {KEY}, sk-abcdef123456\"}}}}\n\n");
    let masked = json!({"error": "bad key ***, sk-***"});
    let bench = Bench::new();
    bench.upstream.script(vec![stream_head(), frame(&error), last_frame()]);
    let first = bench.ask(CHAT, &json!({}));
    assert_eq!(first.json(), masked);
    let later = vec![stream_head(), delta("a"), frame(&error), last_frame()];
    assert_eq!(bench.played(CHAT, &json!({}), later).lines()[1], masked);
    let wrapped =
        format!(r#"{{"error":{{"message":"o","metadata":{{"raw":"{{\"error\":\"{KEY}\"}}"}}}}}}"#);
    check(status(400, &[], &wrapped), 400, "***");
}

#[test]
fn an_unknown_model_is_recognized_by_its_code_and_by_its_text() {
    let unknown =
        r#"{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}"#;
    let invalid = r#"{"error":{"message":"m is not a valid model ID","code":400}}"#;
    for step in [status(404, &[], unknown), json(unknown), status(400, &[], invalid)] {
        check(step, 404, "model 'm' not found");
    }
}

#[test]
fn errors_of_the_request_are_the_clients_also_where_llama_cpp_blames_itself() {
    let llama = |kind: &str, message: &str| {
        let error = json!({"error": {"code": 500, "message": message, "type": kind}});
        status(500, &[], &error.to_string())
    };
    let image = "image input is not supported - hint: you may need to provide the mmproj";
    check(llama("server_error", image), 400, image);
    let long = "the request exceeds the available context size";
    check(llama("exceed_context_size_error", long), 400, long);
    check(llama("server_error", "slot failed"), 500, "slot failed");
}
