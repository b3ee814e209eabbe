//! The proxy under test: the library's own server, in this process, on port 0.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ollama_openai_proxy::app::server::Server;
use ollama_openai_proxy::app::shutdown::Shutdown;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::upstream::RetryEnv;

use serde_json::Value;

use super::raw::{Answer, Client, chat};
use super::upstream::{Listening, Step, Upstream, delta, ended, stream_head};

/// The key that every test's proxy sends upstream.
pub const KEY: &str = "test-key-7e57ab1e";

pub struct Proxy {
    pub server: Server,
    pub stop: Shutdown,
    /// How long the proxy would have slept; it never does.
    pub sleeps: Receiver<Duration>,
    /// Keeps the upstream alive as long as this proxy.
    _upstream: Option<Arc<Listening>>,
}

/// A scripted upstream and a proxy in front of it, with defaults.
pub fn pair() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&upstream);
    (upstream, proxy)
}

/// The same with a changed configuration of the proxy.
pub fn pair_with(change: impl FnOnce(&mut Config)) -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, change);
    (upstream, proxy)
}

/// The same for a proxy that asks an upstream once.
pub fn asking_once() -> (Upstream, Proxy) {
    pair_with(|config| config.retry.max_retries = 0)
}

/// The request that keeps the only worker of a [`full_queue`] busy.
pub struct Busy {
    client: Client,
    go_on: Sender<()>,
}

impl Busy {
    /// Lets the upstream answer, and so frees the worker.
    pub fn answer(mut self) -> Answer {
        drop(self.go_on);
        self.client.answer()
    }
}

/// A proxy that refuses each further request: its only worker waits for the upstream, and its queue has
/// no place. `lines` are header lines of the request that keeps the worker busy.
pub fn full_queue(lines: &str, change: impl FnOnce(&mut Config)) -> (Proxy, Busy) {
    let (upstream, proxy) = pair_with(|config| {
        (config.workers, config.max_queue) = (1, 0);
        change(config);
    });
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![Step::Wait(told), stream_head(), delta("ok")]));
    let mut client = proxy.client();
    client.with("POST", "/api/chat", lines, chat("Hi"));
    upstream.request(); // The worker has sent it.
    (proxy, Busy { client, go_on })
}

impl Proxy {
    /// In front of an upstream, with defaults.
    pub fn start(upstream: &Upstream) -> Self {
        Self::with(upstream, |_| {})
    }

    /// In front of an upstream, with a changed configuration.
    pub fn with(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        let mut proxy = Self::at(&upstream.base_url(), change);
        proxy._upstream = Some(upstream.listening());
        proxy
    }

    /// In front of whatever is at `base`.
    pub fn at(base: &str, change: impl FnOnce(&mut Config)) -> Self {
        let (sender, sleeps) = unbounded();
        let pacing = RetryEnv {
            sleep: Box::new(move |duration| sender.send(duration).is_ok()),
            jitter: Box::new(|| 0.0),
        };
        let (server, stop) = start(base, change, pacing);
        Self { server, stop, sleeps, _upstream: None }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// The answer to a request on a connection of its own.
    pub fn ask(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.client().post(path, body).answer()
    }

    /// The same for a body of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(path, body.to_string())
    }

    /// The same for a request without a body.
    pub fn fetch(&self, path: &str) -> Answer {
        self.client().get(path).answer()
    }

    /// What stands at a path, as a value.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.fetch(path);
        assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// The response of `/api/show`.
    pub fn show(&self, name: &str) -> Value {
        let shown = self.post("/api/show", &serde_json::json!({ "model": name }));
        assert_eq!(shown.status(), 200, "{name}: {}", shown.body);
        shown.json()
    }

    /// The entries of the list.
    pub fn tags(&self) -> Vec<Value> {
        self.get("/api/tags")["models"].as_array().expect("a list").clone()
    }

    /// The names in the list.
    pub fn names(&self) -> Vec<String> {
        let name = |tag: &Value| tag["name"].as_str().expect("a name").to_owned();
        self.tags().iter().map(name).collect()
    }
}

/// A server with pacing of the test's own.
pub fn start(base: &str, change: impl FnOnce(&mut Config), pacing: RetryEnv) -> (Server, Shutdown) {
    let mut config = Config::for_base_url(base).expect("a valid base URL");
    config.upstream.api_key = Some(ollama_openai_proxy::observe::redact::Secret::new(KEY));
    config.workers = 16;
    change(&mut config);
    let stop = Shutdown::default();
    let server = Server::start_with(config, stop.clone(), pacing).expect("the proxy starts");
    (server, stop)
}
