//! Long streams on a full machine: tokens that follow the first ones travel together.

use std::io;
use std::time::Duration;

use crate::support::ollama::{Ollama, is_ollama, lines_head};
use crate::support::*;
use crossbeam_channel::Sender;
use ollama_openai_proxy::config::Config;

/// The tokens that pass at once before a stream is a long one.
const PROMPT_TOKENS: usize = 4;

/// How long a client looks in vain for a token that waits for the next one: much shorter than a pause.
const IN_VAIN: Duration = Duration::from_millis(50);

/// Pauses behind each write of a long stream, as on a machine that has been full for some time.
fn pausing(config: &mut Config) {
    config.stream_pause = Some(Duration::from_secs(1));
}

/// A stream that is a long one after [`PROMPT_TOKENS`], with two tokens more, each sent behind a signal; and the
/// sender of the signals.
fn steps(head: Step, token: &dyn Fn(usize) -> Step, end: Step) -> (Sender<()>, Vec<Step>) {
    let (go_on, told) = bounded(0);
    let mut steps = vec![Step::Pause(Duration::from_millis(60)), head];
    for number in 0..PROMPT_TOKENS + 2 {
        steps.extend([Step::Wait(told.clone()), token(number)]);
    }
    steps.extend([Step::Wait(told), end]);
    (go_on, steps)
}

/// Reads a stream whose first tokens arrive before the next one is sent, and the other two in one write.
#[track_caller]
fn check(client: &mut Client, go_on: &Sender<()>, route: &str) {
    let proceed = || go_on.send(()).expect("the upstream waits");
    for number in 0..PROMPT_TOKENS {
        proceed();
        if number == 0 {
            client.head();
        }
        read_token(client, number);
    }
    proceed();
    let stream = client.stream();
    stream.set_read_timeout(Some(IN_VAIN)).expect("a socket");
    let seen = stream.peek(&mut [0]);
    stream.set_read_timeout(Some(HANG)).expect("a socket");
    assert!(
        seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
        "{route}: the token has not waited"
    );
    proceed();
    let before = client.segments_received();
    let both = read_token(client, PROMPT_TOKENS + 1);
    assert!(both.contains(&token(PROMPT_TOKENS)), "{route}: {both}");
    assert_eq!(client.segments_received(), before + 1, "{route}");
    proceed();
    client.rest_of_stream();
}

/// The text of a token.
fn token(number: usize) -> String {
    format!("token-{number}")
}

/// Reads frames up to the one with a token.
#[track_caller]
fn read_token(client: &mut Client, number: usize) -> String {
    let mut read = String::new();
    while !read.contains(&token(number)) {
        read += &client.frame().expect("a frame");
    }
    read
}

#[test]
fn the_first_tokens_pass_at_once_and_later_ones_together() {
    for route in [CHAT, "/v1/chat/completions"] {
        let (upstream, proxy) = pair_with(pausing);
        let (go_on, steps) =
            steps(stream_head(), &|number| delta(&token(number)), frame("data: [DONE]\n\n"));
        upstream.script(ended(steps));
        let mut client = proxy.client();
        let messages = json!({"stream": true, "messages": [{"role": "user", "content": "Hi"}]});
        client.post(route, request(route, &messages).to_string());
        check(&mut client, &go_on, route);
    }
}

#[test]
fn the_lines_of_a_real_ollama_travel_together_too() {
    let ollama = Ollama::start();
    let proxy = Proxy::with(&ollama, |config| {
        is_ollama(config);
        pausing(config);
    });
    let line = |number| {
        frame(&format!(
            "{{\"model\":\"llama3.2\",\"response\":\"token-{number}\",\"done\":false}}\n"
        ))
    };
    let (go_on, mut steps) = steps(lines_head(), &line, frame("{\"done\":true}\n"));
    steps.push(last_frame());
    ollama.script(steps);
    let mut client = proxy.client();
    client.post(GENERATE, r#"{"model":"llama3.2","prompt":"Hi"}"#);
    check(&mut client, &go_on, GENERATE);
}
