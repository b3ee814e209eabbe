//! Connections that end when their request is cancelled.
//!
//! Each transport is wrapped: its reads may have a tighter bound than the agent's own, and all of its
//! waits, the TLS handshake included, end when the request that uses it is cancelled
//! ([`crate::net::cancel`]). Not cancelled are name lookup and connecting: both are bounded, and
//! nothing has been sent yet. Never decides when to cancel.
//! Invariant: a connection on its way back to ureq's pool is no longer registered, so that a late
//! cancellation cannot hit the next request that uses it.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use ureq::Error;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport,
};

use super::connect_failure::connect_failure;
use super::proxy_connector::ProxyConnector;
use super::tcp;
use super::tls::TlsConnector;
use super::workarounds::{note_connect, read_timeout, resolve_deferred};
use crate::net::cancel;
use crate::net::cancel::{CancellationToken, Hook};
use crate::upstream::Settings;

/// The longest beginning of a head or a frame whose end is waited for, in bytes: a head has 16 KiB at most.
const MAX_INCOMPLETE_BYTES: usize = 64 * 1024;

/// How a record with a TLS alert begins: its type, and the first part of the version (RFC 8446 section
/// 5.1).
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// Makes connections to the upstream, through its proxy if it has one.
#[derive(Debug)]
pub(super) struct CancellableConnector {
    proxy: Option<ProxyConnector>,
    tls: Arc<TlsConnector>,
    resolver: DefaultResolver,
}

impl CancellableConnector {
    pub(super) fn new(settings: &Settings) -> Self {
        let base_url = &settings.server.base_url;
        let proxy = settings.server.proxy.clone().map(|proxy| ProxyConnector::new(proxy, base_url));
        let tls = Arc::new(TlsConnector::new(settings.server.tls.clone()));
        Self { proxy, tls, resolver: DefaultResolver::default() }
    }

    /// What makes its TLS connections.
    pub(super) fn tls(&self) -> Arc<TlsConnector> {
        self.tls.clone()
    }

    /// A connection on which requests can be sent.
    fn open(&self, details: &mut ConnectionDetails<'_>) -> Result<Box<dyn Transport>, Error> {
        let (began, timeout) = (Instant::now(), details.timeout);
        let socket = match &self.proxy {
            Some(proxy) => proxy.open(&self.resolver, details)?,
            None => {
                details.addrs = resolve_deferred(&self.resolver, details, details.uri)?;
                Box::new(tcp::open(details)?)
            }
        };
        if details.needs_tls() {
            let after = timeout.after.saturating_sub(began.elapsed()).into();
            self.tls.connect(socket, details, NextTimeout { after, ..timeout })
        } else {
            Ok(socket)
        }
    }
}

impl Connector<()> for CancellableConnector {
    type Out = CancellableTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        note_connect();
        let socket = Arc::new(OnceLock::<Weak<dyn ShutdownHandle>>::new());
        let hook: Hook = Arc::new({
            let socket = socket.clone();
            move || {
                if let Some(socket) = socket.get().and_then(Weak::upgrade) {
                    socket.shutdown();
                }
            }
        });
        let mut details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: &self.resolver,
            // Connecting has all of its time, however long the lookup took.
            now: (details.current_time)(),
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: Arc::new({
                let (register, hook) = (details.register_shutdown.clone(), hook.clone());
                move |handle| {
                    // One connection has one socket.
                    let _ = socket.set(handle.clone());
                    // From here on, so that the handshakes that follow can be cancelled, too.
                    cancel::with_current(|cancel| cancel.register(&hook));
                    register(handle)
                }
            }),
        };
        let expects_plain_http = !details.needs_tls();
        let inner = self.open(&mut details)?;
        Ok(Some(CancellableTransport { inner, hook, cancel_id: 0, expects_plain_http }))
    }
}

/// A connection that its request can be cancelled on.
pub(super) struct CancellableTransport {
    inner: Box<dyn Transport>,
    hook: Hook,
    /// The token that holds the hook; 0 for none.
    cancel_id: u64,
    /// Whether a TLS alert instead of the first response would mean that the server speaks TLS.
    expects_plain_http: bool,
}

impl CancellableTransport {
    /// Makes sure that a cancellation of this thread's request closes this connection.
    fn register_cancel(&mut self) -> Result<(), Error> {
        let cancelled = cancel::with_current(|cancel| {
            if self.cancel_id != cancel.id() {
                cancel.register(&self.hook);
                self.cancel_id = cancel.id();
            }
            cancel.is_cancelled()
        });
        if cancelled == Some(true) {
            return Err(Error::Io(io::ErrorKind::ConnectionAborted.into()));
        }
        Ok(())
    }
}

impl fmt::Debug for CancellableTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Transport for CancellableTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.register_cancel()?;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.register_cancel()?;
        let timeout = match read_timeout() {
            Some(per_read) => NextTimeout { per_read: Some(per_read.into()), ..timeout },
            None => timeout,
        };
        // More is waited for only behind what is not complete: a head, or a frame of the body.
        if self.inner.buffers().input().len() >= MAX_INCOMPLETE_BYTES {
            let what = "a head or a frame that does not end";
            return Err(Error::Io(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        let has_more = self.inner.await_input(timeout)?;
        let is_first = std::mem::take(&mut self.expects_plain_http);
        if is_first && self.inner.buffers().input().starts_with(&TLS_ALERT) {
            return Err(connect_failure("this server speaks TLS; did you mean https://?"));
        }
        Ok(has_more)
    }

    /// ureq calls this before it puts a connection into its pool and when it takes one out.
    fn is_open(&mut self) -> bool {
        cancel::with_current(CancellationToken::unregister);
        self.cancel_id = 0;
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
