//! A panic in a handler costs one response, but no worker and not the process.

use crate::support::*;
use ollama_openai_proxy::upstream::RetryEnv;

#[test]
fn a_panic_is_answered_and_its_worker_goes_on() {
    let upstream = Upstream::start();
    for _ in 0..3 {
        upstream.script(vec![status(500, &[], "{}")]);
    }
    upstream.script(upstream::stream(&["fine"]));
    let pacing =
        RetryEnv { sleep: Box::new(|_| true), jitter: Box::new(|| panic!("on purpose: secret")) };
    let one_worker = |config: &mut ollama_openai_proxy::config::Config| config.workers = 1;
    let (server, _stop) = proxy::start(&upstream.base_url(), one_worker, pacing);
    let mut client = Client::connect(server.local_addr());
    for _ in 0..3 {
        let answer = client.post("/api/chat", chat("Hi")).answer();
        answer.assert_error(500, "internal error");
    }
    assert_eq!(client.post("/api/chat", chat("Hi")).answer().lines().len(), 2);
}
