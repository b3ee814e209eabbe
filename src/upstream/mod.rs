//! The servers behind the proxy: calls, retries, the circuit breaker, and what they taught us.
//!
//! An [`Upstream`] is one server: its [`Client`], its model list, and what its responses have shown.
//! A call makes a bounded number of attempts; an attempt is repeated only when
//! [`Error::retry`](crate::error::Error::retry) allows it. Only `transport` knows ureq. Never reads
//! the configuration: [`Settings`] are filled elsewhere.
//! Invariant: nothing is sent again once a byte of a response's body was handed on; a [`Client::call`]
//! ends with the response's head, or with a whole body.
//!
//! # Retries
//!
//! An attempt is repeated only while no byte of the response was passed on:
//!
//! | failure | next attempt |
//! | --- | --- |
//! | a pooled connection was closed while idle | at once, even with `RETRY_MAX=0` |
//! | a new connection was closed without a byte | at once the first time, then after the backoff |
//! | connecting failed | after the backoff |
//! | no head in time: a list, details, embeddings | after the backoff |
//! | no head in time: a whole generated response | after the backoff, once, as a stream |
//! | no head in time: a stream, or a request that is passed on | none |
//! | 408, 409, 424, 429, 500, 502, 503, 529 | after the backoff, or the delay asked for |
//! | 504, 524: a gateway's timeout | the same; a generated response once, a whole one as a stream |
//! | llama.cpp is loading its model | every second, up to 300 times (5 minutes) |
//! | 500 of an Ollama that is asked in its own protocol: a wrong option, too little memory | none |
//! | spent quota and other permanent errors; other statuses | none |
//! | an error in a response of status 200 | none; if it rejects the request, it is repaired |
//! | any failure after the first byte of a response | none |
//!
//! - **Backoff** ([`backoff`]): 1 s, 2 s, 4 s (`RETRY_INITIAL_MS`, doubling up to `RETRY_MAX_MS`),
//!   each shortened at random by up to a half; at most `RETRY_MAX` (3) retries.
//! - **Delays asked for** ([`crate::backends::retry_after`]): `retry-after-ms`, else `Retry-After`
//!   in seconds or as a date (RFC 9110 section 10.2.3), else the error's text (`Please try again in
//!   6m0s`). The delay is at least 100 ms; a request that would have to wait more than 120 s fails.
//!   `x-should-retry` overrides the status. In all, a call waits at most 120 s for such delays, and a request,
//!   which may make several calls, 300 s.
//! - **All waits** of a request together are at most 10 minutes. A waiting request lends its worker to others. At
//!   most half as many requests as there are workers wait longer than 5 s at once, and at most as many as there
//!   are workers, or half of all places with the queue's, wait at all; any further one fails at once with the
//!   upstream's error and its `Retry-After`, so that its client waits instead.
//! - **Polls** of a server that loads its model are counted apart; `RETRY_MAX=0` turns them off,
//!   too.
//! - A client that disconnects ends the waiting, and so does a shutdown (503).
//! - A body that is streamed to the upstream is sent once, on a connection of its own.
//! - A request for a route that only the upstream has is sent again only where connecting failed.
//! - While the circuit is open, [`breaker`] decides.
//! - Where several upstreams have the model, each of them gets one attempt, and [`router`] decides when they
//!   are asked again.
//!
//! # Long responses
//!
//! A client of Ollama's, Anthropic's or a translated `responses` route that wants a whole response gets it
//! from a whole response of the upstream as long as that is quick. Once one took more than a third of
//! `REQUEST_TIMEOUT`, or ran into it, the model's whole responses are asked for as streams and collected,
//! for an hour: the timeout then bounds each silence, and a client that leaves ends the work. A server that
//! rejects streams is asked for whole responses for an hour. No prompt is generated a third time.
//!
//! # Models of `responses`
//!
//! A rejection that says that only `responses` serves a model, whatever its status, sends the same
//! conversation there ([`crate::translate::responses_upstream`]), for an hour at once. Clients of all chat
//! routes get the answer in the form of their own route, streams included. If that route is missing, they
//! get the first rejection.
//!
//! # What is learnt
//!
//! All of it belongs to one upstream, is in memory only, and is learnt anew after an hour ([`LEARNT_TTL`]), so
//! that a server that was updated, or another one at the same address, is asked as any other. An upstream whose
//! settings a reload changes begins with nothing. Nothing of it is shown to clients. The tables of models and the
//! list are parts of the memory budget ([`crate::net`]): where it is full, the oldest models go, and a new list
//! serves one request only.
//!
//! | fact | where | bound | forgotten |
//! | --- | --- | --- | --- |
//! | repairs that requests of a model need | [`repair::memory`] | 1,024 models, 32 repairs and 64 groups each | an hour after it was learnt; 10 minutes where it is not proven |
//! | refusals that no repair helps | [`repair::memory`] | 32 each of these models | after 10 minutes |
//! | models that only `responses` serves | `Client::responses_models` | 1,024 | after an hour, or when that route is missing |
//! | models whose whole responses take long; paths that reject streams | `long_answers` | 1,024 each | after an hour |
//! | models that take no `suffix` | `Upstream::suffix_refusals` | 1,024 | after an hour |
//! | models whose responses begin inside reasoning | `thinking_memory` | 1,024 | after an hour, or with a response that shows the contrary |
//! | the member in which reasoning comes | `thinking_memory` | 1 | an hour after a response had reasoning |
//! | no `responses` route; the `responses` route | `Upstream::lacks_responses`, `has_responses` | 1 each | after an hour; an hour after a success |
//! | batch sizes of embeddings | `batch_limits` | 2 | an hour after a rejection taught it |
//! | the family, by heads of responses | `family` | 1 | an hour after a head named it |
//! | whether it is an Ollama, by its version | `family` | 1 | asked again after an hour, or 10 minutes after no answer; holds until then |
//! | details beside the model list | `model_list` | 1 for each place | an hour after the place had them; a place without any is asked again after 10 minutes |
//! | the model list, and the family that it shows | [`crate::models::catalog`] | the list | replaced by the next list; a request fetches one behind itself when the last one was tried for an hour ago |
//! | whether it has answered, for the words of errors | `Client::has_answered`, `transport` | 1 each | an hour after an answer |
//! | the circuit's state | [`breaker`] | 1 | after its cooldown |
//!
//! What is kept of conversations is no such fact, and stays while there is room: see `tool_call_extras` and
//! [`crate::handlers`].
//!
//! # Timeouts
//!
//! | wait | limit |
//! | --- | --- |
//! | resolving a host name; connecting, including TLS | 10 s each |
//! | the head of a response | `REQUEST_TIMEOUT` (300 s) |
//! | the whole body of a response that is no stream | `REQUEST_TIMEOUT` |
//! | silence within a stream | `REQUEST_TIMEOUT`; comments (`:` lines) count as signs of life |
//! | one event of a stream, from its first byte | `REQUEST_TIMEOUT` |
//! | the body of an error response | 5 s; 64 KiB, or 1 MiB if it is passed through |
//! | the model list; the list as a hint only; details beside the list | 30 s; 10 s; 3 s |
//! | an idle connection in the pool | 60 s |
//!
//! What an upstream sends of any length is bounded, too: 16 KiB for a head, 64 KiB for a frame of a body that is
//! not complete, 16 MiB, 10,000 models and 64 MiB in parsed form for a model list, 1 KiB for an id in it, 8 MiB
//! in parsed form for an error. A list beyond counts as none, an error beyond as text.
//!
//! An upstream may have a time limit of its own ([`ServerSettings::timeout`]) in place of `REQUEST_TIMEOUT`.
//!
//! # Retries of clients
//!
//! The official clients of OpenAI's and Anthropic's API repeat a failed request, too. Once the attempts that are
//! allowed here were made and failed, an error below `/v1` says `x-should-retry: false`, translated or passed
//! on, in place of what the upstream says there; so does 429 for wrong client keys. Where no attempt was
//! repeated, the upstream's own header is passed on with its own error, and other errors have none.
//!
//! # Connections
//!
//! Redirects are not followed, and response bodies are not decompressed (`Accept-Encoding:
//! identity`). A [`proxy`] of the environment is used unless the upstream is on this machine: an HTTP
//! proxy gets requests for `http://` with the whole URL, and opens a tunnel for `https://`; a SOCKS 5
//! proxy opens a tunnel for both. Certificates are checked against the compiled-in roots of public
//! authorities, those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, and `ca_file`; a server that asks for a
//! certificate gets `client_cert_file` ([`TlsSettings`]). A user name and a password in the base URL are sent
//! as `Authorization: Basic` ([`basic_auth`]); with a key beside them, the program does not start.

mod answer_watcher;
pub mod backoff;
pub mod base_url;
pub mod basic_auth;
mod batch_limits;
pub mod breaker;
mod call_repairs;
mod client;
mod condition;
mod failure_text;
mod family;
mod in_band;
mod long_answers;
mod model_list;
mod model_table;
mod native;
mod operation;
mod pass_converted;
mod pass_response;
mod pass_stream;
mod pass_through;
pub(crate) mod probe;
pub mod proxy;
mod recent_fact;
mod recent_models;
pub mod repair;
mod response;
mod retry;
pub mod router;
pub mod settings;
mod thinking_memory;
mod tool_call_extras;
mod transport;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::backoff::RetryWaits;
pub(crate) use self::batch_limits::BatchLimits;
pub use self::client::{Client, Rejected};
pub use self::in_band::Patience;
pub use self::native::NativeRequest;
pub use self::operation::Operation;
pub use self::pass_response::{PassPieces, PassResponse, PassResponseBody, Piece};
pub use self::pass_through::{PassHeaders, PassTarget};
use self::probe::Prober;
pub(crate) use self::recent_fact::RecentFact;
use self::recent_models::RecentModels;
pub use self::response::{EventStream, UpstreamResponse, Waited};
use self::router::slots::{SlotQueue, Slots};
pub use self::settings::{ServerSettings, Settings, TlsSettings};
pub(crate) use self::thinking_memory::ThinkingMemory;
pub(crate) use self::tool_call_extras::ToolCallExtras;
pub use self::transport::agent::Payload;
pub use self::transport::key::read_api_key_file;
pub use self::transport::tls_config::check_tls_files;
use crate::error::Error;
use crate::models::catalog::Catalog;
use crate::net::key_limits::KeyUse;
use crate::net::memory_budget::KeptBytes;
use crate::observe::board::LiveTicket;
use crate::observe::metrics::Metrics;
use crate::observe::redact::Secret;

/// How long holds what was learnt of an upstream.
pub const LEARNT_TTL: Duration = Duration::from_secs(3600);

/// Sleep and randomness of the retries, which tests replace.
pub struct RetryEnv {
    /// Sleeps between attempts; returns `false` when the program is to end or the client has left.
    pub sleep: Box<dyn Fn(Duration) -> bool + Send + Sync>,
    /// A random number from 0 up to, not including, 1.
    pub jitter: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// The facts about one request that its log line shows.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// `req_` and 8 hex digits; for the client and the log.
    pub request_id: String,
    /// A UUID, which the upstream gets as `X-Request-Id`: some servers refuse any other form.
    pub upstream_request_id: String,
    /// The model's name as the client sent it.
    pub model: String,
    /// The name of the upstream that was asked last.
    pub upstream: Option<Arc<str>>,
    /// The key that the client sent, where an upstream is to get it.
    pub client_key: Option<Secret>,
    /// Whether a call makes one attempt only, because another upstream may be asked instead.
    pub is_single_attempt: bool,
    /// How long it has waited between attempts.
    pub waited: RetryWaits,
    /// Attempts so far.
    pub attempts: u32,
    /// When the latest attempt began.
    pub last_attempt_at: Option<Instant>,
    /// When the head of the latest response came.
    pub head_at: Option<Instant>,
    /// How long an error is waited for that a response may begin with.
    pub patience: Patience,
    /// Tokens of the prompt and of the response, once they are known; set by [`Trace::set_tokens`].
    pub tokens: (u64, u64),
    /// The request's place among those of its client key, if that is counted.
    pub key_use: Option<Arc<KeyUse>>,
    /// Tokens of the prompt that the upstream had in its cache, if it told.
    pub cached_tokens: Option<u64>,
    /// The model that the request is about, by the upstream's id or a virtual model's name, once the
    /// list or the upstream's response has shown that it exists: the label of metrics.
    pub known_model: Option<String>,
    /// The error that a handler has reported in a response of its own.
    pub reported_error: Option<Error>,
    /// Whether a call failed after all its retries, and none succeeded since.
    pub retries_exhausted: bool,
    /// Its place among the requests that models answer now.
    pub live: LiveTicket,
}

impl Trace {
    /// Of a request with this id, which has not been sent anywhere.
    pub fn new(request_id: &str) -> Self {
        let (request_id, upstream_request_id) = (request_id.to_owned(), random_uuid());
        Self { request_id, upstream_request_id, ..Self::default() }
    }

    /// Notes the tokens of the prompt and of the response. They count for the client key at once: before the
    /// client can know that the response ended.
    pub fn set_tokens(&mut self, tokens: (u64, u64)) {
        self.tokens = tokens;
        self.key_use.iter().for_each(|key_use| key_use.count(tokens));
    }

    /// Notes which upstream is asked now.
    pub(crate) fn begin_attempt(&mut self, upstream: &Arc<str>) {
        self.live.begin(&self.request_id, &self.model, upstream, Instant::now());
        self.upstream = Some(upstream.clone());
    }

    /// The time from the request, received at `since`, to the attempt that the upstream answered.
    pub fn time_to_last_attempt(&self, since: Instant) -> Duration {
        self.last_attempt_at.unwrap_or(since).saturating_duration_since(since)
    }

    /// The time from the request, received at `since`, to the head of the upstream's response, or to now.
    pub fn time_to_head(&self, since: Instant) -> Duration {
        self.head_at.unwrap_or_else(Instant::now).saturating_duration_since(since)
    }
}

/// A UUID of version 4 (RFC 9562 section 5.4).
fn random_uuid() -> String {
    let bits = rand::random::<u128>();
    let (version, variant) = (0x4 << 76, 0x2 << 62);
    let hex = format!("{:032x}", (bits & !((0xf << 76) | (0x3 << 62))) | version | variant);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Which pooled connections an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPolicy {
    /// Any, or a new connection.
    Reuse,
    /// None, and all of them are closed.
    Fresh,
    /// None; they stay for other requests.
    Dedicated,
}

/// One server behind the proxy, shared by all workers.
pub struct Upstream {
    /// What it was made of.
    pub(crate) settings: Settings,
    /// Makes the calls.
    pub(crate) client: Client,
    /// Its requests in flight.
    pub(crate) slots: Arc<Slots>,
    /// Finds out whether it is back.
    pub(crate) prober: Arc<Prober>,
    /// Its name in the configuration.
    name: Arc<str>,
    /// Its model list.
    pub(crate) catalog: Catalog,
    /// The list as a part of the memory budget.
    list_bytes: Mutex<KeptBytes>,
    /// The batch sizes for embeddings that it accepted.
    pub(crate) batch_limits: BatchLimits,
    /// The models for which it takes no `suffix`.
    pub(crate) suffix_refusals: RecentModels,
    /// What its responses have shown of its reasoning.
    pub(crate) thinking_memory: ThinkingMemory,
    /// Whether it said that it has no `responses` endpoint.
    pub(crate) lacks_responses: RecentFact,
    /// Whether it has answered on that endpoint.
    pub(crate) has_responses: RecentFact,
}

impl Upstream {
    /// An upstream of which nothing is known yet.
    pub(crate) fn new(
        settings: Settings,
        (retry_env, metrics): (Arc<RetryEnv>, Arc<Metrics>),
        queue: Arc<SlotQueue>,
    ) -> Arc<Self> {
        let ttl = settings.learnt_ttl;
        Arc::new(Self {
            slots: Slots::new(settings.server.max_parallel, queue),
            prober: Arc::default(),
            name: settings.server.name.as_str().into(),
            catalog: Catalog::new(settings.models_ttl),
            list_bytes: Mutex::default(),
            client: Client::new(
                settings.clone(),
                retry_env,
                metrics.upstream(&settings.server.name),
            ),
            settings,
            batch_limits: BatchLimits::new(ttl),
            suffix_refusals: RecentModels::new(ttl),
            thinking_memory: ThinkingMemory::new(ttl),
            lacks_responses: RecentFact::new(ttl),
            has_responses: RecentFact::new(ttl),
        })
    }

    /// Whether one made of these settings would behave as this one does. Its key may have been read from its
    /// file again, and its certificates may have changed under the same names.
    fn is_made_of(&self, settings: &Settings) -> bool {
        let (mut known, agent) = (self.settings.clone(), &self.client.agent);
        agent.key.with(|key| known.server.api_key = key.cloned());
        known.is_same(settings) && !agent.has_changed_files()
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Counts a request that goes on to another upstream.
    pub(crate) fn count_failover(&self) {
        self.client.metrics.count_failover();
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_request() {
        let since = Instant::now();
        let at = |seconds| Some(since + Duration::from_secs(seconds));
        let mut trace = Trace::new("r");
        assert_eq!(trace.time_to_last_attempt(since), Duration::ZERO);
        assert!(trace.time_to_head(since) <= since.elapsed());
        (trace.last_attempt_at, trace.head_at) = (at(3), at(5));
        assert_eq!(trace.time_to_last_attempt(since), Duration::from_secs(3));
        assert_eq!(trace.time_to_head(since), Duration::from_secs(5));
    }
}
