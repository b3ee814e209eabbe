//! ureq's connections, made to end when we say so.
//!
//! Every transport is wrapped: each of its reads may be bounded tighter than the agent's own bound
//! ([`with_patience`]), and all of its waits end when the request that uses it is cancelled
//! ([`crate::cancel`]), the TLS handshake included. A connection on its way back to ureq's pool is
//! let go of, so that no late sign can hit the next request that uses it.
//! Not cancelled: looking up a name and connecting, during which nothing has been sent yet; both are
//! bounded, and nothing is sent after them either.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, ShutdownHandle, Transport,
};

use crate::cancel::{self, Cancel, Hook};

thread_local! {
    /// A bound on each read of this thread, tighter than the agent's own.
    static PATIENCE: Cell<Option<Duration>> = const { Cell::new(None) };

    /// Whether this thread made a connection since it was last asked.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; whether a connection was made for it, or one was used that had served before.
pub(super) fn connecting<T>(work: impl FnOnce() -> T) -> (T, bool) {
    CONNECTED.set(false);
    (work(), CONNECTED.get())
}

/// Runs `work` with a tighter bound on each read than the agent's own.
pub(super) fn with_patience<T>(patience: Duration, work: impl FnOnce() -> T) -> T {
    /// Takes the bound back, also when `work` panics.
    struct Restore(Option<Duration>);
    impl Drop for Restore {
        fn drop(&mut self) {
            PATIENCE.set(self.0);
        }
    }
    let _restore = Restore(PATIENCE.replace(Some(patience)));
    work()
}

/// ureq's own connector, its connections wrapped.
#[derive(Debug, Default)]
pub(super) struct WatchedConnector(DefaultConnector);

impl Connector<()> for WatchedConnector {
    type Out = WatchedTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        CONNECTED.set(true);
        let socket = Arc::new(Socket::default());
        let hook: Hook = Arc::new({
            let socket = socket.clone();
            move || socket.close()
        });
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: Arc::new({
                let (register, hook) = (details.register_shutdown.clone(), hook.clone());
                move |handle| {
                    socket.is(&handle);
                    // The handshakes that follow can be ended, too.
                    cancel::with_current(|cancel| cancel.hold(&hook));
                    register(handle)
                }
            }),
        };
        let inner = self.0.connect(&details, chained)?;
        Ok(inner.map(|inner| WatchedTransport { inner, hook, user: 0 }))
    }
}

/// What can close a connection under whoever waits for it.
#[derive(Default)]
struct Socket(Mutex<Option<Weak<dyn ShutdownHandle>>>);

impl Socket {
    fn is(&self, handle: &Weak<dyn ShutdownHandle>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
    }

    fn close(&self) {
        let handle = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(handle) = handle.and_then(|handle| handle.upgrade()) {
            handle.shutdown();
        }
    }
}

/// A connection that its request can be cancelled on.
pub(super) struct WatchedTransport {
    inner: Box<dyn Transport>,
    hook: Hook,
    /// The sign that holds the hook; 0 for none.
    user: u64,
}

impl WatchedTransport {
    /// Makes sure that this thread's request holds the connection.
    fn used(&mut self) -> Result<(), Error> {
        let given = cancel::with_current(|cancel| {
            if self.user != cancel.id() {
                cancel.hold(&self.hook);
                self.user = cancel.id();
            }
            cancel.is_given()
        });
        if given == Some(true) {
            return Err(Error::Io(io::ErrorKind::ConnectionAborted.into()));
        }
        Ok(())
    }
}

impl fmt::Debug for WatchedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Transport for WatchedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.used()?;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.used()?;
        let timeout = match PATIENCE.get() {
            Some(patience) => NextTimeout { per_read: Some(patience.into()), ..timeout },
            None => timeout,
        };
        self.inner.await_input(timeout)
    }

    /// ureq asks this before a connection goes into its pool and when it comes out of it.
    fn is_open(&mut self) -> bool {
        cancel::with_current(Cancel::release);
        self.user = 0;
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
            with_patience(Duration::ZERO, || panic!("on purpose"));
        });
        assert!(panicked.is_err());
        assert_eq!(PATIENCE.get(), None);
    }
}
