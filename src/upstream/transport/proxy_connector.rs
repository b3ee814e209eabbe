//! Connections to the upstream through a proxy.
//!
//! To an HTTP proxy, requests for `http://` go with the whole URL, and those for `https://` through a
//! tunnel that `CONNECT` opens (RFC 9110 section 9.3.6), because few proxies open one to another port than
//! 443. SOCKS 5 (RFC 1928) always opens a tunnel. Invariant: what the proxy says is never repeated, and
//! a connection that the proxy refuses is not made without it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ureq::http::Uri;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectionDetails, Transport};
use ureq::{Error, Timeout};

use super::USER_AGENT;
use super::absolute_form::AbsoluteForm;
use super::connect_failure::{connect_failure, is_closed};
use super::errors::describe_io_error;
use super::handshake::Handshake;
use super::socks;
use super::tcp;
use super::workarounds::resolve_deferred;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::proxy::{Protocol, Proxy};

/// What ends the head of a response.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Makes connections through one proxy to one upstream.
pub(super) struct ProxyConnector {
    proxy: Proxy,
    uri: Uri,
    /// The upstream's scheme, host and port, where requests name it.
    origin: Option<Arc<str>>,
    /// The upstream's host and port.
    target: (String, u16),
}

impl ProxyConnector {
    pub(super) fn new(proxy: Proxy, base_url: &BaseUrl) -> Self {
        let uri = format!("http://{proxy}/").parse().expect("host and port were checked");
        let is_absolute = proxy.takes_absolute_urls(base_url);
        let origin = is_absolute.then(|| Arc::from(base_url.origin()));
        let target = (base_url.host().to_owned(), base_url.port());
        Self { proxy, uri, origin, target }
    }

    /// A connection that leads to the upstream.
    pub(super) fn open(
        &self,
        resolver: &DefaultResolver,
        details: &mut ConnectionDetails<'_>,
    ) -> Result<Box<dyn Transport>, Error> {
        let began = Instant::now();
        let addresses = resolve_deferred(resolver, details, &self.uri);
        details.addrs = addresses.map_err(|error| self.describe_failure(error))?;
        let socket = tcp::open(details).map_err(|error| self.describe_failure(error))?;
        if let Some(origin) = &self.origin {
            return Ok(Box::new(AbsoluteForm::new(socket, origin.clone())));
        }
        let mut tunnel = Handshake::new(socket, began, details.timeout);
        let opened = match self.proxy.protocol {
            Protocol::Http => self.connect(&mut tunnel),
            Protocol::Socks5 => {
                let address = resolve_deferred(resolver, details, details.uri)?;
                let address = address.first().map(SocketAddr::ip);
                socks::connect(&mut tunnel, &self.proxy, (&self.target.0, address), self.target.1)
            }
            Protocol::Socks5h => {
                let address = self.target.0.parse::<IpAddr>().ok();
                socks::connect(&mut tunnel, &self.proxy, (&self.target.0, address), self.target.1)
            }
        };
        opened.map_err(|error| self.describe_failure(error))?;
        Ok(Box::new(tunnel.into_socket()))
    }

    /// Asks for a tunnel with `CONNECT`.
    fn connect(&self, tunnel: &mut Handshake) -> Result<(), Error> {
        let (host, port) = &self.target;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let auth = self.proxy.auth.as_ref().map(|auth| auth.header_value().expose());
        let auth = auth.map(|value| format!("Proxy-Authorization: {value}\r\n"));
        let auth = auth.unwrap_or_default();
        tunnel.send(
            format!(
                "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\
                 User-Agent: {USER_AGENT}\r\nProxy-Connection: keep-alive\r\n{auth}\r\n"
            )
            .as_bytes(),
        )?;
        let head = tunnel.receive(|input| {
            let end = input.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END)?;
            Some(end + HEAD_END.len())
        })?;
        match read_status(&head) {
            Some(200..=299) => Ok(()),
            Some(status) => Err(connect_failure(self.proxy.describe_refusal(status))),
            None => Err(self.failure("does not answer like an HTTP proxy")),
        }
    }

    fn failure(&self, what: &str) -> Error {
        connect_failure(format!("the proxy ({}) {what}", self.proxy.variable))
    }

    /// Says of a failure that it concerns the proxy, not the upstream.
    fn describe_failure(&self, error: Error) -> Error {
        match error {
            Error::Timeout(Timeout::Resolve) => {
                self.failure("cannot be reached: the name server does not answer")
            }
            Error::Timeout(_) => self.failure("did not answer in time"),
            Error::HostNotFound => self.failure("cannot be reached: cannot resolve the host name"),
            Error::Io(error) if is_closed(&error) => {
                self.failure("closed the connection without an answer")
            }
            Error::Io(error) => {
                self.failure(&format!("cannot be reached: {}", describe_io_error(&error)))
            }
            error => error,
        }
    }
}

impl fmt::Debug for ProxyConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyConnector({})", self.proxy)
    }
}

/// The status in a response's head.
fn read_status(head: &[u8]) -> Option<u16> {
    let head = std::str::from_utf8(head.get(..12)?).ok()?;
    head.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_answer_is_read() {
        for (head, status) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
            ("HTTP/1.0 407 x\r\n\r\n", Some(407)),
            ("HTTP/1.1 403\r\n\r\n", Some(403)),
            ("HTTP/2 200\r\n\r\n", None),
            ("HTTP/1.1 2x0 OK\r\n\r\n", None),
            ("SSH-2.0-OpenSSH\r\n\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(read_status(head.as_bytes()), status, "{head:?}");
        }
    }
}
