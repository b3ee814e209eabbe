//! An upstream response cut at every byte: the client gets an error, never a partial response that
//! looks complete.

use crate::support::*;
use ollama_openai_proxy::config::Config;

/// What the answer says.
const TEXT: [&str; 2] = ["Hel", "lo"];

fn bytes(steps: Vec<Step>) -> Vec<u8> {
    let sent = steps.into_iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(bytes),
        _ => None,
    });
    sent.collect::<Vec<_>>().concat()
}

/// The end of this text in these bytes.
fn end_of(bytes: &[u8], text: &str) -> usize {
    let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    found.expect("it is there") + text.len()
}

/// Plays the answer cut at each of its bytes, and looks at what the client gets with each.
fn cut(bytes: &[u8], path: &str, body: &str, look: impl Fn(usize, &Answer)) {
    let (upstream, proxy) = pair_with(|config: &mut Config| {
        config.workers = 2;
        config.retry.max_retries = 0;
        config.breaker.failure_threshold = u32::MAX;
    });
    let mut client = proxy.client();
    for at in 0..=bytes.len() {
        upstream.script(vec![Step::Send(bytes[..at].to_vec()), Step::Close]);
        look(at, &client.post(path, body).answer());
        upstream.request();
    }
    assert!(upstream.is_idle());
}

/// Cuts a stream. `terminal` ends the upstream's stream; `done` marks the client's as complete.
fn cut_stream(path: &str, body: &str, terminal: &str, done: &str) {
    let bytes = bytes(stream(&TEXT));
    let complete = end_of(&bytes, terminal);
    cut(&bytes, path, body, |at, answer| {
        let text = &answer.body;
        let (whole, failed) = (text.contains(done), text.contains("\"error\""));
        if at < complete - "\n\n".len() {
            assert!(failed && !whole, "{path} at {at}: {text}");
        } else if at < complete {
            // What is passed on as it comes has been passed on.
            assert!(failed, "{path} at {at}: {text}");
        } else {
            assert!(whole && !failed && answer.status() == 200, "{path} at {at}: {text}");
        }
        if whole {
            assert!(TEXT.iter().all(|part| text.contains(&format!("\"{part}\""))), "{at}: {text}");
        }
    });
}

/// Cuts a whole answer.
fn cut_whole(path: &str, body: &str, done: &str) {
    let bytes = bytes(vec![answer(&TEXT.concat())]);
    cut(&bytes, path, body, |at, answer| {
        let text = &answer.body;
        if at < bytes.len() {
            assert_eq!(answer.status(), 502, "{path} at {at}: {text}");
            assert!(text.contains("\"error\"") && !text.contains(done), "{path} at {at}: {text}");
        } else {
            assert_eq!(answer.status(), 200, "{path} at {at}: {text}");
            assert!(text.contains(done) && text.contains("\"Hello\""), "{path} at {at}: {text}");
        }
    });
}

const REASON: &str = "\"finish_reason\":\"stop\"}]}\n\n";
const MARK: &str = "data: [DONE]\n\n";

fn message(stream: bool) -> String {
    chat("Hi").replacen('{', &format!("{{\"max_tokens\":9,\"stream\":{stream},"), 1)
}

#[test]
fn a_stream_of_chat() {
    cut_stream("/api/chat", &chat("Hi"), REASON, "\"done\":true");
}

#[test]
fn a_stream_of_generate() {
    let body = r#"{"model":"m","prompt":"Hi"}"#;
    cut_stream("/api/generate", body, REASON, "\"done\":true");
}

#[test]
fn a_stream_that_is_passed_on() {
    let body = chat("Hi").replacen('{', "{\"stream\":true,", 1);
    cut_stream("/v1/chat/completions", &body, MARK, "data: [DONE]");
}

#[test]
fn a_stream_of_messages() {
    cut_stream("/v1/messages", &message(true), REASON, "event: message_stop");
}

#[test]
fn whole_answers() {
    cut_whole("/api/chat", &chat_whole("Hi"), "\"done\":true");
    let body = r#"{"model":"m","prompt":"Hi","stream":false}"#;
    cut_whole("/api/generate", body, "\"done\":true");
    cut_whole("/v1/chat/completions", &chat_whole("Hi"), "\"choices\"");
    cut_whole("/v1/messages", &message(false), "\"stop_reason\"");
}

/// Events of Responses, with one that ends the answer last.
const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n",
    "event: response.output_text.delta\n",
    "data: {\"type\":\"response.output_text.delta\",\"delta\":\"[DONE] \\\"type\\\":\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n",
);

/// Cuts a stream that only the end of its connection delimits, and is whole from the end of
/// `terminal` on.
fn cut_until_close(path: &str, events: &str, terminal: &str) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let bytes = format!("{head}{events}");
    let complete = end_of(bytes.as_bytes(), terminal);
    cut(bytes.as_bytes(), path, &chat("Hi"), |at, answer| {
        let (passed, text) = (bytes.get(head.len()..at).unwrap_or_default(), &answer.body);
        // What was begun behind the end has to be whole, too.
        let between = ["\n\n", "\r\n\r", "\r\n\r\n"].iter().any(|end| passed.ends_with(end));
        if at >= complete && (between || passed.contains("data: [DONE]")) {
            assert_eq!((answer.status(), text.as_str()), (200, passed), "{path} at {at}");
        } else if passed.is_empty() {
            assert_eq!(answer.status(), 502, "{path} at {at}: {text}");
        } else {
            assert_eq!(answer.status(), 200, "{path} at {at}: {text}");
            let told = text.strip_prefix(passed).and_then(|it| it.strip_prefix("\n\ndata: "));
            let told = told.unwrap_or_else(|| panic!("{path} at {at}: {text}"));
            let error: serde_json::Value = serde_json::from_str(told).expect("JSON");
            assert_eq!(error["error"]["message"], CUT_SHORT, "{path} at {at}");
        }
    });
}

#[test]
fn streams_that_only_the_end_of_their_connection_delimits() {
    let delta = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"[DONE] \\\"finish_reason\\\
                 \":\\\"stop\\\"\"},\"finish_reason\":null}]}\n\n";
    let reason = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},{REASON}");
    let (chat, completions) = ("/v1/chat/completions", "/v1/completions");
    cut_until_close(chat, &format!("{delta}{reason}{MARK}"), REASON);
    cut_until_close(chat, &format!("{delta}{reason}"), REASON);
    cut_until_close(chat, &format!("{delta}{MARK}"), MARK.trim_end());
    let events = format!("{delta}{reason}{MARK}").replace('\n', "\r\n");
    cut_until_close(completions, &events, &REASON.replace("\n\n", "\r\n\r"));
    cut_until_close("/v1/responses", RESPONSES, RESPONSES);
}

#[test]
fn what_is_no_stream_of_events_ends_with_its_connection() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    let (upstream, proxy) = pair();
    upstream.script(vec![Step::Send(format!("{head}{{\"a\":1}}").into_bytes()), Step::Close]);
    proxy.ask("/v1/chat/completions", chat("Hi")).assert_body(200, "{\"a\":1}");
}
