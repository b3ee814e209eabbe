//! The proxy under test: the library's own server, in this process, on port 0.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::server::Server;
use ollama_openai_proxy::stop::Stop;
use ollama_openai_proxy::upstream::Pacing;

use super::raw::Client;
use super::upstream::Upstream;

/// The key that every test's proxy sends upstream.
pub const KEY: &str = "test-key-7e57ab1e";

pub struct Proxy {
    pub server: Server,
    pub stop: Stop,
    /// How long the proxy would have slept; it never does.
    pub sleeps: Receiver<Duration>,
}

impl Proxy {
    /// In front of an upstream, with defaults.
    pub fn start(upstream: &Upstream) -> Self {
        Self::with(upstream, |_| {})
    }

    /// In front of an upstream, with a changed configuration.
    pub fn with(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        Self::at(&upstream.base_url(), change)
    }

    /// In front of whatever is at `base`.
    pub fn at(base: &str, change: impl FnOnce(&mut Config)) -> Self {
        let (sender, sleeps) = unbounded();
        let pacing = Pacing {
            sleep: Box::new(move |duration| sender.send(duration).is_ok()),
            jitter: Box::new(|| 0.0),
        };
        let (server, stop) = start(base, change, pacing);
        Self { server, stop, sleeps }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr())
    }
}

/// A server with pacing of the test's own.
pub fn start(base: &str, change: impl FnOnce(&mut Config), pacing: Pacing) -> (Server, Stop) {
    let mut config = Config::for_base_url(base).expect("a valid base URL");
    config.api_key = Some(ollama_openai_proxy::redact::Secret::new(KEY));
    config.workers = 16;
    change(&mut config);
    let stop = Stop::default();
    let server = Server::start_with(config, stop.clone(), pacing).expect("the proxy starts");
    (server, stop)
}
