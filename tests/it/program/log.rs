//! The program's log, and the time zone of its timestamps.

use crate::support::program::{Running, program};
use crate::support::*;

#[test]
fn long_names_and_paths_do_not_flood_the_log() {
    let upstream = Upstream::start();
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    let long = "x".repeat(50_000);
    let body = chat("Hi").replacen("\"m\"", &format!("\"{long}\""), 1);
    let answer = client.post("/api/chat", body).answer();
    answer.assert_error(400, "invalid model name");
    assert_eq!(client.get(&format!("/{}", &long[..15_000])).answer().status(), 404);
    program.signal("TERM");
    let (_, log) = program.end();
    assert!(log.len() < 2_000, "{} bytes", log.len());
}

#[test]
fn a_repair_is_one_line_in_the_log_and_so_is_a_refusal_that_stays() {
    let upstream = Upstream::start();
    let refusal = |text: &str| vec![status(400, &[], &format!("{{\"error\":\"{text}\"}}"))];
    let seed = "Unrecognized request argument supplied: seed";
    upstream.script(refusal(seed)).script(vec![upstream::answer("Hi")]);
    upstream.script(refusal("no, because of our content policy"));
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OPENAI_API_KEY", KEY);
    // Below any limit of descriptors, so that no warning is logged.
    let mut program = Running::start(command.env("MAX_CONNECTIONS", "100"));
    for expected in [200, 400] {
        let body = crate::support::raw::chat_whole("a secret").replacen(
            '{',
            r#"{"options":{"seed":1},"#,
            1,
        );
        let told = Client::connect(program.addr).post("/api/chat", body).answer();
        assert_eq!(told.status(), expected);
    }
    program.signal("TERM");
    let (_, log) = program.end();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("[WARN]")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(
        warnings[0].ends_with(
            "upstream rejected a request for \"m\" (\"Unrecognized request argument supplied: \
             seed\"), sending again: seed removed"
        ),
        "{log}"
    );
    assert!(
        warnings[1].ends_with("the upstream returned status 400, attempt 1, giving up"),
        "{log}"
    );
    assert!(!log.contains("a secret"), "{log}");
}

#[test]
fn a_failed_request_is_an_error_in_its_line_and_a_cut_response_a_warning() {
    let upstream = Upstream::start();
    let failed = status(404, &[], r#"{"error":{"message":"no"}}"#);
    let cut = || vec![stream_head(), delta("a"), Step::Close];
    upstream.script(vec![failed]).script(cut()).script(cut()).script(cut());
    let mut running = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let ask = |path: &str, body: String| Client::connect(running.addr).post(path, body).answer();
    let chat = chat("Hi");
    ask("/api/pull", json!({"model": "nope"}).to_string());
    ask("/v1/chat/completions", chat.clone());
    ask("/v1/chat/completions", chat.clone());
    ask("/api/chat", chat);
    ask("/api/chat", chat_whole("Hi"));
    running.signal("TERM");
    let (_, log) = running.end();
    let line = |path: &str| {
        let lines = log.lines().filter(move |line| line.contains(path));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(line("POST \"/api/pull\"")[0].ends_with(" error=model_not_found"), "{log}");
    let mut passed = line("POST \"/v1/chat/completions\"");
    // A line is written behind the response, so the next one may come before it.
    passed.sort_by_key(|line| !line.contains("status=404"));
    assert!(passed[0].contains("status=404") && passed[0].ends_with(" error=upstream_status: 404"));
    let cut = [&passed[1..], &line("POST \"/api/chat\"")].concat();
    assert_eq!(cut.len(), 3, "{log}");
    for line in cut {
        assert!(line.contains("[WARN]") && line.ends_with(" error=upstream_closed"), "{log}");
    }
}

#[test]
fn a_refused_request_is_one_line_with_the_reason_and_the_address_and_counts_by_it() {
    const OWN: &str = "own-key-0f-the-proxy";
    let upstream = Upstream::start();
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("PROXY_API_KEYS", OWN);
    let running = Running::start(&mut command);
    let ask = |lines: &str| {
        let mut client = Client::connect(running.addr);
        client.send(format!("GET /api/tags?q=1 HTTP/1.1\r\n{lines}\r\n"));
        client.answer()
    };
    let local = "Host: localhost\r\n";
    let own = format!("{local}x-api-key: {OWN}\r\n");
    let samples = || ask_metrics(running.addr, &own);
    let refused = |reason: &str| format!("access_refused_total{{reason=\"{reason}\"}}");
    for reason in ["origin", "host", "no_key", "wrong_key", "too_many_wrong_keys"] {
        assert!(samples().contains(&(refused(reason) + " 0\n")), "{reason} from the start");
    }
    assert_eq!(ask(local).status(), 401);
    for _ in 0..12 {
        ask(&format!("{local}Authorization: Bearer s3cret-and-wrong\r\n"));
    }
    assert_eq!(ask(&format!("{own}Origin: http://evil.test\r\n")).status(), 403);
    assert_eq!(ask(&format!("Host: evil.test\r\nx-api-key: {OWN}\r\n")).status(), 403);
    assert_eq!(ask(&own).status(), 200);
    let counted = samples();
    for (reason, count) in
        [("origin", 1), ("host", 1), ("no_key", 1), ("wrong_key", 10), ("too_many_wrong_keys", 2)]
    {
        assert!(counted.contains(&format!("{} {count}\n", refused(reason))), "{counted}");
    }
    let log = running.stop();
    assert!(!log.contains("s3cret") && !log.contains(OWN), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("\"/api/tags\"")).collect();
    assert_eq!(lines.len(), 16, "{log}");
    assert!(lines.iter().all(|line| line.contains(" client=127.0.0.1 ")), "{log}");
    for (count, end) in [
        (1, " access=no_key error=unauthorized"),
        (10, " access=wrong_key error=unauthorized"),
        (2, " access=too_many_wrong_keys error=too_many_wrong_keys"),
        (1, " access=origin origin=\"http://evil.test\" error=forbidden"),
        (1, " access=host host=\"evil.test\" error=forbidden"),
    ] {
        assert_eq!(lines.iter().filter(|line| line.ends_with(end)).count(), count, "{log}");
    }
    let served: Vec<_> = lines.iter().filter(|line| !line.contains("access=")).collect();
    assert!(served.len() == 1 && served[0].contains(" status=200 "), "{log}");
    assert!(!log.contains("refused:"), "{log}");
}

/// The text of `/metrics`.
fn ask_metrics(addr: std::net::SocketAddr, lines: &str) -> String {
    let mut client = Client::connect(addr);
    client.send(format!("GET /metrics HTTP/1.1\r\n{lines}\r\n"));
    client.answer().body
}

#[test]
fn a_retry_says_why_which_of_how_many_and_when() {
    let upstream = Upstream::start();
    upstream.script(vec![status(503, &[], "{}")]).script(vec![Step::Close]);
    upstream.script(vec![Step::Close]).script(vec![upstream::answer("Hi")]);
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("RETRY_INITIAL_MS", "1");
    let mut running = Running::start(&mut command);
    assert_eq!(
        Client::connect(running.addr).post("/api/chat", chat_whole("Hi")).answer().status(),
        200
    );
    running.signal("TERM");
    let (_, log) = running.end();
    for line in [
        "chat failed: the upstream returned status 503, attempt 1 of 4, retrying in ",
        "chat failed: the upstream closed the connection without a response, attempt 2 of 4, ",
    ] {
        assert!(log.contains(line), "{log}");
    }
}

#[test]
fn times_of_models_are_told_in_the_local_zone_and_those_of_answers_in_utc() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::answer("Hi")]);
    // A time zone that needs no file, with a half hour and without daylight saving time.
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("TZ", "XYZ-5:30");
    let running = Running::start(&mut command);
    let client = || Client::connect(running.addr);
    let told = client().post("/api/chat", crate::support::raw::chat_whole("Hi")).answer().json();
    assert!(told["created_at"].as_str().is_some_and(|it| it.ends_with('Z')), "{told}");
    for (path, member) in [("/api/tags", "modified_at"), ("/api/ps", "expires_at")] {
        let told = client().get(path).answer().json();
        let time = told["models"][0][member].as_str().expect(member).to_owned();
        assert!(time.ends_with("+05:30"), "{path}: {time}");
    }
    let tags = client().get("/api/tags").answer().json();
    let known =
        tags["models"].as_array().expect("a list").iter().find(|it| it["name"] == "m:latest");
    assert_eq!(known.expect("listed")["modified_at"], "2023-11-15T03:43:20+05:30");
}

#[test]
fn the_log_holds_no_key_no_prompt_and_no_answer_at_any_level() {
    let upstream = Upstream::start();
    let echo = format!("{{\"error\":{{\"message\":\"{KEY} PROMPT\"}}}}");
    upstream
        .script(upstream::stream(&["ANSWER"]))
        .script(vec![upstream::answer("ANSWER")])
        .script(vec![status(400, &[], &echo)])
        .script(vec![json(&echo)])
        .script(vec![stream_head(), delta("ANSWER"), Step::Close])
        .script(vec![json("ANSWER")]);
    let mut command = program();
    command.env("OPENAI_API_KEY", KEY).env("LOG_LEVEL", "trace").env("RUST_BACKTRACE", "1");
    let mut program = Running::start(command.env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    // The rejected request is sent in another form, too.
    for _ in 0..5 {
        client.post("/api/chat", chat("PROMPT")).answer();
    }
    client.post("/api/chat", "{\"model\":\"m\",\"messages\":\"PROMPT").answer();
    client.post("/api/show", "{\"model\":\"m\"}").answer();
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("POST \"/api/chat\" model=\"m\" status=200 attempts=1"), "{log}");
    assert!(log.contains("chat started") && log.contains("tokens=5+2"), "{log}");
    // Both ids stand in the line, so that the operator of the upstream can be told one of them.
    let sent = upstream.request().header("x-request-id").expect("an id").to_owned();
    assert!(log.contains(&format!("tokens=5+2 upstream_request_id={sent}")), "{log}");
    for secret in [KEY, "PROMPT", "ANSWER"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
