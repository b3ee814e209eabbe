//! One request and the head of its response: ureq's settings, headers and key.
//!
//! The settings avoid measured traps: a status is not an error, because the body says why; redirects
//! are not followed, because a POST would become a GET; silence is bounded and never a whole stream;
//! and as many idle connections are kept as there are workers. The key, or the base URL's password, goes
//! into one header here and is formatted nowhere else. Invariant: no error names a host, a query or a key.

use std::io::Read;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ureq::http::Response;
use ureq::http::header::HeaderMap;
use ureq::typestate::WithBody;
use ureq::{Body, RequestBuilder, SendBody};

use super::connector::CancellableConnector;
use super::errors::map_send_error;
use super::read_deadline::ReadDeadline;
use super::workarounds::{DeferredResolver, configure_connection, detect_connect};
use super::{BUFFER_BYTES, CONNECT_TIMEOUT, USER_AGENT};
use crate::api::openai::request_body::RequestBody;
use crate::backends::errors::RetryHints;
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::backends::retry_after::parse_retry_after;
use crate::error::{Error, Result};
use crate::observe::redact::Secret;
use crate::upstream::basic_auth::BasicAuth;
use crate::upstream::proxy::Proxy;
use crate::upstream::{ConnectionPolicy, PassHeaders, Settings, Trace};

/// Idle connections older than this are not used again.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);

/// The longest wait for the body of an error.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers with which the operator of an upstream finds a request in its log.
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

/// ureq's agent with our settings.
pub(in crate::upstream) struct Agent {
    agent: ureq::Agent,
    api_key: Option<Secret>,
    /// The key goes into Azure's own header.
    azure_key_header: bool,
    /// What the base URL has before its host.
    basic_auth: Option<BasicAuth>,
    /// The proxy that each request is sent to as it is, and that may answer it.
    http_proxy: Option<Proxy>,
    /// True until the server responds to plain HTTP.
    may_want_tls: AtomicBool,
    /// The timeout of most requests; ureq copies its configuration for any other.
    pub(in crate::upstream) timeout: Duration,
    /// The upstream's family, once the head of a response named it.
    pub(in crate::upstream) detected_profile: OnceLock<&'static Profile>,
}

/// What is sent.
pub(in crate::upstream) struct Request<'a> {
    pub url: String,
    /// Headers of a client whose request is passed on; `None` for JSON of our own.
    pub pass_headers: Option<&'a PassHeaders>,
    pub payload: Payload<'a>,
    /// The longest silence of the upstream.
    pub timeout: Duration,
}

/// The body of a request.
pub enum Payload<'a> {
    /// None; the request is a GET.
    Empty,
    /// A request of our own.
    Pieces(&'a RequestBody<'a>),
    /// A body that is passed on.
    Bytes(&'a [u8]),
    /// A body of this many bytes that is passed on while it is read, and so is sent once.
    Stream(&'a mut dyn Read, usize),
}

impl Agent {
    pub(in crate::upstream) fn new(settings: &Settings) -> Self {
        Self::with_connector(settings, CancellableConnector::new(settings))
    }

    pub(super) fn with_connector(settings: &Settings, connector: CancellableConnector) -> Self {
        let timeout = settings.request_timeout;
        let builder = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("application/json")
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .timeout_per_write(Some(timeout))
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_response_header_size(BUFFER_BYTES)
            .max_idle_connections(settings.workers)
            .max_idle_connections_per_host(settings.workers)
            .max_idle_age(MAX_IDLE_AGE)
            // Our connector knows the proxy; ureq must not read the environment.
            .proxy(None);
        let http_proxy = settings.server.proxy.clone();
        let http_proxy =
            http_proxy.filter(|proxy| proxy.takes_absolute_urls(&settings.server.base_url));
        Self {
            agent: ureq::Agent::with_parts(builder.build(), connector, DeferredResolver),
            api_key: settings.server.api_key.clone(),
            azure_key_header: settings.server.base_url.is_azure_versioned(),
            basic_auth: settings.server.base_url.auth().cloned(),
            may_want_tls: (!settings.server.base_url.is_https() && http_proxy.is_none()).into(),
            http_proxy,
            timeout,
            detected_profile: OnceLock::new(),
        }
    }

    /// Sends a request and waits for the head of its response, whatever its status.
    pub(in crate::upstream) fn send(
        &self,
        request: &mut Request<'_>,
        trace: &Trace,
        policy: ConnectionPolicy,
    ) -> Result<Response<Body>> {
        let Request { url, pass_headers, payload, timeout } = request;
        let pass_headers = *pass_headers;
        let post = || {
            let builder = self.add_id_and_key(self.agent.post(&*url), trace);
            let builder = match pass_headers {
                None => builder.content_type("application/json"),
                Some(headers) => headers
                    .iter()
                    .fold(builder, |builder, (name, value)| builder.header(*name, value)),
            };
            self.configure(builder, *timeout, policy)
        };
        let (sent, connected) = detect_connect(|| match payload {
            Payload::Empty => {
                let builder = self.add_id_and_key(self.agent.get(&*url), trace);
                self.configure(builder, *timeout, policy).call()
            }
            Payload::Bytes(bytes) => post().send(*bytes),
            Payload::Pieces(body) => match body.as_single_piece() {
                Some(bytes) => post().send(bytes),
                None => send_reader(post(), &mut body.reader(), body.len()),
            },
            Payload::Stream(reader, length) => send_reader(post(), reader, *length),
        });
        let response = sent.map_err(|error| match map_send_error(error) {
            Error::ClosedBeforeResponse { .. } if !connected => Error::StaleConnection,
            Error::ClosedBeforeResponse { .. } => Error::ClosedBeforeResponse {
                suggests_tls: self.may_want_tls.load(Ordering::Relaxed),
            },
            other => other,
        })?;
        self.may_want_tls.store(false, Ordering::Relaxed);
        if let Some(proxy) = &self.http_proxy {
            let status = response.status().as_u16();
            if Proxy::is_own_error(status, header_texts(response.headers())) {
                return Err(Error::Connect(proxy.describe_refusal(status)));
            }
        }
        self.note_head(&response, &trace.request_id);
        Ok(response)
    }

    /// Notes the family that a head names, and logs its ids where it is an error.
    fn note_head(&self, response: &Response<Body>, request_id: &str) {
        if let Some(profile) = profiles::find_by_headers(header_texts(response.headers())) {
            // The first one stays: there is one upstream.
            let _ = self.detected_profile.set(profile);
        }
        if !response.status().is_success() {
            let ids = format_request_ids(response.headers());
            if !ids.is_empty() {
                log::warn!("{request_id} upstream request ids:{ids}");
            }
        }
    }

    /// Sets what differs from most requests.
    fn configure<B>(
        &self,
        builder: RequestBuilder<B>,
        timeout: Duration,
        policy: ConnectionPolicy,
    ) -> RequestBuilder<B> {
        if policy == ConnectionPolicy::Reuse && timeout == self.timeout {
            return builder;
        }
        let config =
            builder.config().timeout_recv_response(Some(timeout)).timeout_per_read(Some(timeout));
        configure_connection(config, policy).build()
    }

    fn add_id_and_key<B>(&self, builder: RequestBuilder<B>, trace: &Trace) -> RequestBuilder<B> {
        let builder = builder.header("x-request-id", &trace.upstream_request_id);
        let builder = match self.http_proxy.as_ref().and_then(|proxy| proxy.auth.as_ref()) {
            Some(auth) => builder.header("proxy-authorization", auth.header_value().expose()),
            None => builder,
        };
        match &self.api_key {
            // A token of Azure's directory (a JWT) is sent as a bearer token, an API key is not.
            Some(key) if self.azure_key_header && !key.expose().starts_with("eyJ") => {
                builder.header("api-key", key.expose())
            }
            Some(key) => builder.header("authorization", format!("Bearer {}", key.expose())),
            None => match &self.basic_auth {
                Some(auth) => builder.header("authorization", auth.header_value().expose()),
                None => builder,
            },
        }
    }
}

/// Sends a body that is not in one piece. Its length is known, and chunks are not accepted by every
/// server.
fn send_reader(
    builder: RequestBuilder<WithBody>,
    reader: &mut dyn Read,
    length: usize,
) -> std::result::Result<Response<Body>, ureq::Error> {
    let builder = builder.header("content-length", length.to_string());
    builder.send(SendBody::from_reader(reader))
}

/// What the headers of an error say of a retry.
pub(in crate::upstream) fn retry_hints(headers: &HeaderMap) -> RetryHints {
    let text = |name: &str| header(headers, name);
    let now = SystemTime::now();
    RetryHints {
        retry_after: parse_retry_after(text("retry-after"), text("retry-after-ms"), now),
        should_retry: text("x-should-retry").and_then(|text| text.parse().ok()),
    }
}

/// The headers whose values are plain text.
pub(in crate::upstream) fn header_texts(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
}

/// A header's value, where it is plain text.
pub(in crate::upstream) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The ids among the headers, for the log. Values that cannot be ids are left out.
fn format_request_ids(headers: &HeaderMap) -> String {
    let is_id = |id: &&str| !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains(' ');
    let known = REQUEST_ID_HEADERS
        .iter()
        .filter_map(|name| Some((name, header(headers, name).filter(is_id)?)));
    known.map(|(name, id)| format!(" {name}={id}")).collect()
}

/// Reads at most `max_bytes` of an error's body. Where reading fails, what was read counts.
pub(in crate::upstream) fn read_error_body(response: Response<Body>, max_bytes: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let mut reader = response.into_body().into_reader();
    let mut deadline = ReadDeadline::new(ERROR_BODY_TIMEOUT);
    let _ = deadline.read_to_end(&mut reader, (max_bytes, None), &mut body);
    body
}

/// The path of a URL, for messages: no host, no query.
pub(in crate::upstream) fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or(path)
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
