//! The servers behind the proxy: calls, retries, the circuit breaker, and what they taught us.
//!
//! An [`Upstream`] is one server: its [`Client`], its model list, and what its responses have shown.
//! A call makes a bounded number of attempts; an attempt is repeated only when
//! [`Error::retry`](crate::error::Error::retry) allows it. Only [`transport`] knows ureq. Never reads
//! the configuration: [`Settings`] are filled elsewhere.
//! Invariant: nothing is sent again once a byte of a response's body was handed on; a [`Client::call`]
//! ends with the response's head, or with a whole body.

pub mod backoff;
pub mod base_url;
mod batch_limits;
pub mod breaker;
mod client;
mod model_list;
mod operation;
mod pass_through;
pub mod repair;
mod response;
mod retry;
mod tool_call_extras;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use self::batch_limits::BatchLimits;
pub use self::client::Client;
pub use self::operation::Operation;
pub use self::pass_through::{PassHeaders, PassResponse, PassResponseBody};
pub use self::response::{EventStream, UpstreamResponse};
pub(crate) use self::tool_call_extras::ToolCallExtras;
pub use self::transport::agent::Payload;
use crate::backends::profiles::Profile;
use crate::models::catalog::Catalog;
use crate::observe::metrics::Metrics;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;

/// What is set for one upstream.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub base_url: BaseUrl,
    /// Its key.
    pub api_key: Option<Secret>,
    /// Its family; `None` to detect it.
    pub profile: Option<&'static Profile>,
    /// The longest silence during a call.
    pub request_timeout: Duration,
    /// The most requests at once, which is also the most idle connections kept.
    pub workers: usize,
    /// When and how often a call is repeated.
    pub retry: RetryPolicy,
    /// When calls fail at once because it is unreachable.
    pub breaker: breaker::Settings,
    /// How long its model list stays fresh.
    pub models_ttl: Duration,
    /// Whether bodies are logged.
    pub log_bodies: bool,
    /// Masks every known key in texts.
    pub redactor: Redactor,
}

/// Sleep and randomness of the retries, which tests replace.
pub struct RetryEnv {
    /// Sleeps between attempts; returns `false` when the program is to end or the client has left.
    pub sleep: Box<dyn Fn(Duration) -> bool + Send + Sync>,
    /// A random number from 0 up to, not including, 1.
    pub jitter: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// What the log tells of one request.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// `req_` and 8 hex digits.
    pub request_id: String,
    /// The model's name as the client sent it.
    pub model: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the latest attempt began.
    pub last_attempt_at: Option<Instant>,
    /// Tokens of the prompt and of the response, once they are known.
    pub tokens: (u64, u64),
}

/// Which pooled connections an attempt may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ConnectionPolicy {
    /// Any, or a new connection.
    #[default]
    Reuse,
    /// None, and all of them are closed.
    Fresh,
    /// None; they stay for other requests.
    Dedicated,
}

/// One server behind the proxy, shared by all workers.
pub struct Upstream {
    /// Makes the calls.
    pub(crate) client: Client,
    catalog: Catalog,
    /// The batch sizes for embeddings that it accepted.
    pub(crate) batch_limits: BatchLimits,
    /// What it wants back with earlier tool calls.
    pub(crate) tool_call_extras: ToolCallExtras,
    lacks_responses: AtomicBool,
}

impl Upstream {
    /// An upstream of which nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings, retry_env: RetryEnv, metrics: Arc<Metrics>) -> Self {
        Self {
            catalog: Catalog::new(settings.models_ttl),
            client: Client::new(settings, retry_env, metrics),
            batch_limits: BatchLimits::default(),
            tool_call_extras: ToolCallExtras::default(),
            lacks_responses: AtomicBool::new(false),
        }
    }

    /// Whether the upstream said that it has no `responses` endpoint.
    pub(crate) fn lacks_responses(&self) -> bool {
        self.lacks_responses.load(Ordering::Relaxed)
    }

    /// Notes that the upstream has no `responses` endpoint.
    pub(crate) fn note_lack_of_responses(&self) {
        self.lacks_responses.store(true, Ordering::Relaxed);
    }
}
