//! Answers in progress: they show with growing tokens, and are gone however they end.

use std::net::Shutdown;

use super::{await_recent, await_status};
use crate::support::*;

/// Routes with a stream each, and the request for it.
fn streams() -> [(&'static str, String); 6] {
    let messages = r#""messages":[{"role":"user","content":"Hi"}]"#;
    [
        ("/api/chat", format!(r#"{{"model":"m",{messages}}}"#)),
        ("/api/generate", r#"{"model":"m","prompt":"Hi"}"#.to_owned()),
        ("/v1/chat/completions", format!(r#"{{"model":"m","stream":true,{messages}}}"#)),
        ("/v1/messages", format!(r#"{{"model":"m","stream":true,"max_tokens":9,{messages}}}"#)),
        ("/v1/completions", r#"{"model":"m","stream":true,"prompt":"Hi"}"#.to_owned()),
        ("/v1/responses", r#"{"model":"m","stream":true,"input":"Hi"}"#.to_owned()),
    ]
}

/// Waits until one answer is in progress that has so many tokens.
fn await_tokens(proxy: &Proxy, tokens: u64) -> Value {
    await_status(proxy, |it| it["live"][0]["tokens"] == tokens)
}

fn assert_gone(proxy: &Proxy) {
    let status = await_status(proxy, |it| it["live_total"] == 0);
    assert_eq!(status["live"], json!([]));
}

#[test]
fn an_answer_shows_while_it_is_written_with_growing_tokens_on_each_route() {
    for (route, body) in streams() {
        let (upstream, proxy) = pair();
        let (first, told_first) = bounded::<()>(0);
        let (second, told_second) = bounded::<()>(0);
        let mut steps = vec![stream_head(), Step::Wait(told_first), delta("a"), delta("b")];
        steps.extend([Step::Wait(told_second), delta("c")]);
        // Routes of responses ask for them first.
        upstream.judge(|request| {
            request.path.ends_with("/responses").then(|| vec![status(404, &[], "not found")])
        });
        upstream.script(ended(steps));
        let mut client = proxy.client();
        client.post(route, &body);
        let shown = await_status(&proxy, |it| it["live_total"] == 1);
        let live = &shown["live"][0];
        assert_eq!((&live["route"], &live["model"]), (&json!(route), &json!("m")), "{route}");
        assert_eq!((&live["upstream"], &live["tokens"]), (&json!("default"), &json!(0)), "{route}");
        assert!(live["id"].as_str().is_some_and(|id| id.starts_with("req_")), "{route}");
        assert!(live["seconds"].is_number() && shown["workers"]["busy"] == 1, "{route}");
        drop(first);
        await_tokens(&proxy, 2);
        drop(second);
        assert_eq!(client.head().status, 200, "{route}");
        client.rest_of_stream();
        assert_gone(&proxy);
        let recent = await_recent(&proxy, 1)["recent"][0].clone();
        assert_eq!((&recent["id"], &recent["route"]), (&live["id"], &live["route"]), "{route}");
    }
}

#[test]
fn an_answer_is_gone_when_its_client_leaves() {
    for (route, body) in streams().into_iter().take(3) {
        let (upstream, proxy) = pair();
        let (_go_on, told) = bounded::<()>(0);
        upstream.script(vec![stream_head(), delta("a"), Step::Wait(told)]);
        let mut client = proxy.client();
        client.post(route, &body);
        await_tokens(&proxy, 1);
        client.stream().shutdown(Shutdown::Both).expect("an open connection");
        assert_gone(&proxy);
        let recent = await_recent(&proxy, 1)["recent"][0].clone();
        assert_eq!((&recent["error"], &recent["tokens_out"]), (&json!("client_left"), &json!(1)));
        let minutes = proxy.get("/status.json")["minutes"].clone();
        assert_eq!((&minutes[59]["requests"], &minutes[59]["errors"]), (&json!(1), &json!(0)));
    }
}

#[test]
fn an_answer_is_gone_when_its_upstream_dies() {
    for (route, body) in streams().into_iter().take(3) {
        let (upstream, proxy) = asking_once();
        let (go_on, told) = bounded::<()>(0);
        upstream.script(vec![stream_head(), delta("a"), Step::Wait(told), Step::Close]);
        let mut client = proxy.client();
        client.post(route, &body);
        await_tokens(&proxy, 1);
        drop(go_on);
        assert_gone(&proxy);
        let shown = await_recent(&proxy, 1);
        assert_eq!(shown["recent"][0]["error"], "upstream_closed", "{route}");
        assert_eq!(shown["minutes"][59]["errors"], 1, "{route}");
        let upstream = &shown["upstreams"][0];
        assert_eq!(
            (&upstream["state"], &upstream["circuit"]),
            (&json!("failing"), &json!("closed"))
        );
        let told = "the upstream closed the connection before its response was complete";
        assert_eq!(upstream["last_error"], told, "{route}");
        assert!(upstream["last_error_age_s"].is_u64(), "{route}");
    }
}

#[test]
fn a_whole_answer_and_embeddings_show_too_and_routes_that_ask_no_model_do_not() {
    let (upstream, proxy) = pair();
    for (route, body, steps) in [
        ("/api/chat", chat_whole("Hi"), vec![answer("Hi")]),
        (
            "/v1/embeddings",
            r#"{"model":"m","input":"Hi"}"#.to_owned(),
            vec![json(r#"{"data":[{"embedding":[0.5],"index":0}],"usage":{"prompt_tokens":7}}"#)],
        ),
    ] {
        let (go_on, told) = bounded::<()>(0);
        upstream.script([Step::Wait(told)].into_iter().chain(steps).collect());
        let mut client = proxy.client();
        client.post(route, &body);
        let shown = await_status(&proxy, |it| it["live_total"] == 1);
        assert_eq!(shown["live"][0]["route"], route);
        drop(go_on);
        assert_eq!(client.answer().status(), 200);
        assert_gone(&proxy);
    }
    proxy.fetch("/api/tags");
    proxy.fetch("/v1/models");
    let shown = await_recent(&proxy, 4);
    assert_eq!(shown["live_total"], 0);
    assert_eq!(
        (&shown["recent"][2]["route"], &shown["recent"][2]["tokens_in"]),
        (&json!("/v1/embeddings"), &json!(7))
    );
}

#[test]
fn the_page_answers_while_all_workers_wait_for_an_upstream() {
    let (proxy, busy) = full_queue("", |_| {});
    let refused = proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(refused.status(), 503);
    let shown = await_status(&proxy, |it| it["live_total"] == 1);
    assert_eq!(shown["workers"], json!({"busy": 1, "limit": 1}));
    assert_eq!(proxy.fetch("/status").status(), 200);
    assert_eq!(busy.answer().status(), 200);
    let shown = await_recent(&proxy, 2);
    assert_eq!(
        (&shown["recent"][1]["status"], &shown["recent"][1]["error"]),
        (&json!(503), &json!("busy"))
    );
}

#[test]
fn at_most_a_hundred_answers_are_listed_and_all_are_counted() {
    let _crowd = crowd();
    let (upstream, proxy) = pair_with(|config| config.workers = 120);
    let (go_on, told) = bounded::<()>(0);
    for _ in 0..110 {
        upstream.script(ended(vec![Step::Wait(told.clone()), stream_head(), delta("a")]));
    }
    let clients: Vec<Client> = (0..110)
        .map(|_| {
            let mut client = proxy.client();
            client.post("/api/chat", chat("Hi"));
            client
        })
        .collect();
    let shown = await_status(&proxy, |it| it["live_total"] == 110);
    assert_eq!(shown["live"].as_array().map(Vec::len), Some(100));
    drop(go_on);
    for mut client in clients {
        client.answer();
    }
    assert_gone(&proxy);
    await_recent(&proxy, 100);
}
