//! More requests than workers and queue slots: refused at once with Ollama's text, and only while
//! the queue is full.

use crate::support::*;

const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

#[test]
fn one_request_too_many_is_refused_at_once_and_the_others_are_served() {
    let (upstream, proxy) = pair_with(|config| {
        config.workers = 2;
        config.max_queue = 1;
    });
    let (go_on, told) = bounded::<()>(0);
    for _ in 0..3 {
        upstream.script(ended(vec![Step::Wait(told.clone()), stream_head(), delta("served")]));
    }
    let mut served: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut served {
        client.post("/api/chat", chat("Hi"));
        upstream.request(); // Both workers are busy once both requests have arrived.
    }
    // One of these two is queued and the other is refused; the order is not fixed.
    let mut rest: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    let (sender, refused) = bounded(2);
    std::thread::scope(|scope| {
        for client in &mut rest {
            let sender = sender.clone();
            scope.spawn(move || {
                let answer = client.post("/api/chat", chat("Hi")).answer();
                sender.send(answer).expect("the test listens");
            });
        }
        let answer = refused.recv().expect("an answer");
        answer.assert_error(503, BUSY);
        assert_eq!(answer.head.header("retry-after"), Some("1"));
        drop(go_on);
        assert_eq!(refused.recv().expect("an answer").lines().len(), 2);
    });
    for client in &mut served {
        assert_eq!(client.answer().lines().len(), 2);
    }
    // The connection of a refused request serves the next one.
    for client in &mut rest {
        assert_eq!(client.get("/api/version").answer().status(), 200);
    }
}

#[test]
fn a_refusal_does_not_wait_for_a_large_body() {
    let (proxy, _busy) = full_queue("", |_| {});
    let mut client = proxy.client();
    // The body is never sent.
    let answer =
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n{").answer();
    answer.assert_error(503, BUSY);
    assert_eq!(answer.head.header("connection"), Some("close"));
}

#[test]
fn a_hundred_at_once_are_all_served_when_there_is_room() {
    let _crowd = crowd();
    let (upstream, proxy) = pair_with(|config| config.workers = 8);
    for _ in 0..100 {
        upstream.script(upstream::stream(&["a", "b", "c"]));
    }
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let answer = proxy.ask("/api/chat", chat("Hi"));
                assert_eq!(answer.lines().len(), 4);
            });
        }
    });
}

#[test]
fn a_request_behind_a_running_response_delays_nobody_else() {
    let (upstream, proxy) = pair_with(|config| (config.workers, config.max_queue) = (1, 0));
    let (go_on, steps) = halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    // Each is refused, and its response has to wait for the one that runs.
    for _ in 0..8 {
        client.get("/api/tags");
    }
    for _ in 0..8 {
        assert_eq!(proxy.fetch("/health").status(), 200);
    }
    drop(go_on);
    assert_eq!(client.rest_of_stream().lines().count(), 3);
    for _ in 0..8 {
        assert_eq!(client.answer().status(), 503);
    }
}
