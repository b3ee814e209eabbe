//! One request, one response head: ureq's settings, and its errors as ours.
//!
//! The settings answer measured traps (style of the house, openai-wire.md appendix A): statuses are
//! not errors, because their bodies say why; redirects are not followed, because a POST would become
//! a GET; silence is bounded, never a whole stream; buffers are small, because every live stream has
//! a pair; and as many idle connections are kept as there are workers.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ureq::http::Response;
use ureq::http::header::HeaderMap;
use ureq::{Body, SendBody, Timeout};

use super::read_deadline::ReadDeadline;
use super::{CONNECT_TIMEOUT, CancellableConnector, DeferredResolver, detect_connect};
use crate::api::openai::request_body::RequestBody;
use crate::backends::errors;
use crate::backends::errors::{ErrorDetails, RequestSummary, RetryHints};
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::backends::retry_after;
use crate::config::Config;
use crate::error::{Error, Result, TimeoutPhase};
use crate::net::cancel;
use crate::observe::body_log::BodyLogger;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::ConnectionPolicy;

/// Idle connections older than this are not used again.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);

/// Bytes of each buffer of a connection. Heads above it are refused.
const BUFFER_BYTES: usize = 16 * 1024;

/// Bytes of an error's body that are read.
const MAX_ERROR_BODY_BYTES: u64 = 64 * 1024;

/// The time in which the body of an error must be there.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers by which whoever runs the upstream finds an error in its own log (openai-wire.md 6.3).
const REQUEST_ID_HEADERS: [&str; 6] = [
    "x-request-id",
    "apim-request-id",
    "x-generation-id",
    "x-litellm-model-id",
    "x-litellm-call-id",
    "cf-ray",
];

/// The longest id that is logged, in bytes.
const MAX_ID_BYTES: usize = 200;

/// How the standard library begins to tell that a name could not be looked up, which is of no kind.
const DNS_ERROR_PREFIX: &str = "failed to lookup address information";

/// What the program calls itself.
const USER_AGENT: &str = concat!("ollama-openai-proxy/", env!("CARGO_PKG_VERSION"));

/// ureq's agent with our settings.
pub(in crate::upstream) struct Agent {
    agent: ureq::Agent,
    /// How long most requests may take: whatever differs needs a configuration of its own.
    timeout: Duration,
    /// The family that the heads of answers name, once one did.
    detected_profile: OnceLock<&'static Profile>,
}

/// What is sent.
pub(in crate::upstream) struct Request<'a> {
    pub url: &'a str,
    pub key: Option<&'a Secret>,
    /// The key goes into Azure's own header and not into the usual one.
    pub azure_key_header: bool,
    pub request_id: &'a str,
    pub body: Option<&'a RequestBody<'a>>,
    pub timeout: Duration,
    pub connection_policy: ConnectionPolicy,
}

/// What helps to understand a failure.
pub(in crate::upstream) struct FailureHint<'a> {
    pub method: &'static str,
    pub url: &'a str,
    pub model: Option<&'a str>,
    pub now: SystemTime,
}

impl Agent {
    pub(in crate::upstream) fn new(config: &Config) -> Self {
        let builder = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("application/json")
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(config.request_timeout))
            .timeout_per_read(Some(config.request_timeout))
            .timeout_per_write(Some(config.request_timeout))
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(BUFFER_BYTES)
            .max_idle_connections(config.workers)
            .max_idle_connections_per_host(config.workers)
            .max_idle_age(MAX_IDLE_AGE);
        // A server on this machine is never behind the company's proxy.
        let builder = if config.base_url.is_loopback() { builder.proxy(None) } else { builder };
        let connector = CancellableConnector::default();
        let agent = ureq::Agent::with_parts(builder.build(), connector, DeferredResolver);
        Self { agent, timeout: config.request_timeout, detected_profile: OnceLock::new() }
    }

    /// The upstream's family, as far as the head of any answer named it.
    pub(in crate::upstream) fn detected_profile(&self) -> Option<&'static Profile> {
        self.detected_profile.get().copied()
    }

    /// Sends a request and waits for the head of its answer.
    pub(in crate::upstream) fn send(&self, request: &Request<'_>) -> Result<Response<Body>> {
        let sent = detect_connect(|| match request.body {
            Some(body) => {
                let builder = self.add_headers(self.agent.post(request.url), request);
                let builder = builder.content_type("application/json");
                match body.as_single_piece() {
                    Some(body) => self.configure(builder, request).send(body),
                    None => {
                        // Without it ureq would send chunks, which not every server takes.
                        let builder = builder.header("content-length", body.len().to_string());
                        let mut reader = body.reader();
                        let body = SendBody::from_reader(&mut reader);
                        self.configure(builder, request).send(body)
                    }
                }
            }
            None => {
                let builder = self.add_headers(self.agent.get(request.url), request);
                self.configure(builder, request).call()
            }
        });
        self.handle_head(sent, request)
    }

    /// Sends a client's request on, with its own type and whatever else of its headers goes along.
    pub(in crate::upstream) fn pass(
        &self,
        request: &Request<'_>,
        headers: &[(&'static str, String)],
        body: SendBody<'_>,
    ) -> Result<Response<Body>> {
        let builder = self.add_headers(self.agent.post(request.url), request);
        let with = |builder: ureq::RequestBuilder<_>, (name, value): &(&'static str, String)| {
            builder.header(*name, value)
        };
        let builder = headers.iter().fold(builder, with);
        let sent = detect_connect(|| self.configure(builder, request).send(body));
        self.handle_head(sent, request)
    }

    /// Notes what the head of an answer tells, if there is one.
    fn handle_head(
        &self,
        (sent, connected): (std::result::Result<Response<Body>, ureq::Error>, bool),
        request: &Request<'_>,
    ) -> Result<Response<Body>> {
        let response = sent.map_err(|error| match map_send_error(error) {
            Error::ClosedBeforeResponse(cause) if !connected => Error::StaleConnection(cause),
            other => other,
        })?;
        let headers = response.headers().iter();
        let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        if let Some(family) = profiles::find_by_headers(texts) {
            // The first one stays: there is one upstream.
            let _ = self.detected_profile.set(family);
        }
        if !response.status().is_success() {
            let ids = format_request_ids(response.headers());
            if !ids.is_empty() {
                log::warn!("{} upstream's own ids:{ids}", request.request_id);
            }
        }
        Ok(response)
    }

    /// Sets what differs from most requests.
    fn configure<B>(
        &self,
        builder: ureq::RequestBuilder<B>,
        request: &Request<'_>,
    ) -> ureq::RequestBuilder<B> {
        if request.connection_policy == ConnectionPolicy::Reuse && request.timeout == self.timeout {
            return builder;
        }
        let config = builder
            .config()
            .timeout_recv_response(Some(request.timeout))
            .timeout_per_read(Some(request.timeout));
        match request.connection_policy {
            ConnectionPolicy::Reuse => config,
            // All of them are older.
            ConnectionPolicy::Fresh => config.max_idle_age(Duration::ZERO),
            // ureq's pool lends to nobody whose buffers have another size.
            ConnectionPolicy::Dedicated => config.output_buffer_size(BUFFER_BYTES + 1),
        }
        .build()
    }

    fn add_headers<B>(
        &self,
        builder: ureq::RequestBuilder<B>,
        request: &Request<'_>,
    ) -> ureq::RequestBuilder<B> {
        let builder = builder.header("x-request-id", request.request_id);
        match request.key {
            // What is signed by Azure's directory is no key (openai-wire.md 1.2).
            Some(key) if request.azure_key_header && !key.expose().starts_with("eyJ") => {
                builder.header("api-key", key.expose())
            }
            Some(key) => builder.header("authorization", format!("Bearer {}", key.expose())),
            None => builder,
        }
    }
}

/// Passes a good head on; turns any other into an error, with what its body says. What it says of a
/// request that was refused is left in `refusal`, too, for those who can mend the request, and logged
/// where bodies are.
pub(in crate::upstream) fn check_status(
    response: Response<Body>,
    hint: &FailureHint<'_>,
    redactor: &Redactor,
    (refusal, tap): (&mut Option<ErrorDetails>, Option<&BodyLogger>),
) -> Result<Response<Body>> {
    let status = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let body = read_error_body(response, MAX_ERROR_BODY_BYTES);
    if let Some(tap) = tap {
        tap.log("error of the upstream", &body);
    }
    *refusal = errors::parse_rejection(status, &body);
    Err(error_from_head(status, &headers, &body, hint, redactor))
}

/// What a head that is no good one means, with what its body says.
pub(in crate::upstream) fn error_from_head(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    hint: &FailureHint<'_>,
    redactor: &Redactor,
) -> Error {
    let text = |name: &str| header(headers, name);
    let delay =
        retry_after::parse_retry_after(text("retry-after"), text("retry-after-ms"), hint.now);
    let should_retry = match text("x-should-retry") {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    let hints = RetryHints { retry_after: delay, should_retry };
    let method_and_path = format!("{} {}", hint.method, url_path(hint.url));
    let request = RequestSummary { method_and_path: &method_and_path, model: hint.model };
    errors::to_error(status, body, hints, request, redactor)
}

/// A header's value, where it is plain text.
pub(in crate::upstream) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The ids among the headers, ready to be logged. What is no id is left out.
fn format_request_ids(headers: &HeaderMap) -> String {
    let is_id = |id: &&str| !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains(' ');
    let known = REQUEST_ID_HEADERS
        .iter()
        .filter_map(|name| Some((name, header(headers, name).filter(is_id)?)));
    known.map(|(name, id)| format!(" {name}={id}")).collect()
}

/// Reads what there is of an error's body; what fails on the way is no second error.
pub(in crate::upstream) fn read_error_body(response: Response<Body>, most: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let mut reader = response.into_body().into_reader();
    let _ = ReadDeadline::new(ERROR_BODY_TIMEOUT).read_to_end(&mut reader, (most, None), &mut body);
    body
}

/// The path of a URL, for messages: no host, no query.
fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or(path)
}

/// A failure before the head of the answer.
fn map_send_error(error: ureq::Error) -> Error {
    if cancel::is_cancelled() {
        return Error::client_disconnected();
    }
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Error::UpstreamTimeout { phase: TimeoutPhase::Connect }
        }
        ureq::Error::Timeout(_) => Error::UpstreamTimeout { phase: TimeoutPhase::Head },
        ureq::Error::HostNotFound => Error::Connect { reason: "no such host".into() },
        ureq::Error::Io(error) => map_io_error(error),
        ureq::Error::Rustls(error) => Error::Connect { reason: format!("TLS: {error}") },
        ureq::Error::Tls(reason) => Error::Connect { reason: format!("TLS: {reason}") },
        ureq::Error::ConnectProxyFailed(_) => {
            Error::Connect { reason: "the HTTP proxy refused the connection".into() }
        }
        ureq::Error::ConnectionFailed => Error::Connect { reason: "connection failed".into() },
        ureq::Error::LargeResponseHeader(..) => {
            Error::upstream_protocol("a head that is too large")
        }
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => {
            Error::upstream_protocol("something that is not HTTP")
        }
        _ => Error::Internal("the request could not be made"),
    }
}

fn map_io_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => Error::ClosedBeforeResponse(Box::new(error)),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Error::UpstreamTimeout { phase: TimeoutPhase::Connect }
        }
        kind => Error::Connect { reason: describe_io_error(kind, &error.to_string()) },
    }
}

/// Why no connection was made: the kind of error, unless its text says more and no more than it may.
fn describe_io_error(kind: io::ErrorKind, text: &str) -> String {
    match text.strip_prefix(DNS_ERROR_PREFIX) {
        Some(why) => format!("its name was not found: {}", why.trim_start_matches(": ")),
        // What rustls finds wrong in a handshake.
        None if kind == io::ErrorKind::InvalidData => format!("TLS: {text}"),
        None => kind.to_string(),
    }
}

/// Whether the end of a body is one: where the request was cancelled, we have ended it.
///
/// # Errors
/// [`Error::ClientDisconnected`].
pub(in crate::upstream) fn check_cancelled() -> Result<()> {
    if cancel::is_cancelled() { Err(Error::client_disconnected()) } else { Ok(()) }
}

/// A failure while the body is read.
pub(in crate::upstream) fn map_body_error(error: io::Error) -> Error {
    if cancel::is_cancelled() {
        return Error::client_disconnected();
    }
    match ureq::Error::from(error) {
        ureq::Error::Timeout(_) => Error::UpstreamTimeout { phase: TimeoutPhase::Body },
        ureq::Error::Io(_) => Error::IncompleteStream,
        _ => Error::upstream_protocol("a body that is not HTTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_path_and_nothing_else_of_a_url() {
        assert_eq!(url_path("https://h:1/v1/models?api-version=2"), "/v1/models");
        assert_eq!(url_path("http://h"), "/");
    }

    #[test]
    fn what_a_library_says_is_told_and_of_the_system_its_kind() {
        let told = |error| map_io_error(error).to_string();
        let tls = io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate");
        assert!(told(tls).contains("invalid peer certificate"));
        // 101 is ENETUNREACH.
        assert!(told(io::Error::from_raw_os_error(101)).contains("network unreachable"));
    }

    #[test]
    fn ids_of_the_upstream_are_found_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("cf-ray", "8a-FRA"), ("x-request-id", "req_1"), ("server", "x")] {
            headers.insert(name, value.parse().expect("a value"));
        }
        headers.insert("x-generation-id", "no id at all".parse().expect("a value"));
        headers.insert("apim-request-id", "x".repeat(MAX_ID_BYTES + 1).parse().expect("a value"));
        assert_eq!(format_request_ids(&headers), " x-request-id=req_1 cf-ray=8a-FRA");
        assert_eq!(format_request_ids(&HeaderMap::new()), "");
    }
}
