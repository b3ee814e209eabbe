//! One request and the head of its response: ureq's settings, headers and key.
//!
//! The settings avoid measured traps: a status is not an error, because the body says why; redirects
//! are not followed, because a POST would become a GET; silence is bounded and never a whole stream;
//! and as many idle connections are kept as there are workers. The key, or the base URL's password, goes
//! into one header here and is formatted nowhere else. Where clients pass keys of their own, theirs goes
//! into it, except for what all clients share, the model list and what belongs to it: that is asked for with
//! the upstream's own key, if there is one. Invariant: no error names a host, a query or a key.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::Response;
use ureq::http::header::HeaderMap;
use ureq::typestate::WithBody;
use ureq::{Body, RequestBuilder, SendBody};

use super::connector::CancellableConnector;
use super::errors::map_send_error;
use super::headers::AddedHeaders;
use super::key::Key;
use super::read_deadline::ReadDeadline;
use super::tls::TlsConnector;
use super::workarounds::{DeferredResolver, configure_connection, detect_connect};
use super::{BUFFER_BYTES, CONNECT_TIMEOUT, USER_AGENT};
use crate::api::openai::request_body::RequestBody;
use crate::backends::errors::RetryHints;
use crate::backends::profiles;
use crate::backends::retry_after::parse_retry_after;
use crate::error::{Error, Result};
use crate::observe::redact::Secret;
use crate::upstream::basic_auth::BasicAuth;
use crate::upstream::family::Family;
use crate::upstream::proxy::Proxy;
use crate::upstream::{ConnectionPolicy, PassHeaders, RecentFact, Settings, Trace};

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

const CONTENT_TYPE: &str = "content-type";

const JSON: &str = "application/json";

/// ureq's agent with our settings.
pub(in crate::upstream) struct Agent {
    agent: ureq::Agent,
    tls: Arc<TlsConnector>,
    /// The key of the upstream.
    pub(in crate::upstream) key: Key,
    /// The key that the client sent goes up instead.
    passes_client_key: bool,
    /// What the operator adds.
    headers: AddedHeaders,
    /// The key goes into Azure's own header.
    azure_key_header: bool,
    /// What the base URL has before its host.
    basic_auth: Option<BasicAuth>,
    /// The proxy that each request is sent to as it is, and that may answer it.
    http_proxy: Option<Proxy>,
    /// True if it is asked without TLS, and not through a proxy that does.
    is_plain: bool,
    /// Whether the server has responded.
    has_responded: RecentFact,
    /// The timeout of most requests; ureq copies its configuration for any other.
    pub(in crate::upstream) timeout: Duration,
    /// The upstream's family, as its responses name it.
    pub(in crate::upstream) family: Family,
}

/// What is sent.
pub(in crate::upstream) struct Request<'a> {
    /// `GET` or `HEAD` without a body, `POST` or `DELETE` with one.
    pub method: &'static str,
    pub url: String,
    /// Headers of a client whose request is passed on; `None` for JSON of our own.
    pub pass_headers: Option<&'a PassHeaders>,
    pub payload: Payload<'a>,
    /// The longest silence of the upstream.
    pub timeout: Duration,
}

/// The body of a request.
pub enum Payload<'a> {
    /// None.
    Empty,
    /// A request of our own.
    Pieces(&'a RequestBody<'a>),
    /// A body that is passed on.
    Bytes(&'a [u8]),
    /// A body that is passed on while it is read, and so is sent once: this many bytes, or in chunks.
    Stream(&'a mut dyn Read, Option<usize>),
}

impl Agent {
    pub(in crate::upstream) fn new(settings: &Settings) -> Self {
        let connector = CancellableConnector::new(settings);
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
            tls: connector.tls(),
            agent: ureq::Agent::with_parts(builder.build(), connector, DeferredResolver),
            key: Key::new(&settings.server, &settings.redactor),
            passes_client_key: settings.server.pass_client_key,
            headers: AddedHeaders::new(&settings.server.headers),
            azure_key_header: settings.server.base_url.is_azure_versioned(),
            basic_auth: settings.server.base_url.auth().cloned(),
            is_plain: !settings.server.base_url.is_https() && http_proxy.is_none(),
            has_responded: RecentFact::new(settings.learnt_ttl),
            http_proxy,
            timeout,
            family: Family::new(settings.learnt_ttl),
        }
    }

    /// Sends a request and waits for the head of its response, whatever its status.
    pub(in crate::upstream) fn send(
        &self,
        request: &mut Request<'_>,
        trace: &Trace,
        policy: ConnectionPolicy,
    ) -> Result<Response<Body>> {
        let Request { method, url, pass_headers, payload, timeout } = request;
        let pass_headers = *pass_headers;
        let post = || {
            let builder = match *method {
                "DELETE" => self.agent.delete(&*url).force_send_body(),
                _ => self.agent.post(&*url),
            };
            let builder = match pass_headers {
                None => self.add_header(builder, CONTENT_TYPE, JSON),
                Some(headers) => headers.iter().fold(builder, |builder, (name, value)| {
                    let stays = *name == CONTENT_TYPE && value != JSON;
                    if stays {
                        builder.header(*name, value)
                    } else {
                        self.add_header(builder, name, value)
                    }
                }),
            };
            let is_form = pass_headers.is_some_and(|headers| !is_json(headers));
            let builder = self.add_id_and_key(builder, (trace, false));
            self.configure(self.headers.add(builder, !is_form), *timeout, policy)
        };
        let (sent, connected) = detect_connect(|| match payload {
            Payload::Empty => {
                let is_shared = pass_headers.is_none();
                let builder = match *method {
                    "HEAD" => self.agent.head(&*url),
                    _ => self.agent.get(&*url),
                };
                let builder = self.add_id_and_key(builder, (trace, is_shared));
                self.configure(self.headers.add(builder, true), *timeout, policy).call()
            }
            Payload::Bytes(bytes) => post().send(*bytes),
            Payload::Pieces(body) => match body.as_single_piece() {
                Some(bytes) => post().send(bytes),
                None => send_reader(post(), &mut body.reader(), Some(body.len())),
            },
            Payload::Stream(reader, length) => send_reader(post(), reader, *length),
        });
        let response = sent.map_err(|error| match map_send_error(error) {
            Error::ClosedBeforeResponse { .. } if !connected => Error::StaleConnection,
            Error::ClosedBeforeResponse { .. } => Error::ClosedBeforeResponse {
                suggests_tls: self.is_plain && !self.has_responded.is_known(Instant::now()),
            },
            other => other,
        })?;
        self.has_responded.set(1, Instant::now());
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
            self.family.record_head(profile, Instant::now());
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

    /// Adds the request's id, and the keys of the proxy and the upstream; `is_shared` is true for what is
    /// kept for all clients.
    fn add_id_and_key<B>(
        &self,
        builder: RequestBuilder<B>,
        (trace, is_shared): (&Trace, bool),
    ) -> RequestBuilder<B> {
        let builder = self.add_header(builder, "x-request-id", &trace.upstream_request_id);
        let builder = match self.http_proxy.as_ref().and_then(|proxy| proxy.auth.as_ref()) {
            Some(auth) => {
                self.add_header(builder, "proxy-authorization", auth.header_value().expose())
            }
            None => builder,
        };
        let prefers_own = is_shared && (self.key.is_set() || self.basic_auth.is_some());
        let client_key = trace.client_key.as_ref();
        match client_key.filter(|_| self.passes_client_key && !prefers_own) {
            Some(key) => self.add_key(builder, Some(key)),
            None => self.key.with(|key| self.add_key(builder, key)),
        }
    }

    fn add_key<B>(&self, builder: RequestBuilder<B>, key: Option<&Secret>) -> RequestBuilder<B> {
        match (key, &self.basic_auth) {
            // A token of Azure's directory (a JWT) is sent as a bearer token, an API key is not.
            (Some(key), _) if self.azure_key_header && !key.expose().starts_with("eyJ") => {
                self.add_header(builder, "api-key", key.expose())
            }
            (Some(key), _) => {
                self.add_header(builder, "authorization", &format!("Bearer {}", key.expose()))
            }
            (None, Some(auth)) => {
                self.add_header(builder, "authorization", auth.header_value().expose())
            }
            (None, None) => builder,
        }
    }

    /// Adds a header, unless the operator has set one of this name.
    fn add_header<B>(
        &self,
        builder: RequestBuilder<B>,
        name: &'static str,
        value: &str,
    ) -> RequestBuilder<B> {
        if self.headers.contains(name) { builder } else { builder.header(name, value) }
    }

    /// Whether a file that secures its connections holds something else now.
    pub(in crate::upstream) fn has_changed_files(&self) -> bool {
        self.tls.has_changed_files()
    }
}

/// Whether the body of a request that is passed on is JSON.
pub(in crate::upstream) fn is_json(headers: &PassHeaders) -> bool {
    headers.iter().any(|(name, value)| *name == CONTENT_TYPE && value == JSON)
}

/// Sends a body that is not in one piece. Chunks are not accepted by every server, so they are sent only where
/// the length is not known.
fn send_reader(
    builder: RequestBuilder<WithBody>,
    reader: &mut dyn Read,
    length: Option<usize>,
) -> std::result::Result<Response<Body>, ureq::Error> {
    let builder = match length {
        Some(length) => builder.header("content-length", length.to_string()),
        None => builder,
    };
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
    let _ = deadline.read_to_end(&mut reader, (max_bytes, None), &mut body, &mut |_| Ok(()));
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
