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

use ureq::Error;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    ShutdownHandle, Transport,
};

use super::tcp::TcpConnector;
use super::workarounds::{note_connect, read_timeout, resolve_deferred};
use crate::net::cancel;
use crate::net::cancel::{CancellationToken, Hook};

/// Makes connections of any kind.
type BoxedConnector = Box<dyn Connector<(), Out = Box<dyn Transport>>>;

/// ureq's own connectors around our sockets. Connections without TLS have a chain of their own,
/// because the other chain takes 10 KiB more of a worker's stack.
#[derive(Debug)]
pub(super) struct CancellableConnector {
    plain: BoxedConnector,
    tls: BoxedConnector,
    resolver: DefaultResolver,
}

impl Default for CancellableConnector {
    fn default() -> Self {
        let socket = || ().chain(ConnectProxyConnector::default()).chain(TcpConnector);
        let plain = Box::new(socket().chain(BoxingConnector));
        let tls = Box::new(socket().chain(RustlsConnector::default()).chain(BoxingConnector));
        Self { plain, tls, resolver: DefaultResolver::default() }
    }
}

/// Gives all kinds of connections one type.
#[derive(Debug)]
struct BoxingConnector;

impl<In: Transport> Connector<In> for BoxingConnector {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|transport| Box::new(transport) as Box<dyn Transport>))
    }
}

impl Connector<()> for CancellableConnector {
    type Out = CancellableTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
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
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: resolve_deferred(&self.resolver, details)?,
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
        let connector = if details.needs_tls() { &self.tls } else { &self.plain };
        let inner = connector.connect(&details, chained)?;
        Ok(inner.map(|inner| CancellableTransport { inner, hook, cancel_id: 0 }))
    }
}

/// A connection that its request can be cancelled on.
pub(super) struct CancellableTransport {
    inner: Box<dyn Transport>,
    hook: Hook,
    /// The token that holds the hook; 0 for none.
    cancel_id: u64,
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
        self.inner.await_input(timeout)
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
