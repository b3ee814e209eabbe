//! Errors in responses of status 200: as the whole body, or as the first event of a stream. They count as
//! what an error status would have been: repaired, or shown with the right status.

use std::time::Duration;

use super::refusing::{CHATS, TRANSLATED, accepted, ask, on, said};
use crate::support::*;
use ollama_openai_proxy::config::Config;

const COMPLETIONS: &str = "/v1/chat/completions";

/// A chunk of which no client gets anything.
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

/// How an upstream tells an error in a success.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Whole,
    /// Without a declared length.
    Chunked,
    FirstEvent,
    NamedEvent,
    BehindRole,
}

const FORMS: [Form; 5] =
    [Form::Whole, Form::Chunked, Form::FirstEvent, Form::NamedEvent, Form::BehindRole];

fn told(form: Form, error: &str) -> Vec<Step> {
    let events = |before: &str| {
        vec![stream_head(), frame(&format!("{before}data: {error}\n\n")), last_frame()]
    };
    let json =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    match form {
        Form::Whole => vec![status(200, &[], error)],
        Form::Chunked => {
            let (start, end) = error.split_at(error.len() / 2);
            vec![Step::Send(json.into()), frame(start), frame(end), last_frame()]
        }
        Form::FirstEvent => events(""),
        Form::NamedEvent => events("event: error\n"),
        Form::BehindRole => events(ROLE),
    }
}

/// An upstream without `/responses` that tells `error` of requests with a temperature.
fn cold(form: Form, error: &Value) -> (Upstream, Proxy) {
    let (upstream, proxy) = asking_once();
    let error = error.to_string();
    upstream.judge(move |request| {
        if request.path.ends_with("/responses") {
            return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        }
        let body = request.json();
        let is_wrong = body.get("temperature").is_some();
        Some(if is_wrong { told(form, &error) } else { accepted(&body) })
    });
    (upstream, proxy)
}

/// A request with a temperature.
fn warm(route: &str, stream: bool) -> Value {
    let more = match route {
        "/api/chat" => json!({"stream": stream, "options": {"temperature": 0.5}}),
        _ => json!({"stream": stream, "temperature": 0.5}),
    };
    on(route, &json!([said("user", "Hi")]), &Value::Null, &more)
}

fn is_event(form: Form) -> bool {
    !matches!(form, Form::Whole | Form::Chunked)
}

/// Each route with each form in which it may get an error, and whether it asks for a stream.
fn ways() -> impl Iterator<Item = (&'static str, Form, bool)> {
    CHATS
        .into_iter()
        .flat_map(|route| {
            FORMS.into_iter().flat_map(move |form| [(route, form, false), (route, form, true)])
        })
        .filter(|(route, form, stream)| {
            // Each byte of a stream that is passed on is the client's.
            let is_passed = *route == COMPLETIONS;
            !(is_passed && (*form == Form::BehindRole || is_event(*form) && !stream))
        })
}

const UNSUPPORTED: &str = "Unsupported parameter: 'temperature' is not supported with this model.";

#[test]
fn a_refusal_in_a_success_is_repaired_and_remembered() {
    let errors = [
        json!({"error": {"message": UNSUPPORTED, "code": 400}}),
        json!({"error": {"message": UNSUPPORTED, "type": "invalid_request_error",
            "param": "temperature", "code": "unsupported_parameter"}}),
        // Nothing but the text.
        json!({"error": {"message": UNSUPPORTED}}),
        json!({"error": UNSUPPORTED}),
        json!({"object": "error", "message": UNSUPPORTED, "type": "BadRequestError"}),
    ];
    for (place, (route, form, stream)) in ways().enumerate() {
        let error = &errors[place % errors.len()];
        let pair = cold(form, error);
        let body = warm(route, stream);
        let (told, sent) = ask(&pair, route, &body);
        let about = format!("{route} {form:?} {stream} {error}: {}", told.body);
        assert_eq!((told.status(), sent.len()), (200, 2), "{about}");
        assert!(told.body.contains("ok") && !told.body.contains("nsupported"), "{about}");
        let (told, again) = ask(&pair, route, &body);
        assert_eq!((told.status(), again.as_slice()), (200, &sent[1..]), "{about}");
    }
}

#[test]
fn a_refusal_in_new_words_is_answered_by_the_plainest_form() {
    let error = json!({"error": {"message": "No warmth, please.", "code": 400}});
    for (route, form, stream) in ways() {
        let pair = cold(form, &error);
        let (told, sent) = ask(&pair, route, &warm(route, stream));
        assert_eq!((told.status(), sent.len()), (200, 2), "{route} {form:?} {}", told.body);
    }
}

#[test]
fn other_errors_have_a_status_and_are_not_sent_again() {
    let errors = [
        (json!({"error": {"message": "Slow down.", "code": 429}}), 429),
        (json!({"error": {"message": "Bad key.", "type": "authentication_error"}}), 401),
        (json!({"error": {"message": "The engine has failed.", "code": 500}}), 500),
        (json!({"error": {"message": "Something went wrong."}}), 500),
        (json!({"error": {"message": "Try again later.", "type": "overloaded_error"}}), 503),
    ];
    for (place, (route, form, stream)) in ways().enumerate() {
        let (error, code) = &errors[place % errors.len()];
        let pair = cold(form, error);
        let (told, sent) = ask(&pair, route, &warm(route, stream));
        let about = format!("{route} {form:?} {stream} {error}: {}", told.body);
        assert_eq!(sent.len(), 1, "{about}");
        assert!(told.body.contains(error["error"]["message"].as_str().expect("text")), "{about}");
        // Anthropic's protocol has a status of its own, and some clients of responses want events.
        let is_own = route == "/v1/messages" && *code == 503
            || route == "/v1/responses" && stream && told.status() == 200;
        if !is_own {
            assert_eq!(told.status(), *code, "{about}");
        }
    }
}

#[test]
fn what_is_passed_on_keeps_the_words_of_the_upstream() {
    let error = json!({"id": "gen-1", "error": {"message": "Slow down.", "code": 429, "n": 7}});
    for form in [Form::Whole, Form::Chunked, Form::FirstEvent] {
        let pair = cold(form, &error);
        let (told, _) = ask(&pair, COMPLETIONS, &warm(COMPLETIONS, form == Form::FirstEvent));
        assert_eq!((told.status(), told.json()), (429, error.clone()), "{form:?}");
        assert_eq!(told.head.header("content-type"), Some("application/json"), "{form:?}");
    }
}

#[test]
fn nothing_is_repaired_behind_the_first_token() {
    let error = json!({"error": {"message": UNSUPPORTED, "code": 400}});
    for route in CHATS {
        let (upstream, proxy) = asking_once();
        let events = format!("{}data: {error}\n\n", text_event("So"));
        upstream.judge(move |request| {
            let is_responses = request.path.ends_with("/responses");
            let missing = || vec![status(404, &[], r#"{"detail":"Not Found"}"#)];
            let steps = vec![stream_head(), frame(&events), last_frame()];
            Some(if is_responses { missing() } else { steps })
        });
        let (told, sent) = ask(&(upstream, proxy), route, &warm(route, true));
        assert_eq!((told.status(), sent.len()), (200, 1), "{route}: {}", told.body);
        assert!(told.body.contains("So") && told.body.contains(UNSUPPORTED), "{}", told.body);
    }
}

/// Begins streams at once.
fn impatient(config: &mut Config) {
    config.keepalive.start_after = Duration::from_millis(1);
    config.retry.max_retries = 0;
}

#[test]
fn a_comment_before_the_first_event_is_not_held_back() {
    let (upstream, proxy) = pair_with(impatient);
    let (go_on, told) = bounded(0);
    let comment = ": PROCESSING\n\n";
    upstream.script(ended(vec![stream_head(), frame(comment), Step::Wait(told), delta("word")]));
    let mut client = proxy.client();
    client.post(COMPLETIONS, warm(COMPLETIONS, true).to_string());
    assert_eq!(client.head().status, 200);
    assert_eq!(client.frame().as_deref(), Some(comment));
    drop(go_on);
    assert!(client.rest_of_stream().starts_with(&text_event("word")));
}

#[test]
fn a_refusal_behind_silence_is_repaired_as_long_as_the_client_has_nothing() {
    let error = json!({"error": {"message": UNSUPPORTED, "code": 400}});
    for route in ["/api/chat", COMPLETIONS] {
        let (upstream, proxy) = pair_with(impatient);
        let (go_on, told) = bounded(0);
        let late = format!("data: {error}\n\n");
        upstream.script(vec![stream_head(), Step::Wait(told), frame(&late), last_frame()]);
        upstream.script(stream(&["ok"]));
        let mut client = proxy.client();
        client.post(route, warm(route, true).to_string());
        upstream.request();
        // Another stream begins early meanwhile.
        upstream.script(stream(&["else"]));
        assert_eq!(proxy.post("/v1/messages", &warm("/v1/messages", true)).status(), 200);
        drop(go_on);
        let answer = client.answer();
        assert_eq!(answer.status(), 200, "{route} {}", answer.body);
        assert!(answer.body.contains("ok") || answer.body.contains("else"), "{}", answer.body);
        assert!(!answer.body.contains("nsupported"), "{}", answer.body);
    }
}

#[test]
fn a_stream_that_breaks_before_its_first_event_is_asked_for_once() {
    for route in CHATS {
        let (upstream, proxy) = pair_with(|_| {});
        upstream.judge(|request| {
            let is_responses = request.path.ends_with("/responses");
            let missing = || vec![status(404, &[], r#"{"detail":"Not Found"}"#)];
            Some(if is_responses { missing() } else { vec![stream_head(), Step::Close] })
        });
        let pair = (upstream, proxy);
        let mut client = pair.1.client();
        client.post(route, warm(route, true).to_string());
        client.head();
        let is_chat = |sent: &Recorded| !sent.path.ends_with("/responses");
        let first = pair.0.request();
        let first = if is_chat(&first) { first } else { pair.0.request() };
        assert!(is_chat(&first) && pair.0.is_idle(), "{route}");
    }
}

#[test]
fn a_repair_is_known_though_the_request_then_meets_another_error() {
    for route in CHATS {
        for code in [429, 401, 503] {
            let (upstream, proxy) = asking_once();
            upstream.judge(move |request| {
                if request.path.ends_with("/responses") {
                    return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
                }
                let has = request.json().get("temperature").is_some();
                let busy = status(code, &[], r#"{"error":{"message":"Not now."}}"#);
                Some(vec![if has { unsupported("temperature", "") } else { busy }])
            });
            let pair = (upstream, proxy);
            let (_, sent) = ask(&pair, route, &warm(route, false));
            assert_eq!(sent.len(), 2, "{route} {code}");
            let (_, again) = ask(&pair, route, &warm(route, false));
            assert_eq!(again, sent[1..], "{route} {code}: no second refusal");
        }
    }
}

#[test]
fn the_plainest_form_is_known_though_it_then_meets_another_error() {
    for route in TRANSLATED {
        let (upstream, proxy) = asking_once();
        upstream.judge(move |request| {
            if request.path.ends_with("/responses") {
                return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
            }
            let has = request.json().get("temperature").is_some();
            let refusal = status(400, &[], r#"{"error":{"message":"No warmth, please."}}"#);
            let busy = status(429, &[], r#"{"error":{"message":"Not now."}}"#);
            Some(vec![if has { refusal } else { busy }])
        });
        let pair = (upstream, proxy);
        let (told, sent) = ask(&pair, route, &warm(route, false));
        assert_eq!((told.status(), sent.len()), (429, 2), "{route}: it may pass later");
        let (told, again) = ask(&pair, route, &warm(route, false));
        assert_eq!((told.status(), again.len()), (429, 1), "{route}: {again:?}");
    }
}
