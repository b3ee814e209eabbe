//! ureq's connections, made to end when we say so.
//!
//! Every transport is wrapped: each of its reads may be bounded tighter than the agent's own bound
//! ([`with_read_timeout`]), and all of its waits end when the request that uses it is cancelled
//! ([`crate::net::cancel`]), the TLS handshake included. A connection on its way back to ureq's pool is
//! let go of, so that no late sign can hit the next request that uses it.
//! Not cancelled: looking up a name and connecting, during which nothing has been sent yet; both are
//! bounded, and nothing is sent after them either.

pub(crate) mod agent;
pub(crate) mod buffers;
pub(crate) mod read_deadline;
pub(crate) mod tcp;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use super::transport::tcp::TcpConnector;
use crate::net::cancel;
use crate::net::cancel::{CancellationToken, Hook};
use crate::observe::lock::lock;

/// Connecting, TLS included, takes at most this long, and so does looking up the name before.
pub(in crate::upstream) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Stands for addresses that were not looked up yet. ureq wants some.
const UNRESOLVED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

thread_local! {
    /// A bound on each read of this thread, tighter than the agent's own.
    static READ_TIMEOUT: Cell<Option<Duration>> = const { Cell::new(None) };

    /// Whether this thread made a connection since it was last asked.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };

    /// Whether this thread wants only what has come already.
    static NONBLOCKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, in which a read that would have to ask the socket fails with `WouldBlock` instead. It
/// breaks nothing: the next read goes on where this one stopped.
pub(in crate::upstream) fn without_blocking<T>(work: impl FnOnce() -> T) -> T {
    /// Takes it back, also when `work` panics.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            NONBLOCKING.set(false);
        }
    }
    let _restore = Restore;
    NONBLOCKING.set(true);
    work()
}

/// Whether this thread wants only what has come already.
pub(in crate::upstream) fn is_nonblocking() -> bool {
    NONBLOCKING.get()
}

/// Looks no name up: kept connections need none, and whoever makes a new one looks it up then. (ureq
/// asks before every call, and starts a thread for each question.)
#[derive(Debug)]
pub(in crate::upstream) struct DeferredResolver;

impl Resolver for DeferredResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(UNRESOLVED);
        Ok(addresses)
    }
}

/// Looks up the name of a URI. An address is no name, and needs no thread that can be left behind.
fn resolve_host(
    resolver: &DefaultResolver,
    details: &ConnectionDetails<'_>,
) -> Result<ResolvedSocketAddrs, Error> {
    let host = details.uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let after = match bare.parse::<IpAddr>() {
        Ok(_) => ureq::unversioned::transport::time::Duration::NotHappening,
        Err(_) => CONNECT_TIMEOUT.into(),
    };
    let timeout = NextTimeout { after, reason: Timeout::Resolve, ..NextTimeout::default() };
    resolver.resolve(details.uri, details.config, timeout)
}

/// Does `work`; whether a connection was made for it, or one was used that had served before.
pub(in crate::upstream) fn detect_connect<T>(work: impl FnOnce() -> T) -> (T, bool) {
    CONNECTED.set(false);
    (work(), CONNECTED.get())
}

/// Runs `work` with a tighter bound on each read than the agent's own.
pub(in crate::upstream) fn with_read_timeout<T>(patience: Duration, work: impl FnOnce() -> T) -> T {
    /// Takes the bound back, also when `work` panics.
    struct Restore(Option<Duration>);
    impl Drop for Restore {
        fn drop(&mut self) {
            READ_TIMEOUT.set(self.0);
        }
    }
    let _restore = Restore(READ_TIMEOUT.replace(Some(patience)));
    work()
}

/// Makes connections of whatever kind.
type BoxedConnector = Box<dyn Connector<(), Out = Box<dyn Transport>>>;

/// ureq's own connectors around our sockets, their connections wrapped. Those without TLS have a chain
/// of their own, because the other one takes ten kilobytes more of a worker's stack.
#[derive(Debug)]
pub(in crate::upstream) struct CancellableConnector {
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

/// Makes all kinds of connections one.
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
        CONNECTED.set(true);
        let socket = Arc::new(SocketCloser::default());
        let hook: Hook = Arc::new({
            let socket = socket.clone();
            move || socket.close()
        });
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: match details.addrs.first() {
                Some(&UNRESOLVED) => resolve_host(&self.resolver, details)?,
                // There are none where a proxy is to look the name up.
                _ => details.addrs.clone(),
            },
            config: details.config,
            request_level: details.request_level,
            resolver: &self.resolver,
            // What follows has all its time, however long the name took.
            now: (details.current_time)(),
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: Arc::new({
                let (register, hook) = (details.register_shutdown.clone(), hook.clone());
                move |handle| {
                    socket.set_handle(&handle);
                    // The handshakes that follow can be ended, too.
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

/// What can close a connection under whoever waits for it.
#[derive(Default)]
struct SocketCloser(Mutex<Option<Weak<dyn ShutdownHandle>>>);

impl SocketCloser {
    fn set_handle(&self, handle: &Weak<dyn ShutdownHandle>) {
        *lock(&self.0) = Some(handle.clone());
    }

    fn close(&self) {
        let handle = lock(&self.0).clone();
        if let Some(handle) = handle.and_then(|handle| handle.upgrade()) {
            handle.shutdown();
        }
    }
}

/// A connection that its request can be cancelled on.
pub(in crate::upstream) struct CancellableTransport {
    inner: Box<dyn Transport>,
    hook: Hook,
    /// The sign that holds the hook; 0 for none.
    cancel_id: u64,
}

impl CancellableTransport {
    /// Makes sure that this thread's request holds the connection.
    fn register_cancel(&mut self) -> Result<(), Error> {
        let given = cancel::with_current(|cancel| {
            if self.cancel_id != cancel.id() {
                cancel.register(&self.hook);
                self.cancel_id = cancel.id();
            }
            cancel.is_cancelled()
        });
        if given == Some(true) {
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
        let timeout = match READ_TIMEOUT.get() {
            Some(patience) => NextTimeout { per_read: Some(patience.into()), ..timeout },
            None => timeout,
        };
        self.inner.await_input(timeout)
    }

    /// ureq asks this before a connection goes into its pool and when it comes out of it.
    fn is_open(&mut self) -> bool {
        cancel::with_current(CancellationToken::unregister);
        self.cancel_id = 0;
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_taken_back_after_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            with_read_timeout(Duration::ZERO, || panic!("on purpose"));
        });
        assert!(panicked.is_err());
        assert_eq!(READ_TIMEOUT.get(), None);
    }
}
