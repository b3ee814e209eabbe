//! What the log, the responses and the state file hold after every route and every failure.

use super::attempts::{every_route, everything};
use super::stage::*;
use crate::support::program::Running;
use crate::support::reserved::Reserved;
use crate::support::*;
use crossbeam_channel::Receiver;

/// The parts of the log that only `LOG_BODIES` asks for.
const BODIES: [&str; 6] = [
    "client request, ",
    "start of the client request, ",
    "upstream request, ",
    "upstream response, ",
    "upstream event, ",
    "upstream error response, ",
];

#[test]
fn keys_prompts_and_answers_are_nowhere_in_the_log() {
    let said = everything("quiet", &[]);
    absent(&KEYS, "the log", &said.log);
    absent(&[PROMPT, ANSWER], "the log", &said.log);
    absent(&BODIES, "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    absent(&KEYS, "the state file", &said.state);
    // The search would find the marks.
    assert!(said.answers.contains(ANSWER) && said.state.contains(PROMPT));
    assert!(said.log.contains("[DEBUG]") && said.log.contains("model=\"***\""), "{}", said.log);
    for kind in [
        "unauthorized", "invalid_request", "unknown_route", "method_not_allowed", "body_too_large",
        "upstream_status: 401", "upstream_protocol", "upstream_closed", "upstream_in_band",
        "disconnected", "model_not_found",
    ] {
        assert!(said.log.contains(&format!("error={kind}")), "{kind} did not happen");
    }
    for what in [
        "upstream request ids",
        "seed removed",
        "skipping an upstream event",
        "access=wrong_key",
        "client_left=true",
    ] {
        assert!(said.log.contains(what), "{what} did not happen");
    }
}

#[test]
fn bodies_are_logged_where_that_is_asked_for_and_keys_are_not() {
    let said = everything("loud", &[("LOG_BODIES", "1")]);
    absent(&KEYS[..3], "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    assert!(said.log.contains("[WARN] LOG_BODIES is on: prompts and responses are logged"));
    for part in BODIES {
        let mut lines = said.log.lines().filter(|line| line.contains(part));
        assert!(lines.any(|line| line.contains(PROMPT) || line.contains(ANSWER)), "{part}");
        assert!(said.log.lines().all(|line| !line.contains(part) || line.contains("[TRACE]")));
    }
    let longest = said.log.lines().map(str::len).max();
    assert!(longest.is_some_and(|length| length < 40_000), "{longest:?}");
}

#[test]
fn bodies_are_logged_at_no_other_level_than_trace() {
    let more = [("LOG_BODIES", "1"), ("LOG_LEVEL", "debug")];
    let mut stage = Stage::start("debug", &more);
    every_route(&mut stage);
    let said = stage.end();
    absent(&KEYS, "the log", &said.log);
    absent(&[PROMPT, ANSWER], "the log", &said.log);
    assert!(said.log.contains("LOG_BODIES has no effect unless LOG_LEVEL is trace"));
}

/// A script that is silent after `steps` until the sender is dropped.
fn silent(mut steps: Steps, told: &Receiver<()>) -> Steps {
    steps.push(Step::Wait(told.clone()));
    steps
}

#[test]
fn an_upstream_that_is_silent_or_down_gives_nothing_away() {
    for bodies in ["0", "1"] {
        let more = [("REQUEST_TIMEOUT", "0.5"), ("RETRY_MAX", "0"), ("LOG_BODIES", bodies)];
        let mut stage = Stage::start(&format!("silent-{bodies}"), &more);
        let (go_on, told) = bounded::<()>(0);
        for path in ["/api/chat", "/v1/chat/completions"] {
            for steps in [vec![], vec![stream_head(), delta(ANSWER)]] {
                stage.ask("POST", path, &chat(PROMPT), vec![silent(steps, &told)]);
            }
        }
        drop(go_on);
        let said = stage.end();
        check_failed(&said, "timeout: no response head", bodies == "1");
        assert!(said.log.contains("timeout: body"), "{}", said.log);

        let gone = Reserved::new();
        let (mut command, state) = command(&format!("down-{bodies}"), &gone.base_url());
        let running = Running::start(command.envs(more));
        let (upstream, answers) = (Upstream::start(), Vec::new());
        let mut stage = Stage { upstream, running, state, answers };
        for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/embed"] {
            let body = chat(PROMPT).replacen('{', r#"{"max_tokens":9,"input":"Hi","#, 1);
            stage.ask("POST", path, &body, Vec::new());
        }
        for path in ["/api/tags", "/openai/health", "/health", "/api/ps"] {
            stage.ask("GET", path, "", Vec::new());
        }
        check_failed(&stage.end(), "connect: ", bodies == "1");
    }
}

#[track_caller]
fn check_failed(said: &Said, kind: &str, bodies: bool) {
    assert!(said.log.contains(&format!("error={kind}")), "{}", said.log);
    absent(&KEYS, "the log", &said.log);
    absent(&KEYS, "an answer", &said.answers);
    assert_eq!(said.log.contains(PROMPT), bodies, "{}", said.log);
    absent(if bodies { &[] } else { &[PROMPT, ANSWER] }, "the log", &said.log);
}
