//! The ways around ureq: what it has no setting for, and how the settings it has give it all the same.
//!
//! | wanted | ureq 3.5 | here |
//! | --- | --- | --- |
//! | a deadline for one read of a body | `timeout_per_read` belongs to the request and cannot change | [`with_read_timeout`]: a thread-local that [`read_timeout`] gives to our transport |
//! | the bytes that have arrived, without waiting | a body reader always blocks | [`without_blocking`]: a thread-local that makes our transport fail with `WouldBlock` |
//! | a read that ends without failing the call | a timeout fails the call | [`waking_at`]: a thread-local that makes our transport fail with `WouldBlock` at a time |
//! | whether a call used a pooled connection | not reported | [`detect_connect`]: a thread-local that our connector sets |
//! | a connection outside the pool, or a new one for a resend | the pool has no switch | [`configure_connection`]: settings that no pooled connection meets |
//! | a proxy for plain HTTP | tunnels through it, which most proxies refuse for other ports than 443 | [`AbsoluteForm`](super::absolute_form::AbsoluteForm): writes the upstream's origin into the request line |
//! | no name lookup for a pooled connection | resolves before each call, on a new thread | [`DeferredResolver`]: a placeholder address that our connector resolves |
//!
//! The thread-locals work because ureq runs a call, and reads its body, on the thread that asks for it.
//! Never reads, writes or connects itself. Invariant: each thread-local is restored when the work that
//! it is set for ends, also by a panic.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::typestate::RequestScope;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, NextTimeout, time};
use ureq::{Error, Timeout};

use super::{BUFFER_BYTES, CONNECT_TIMEOUT};
use crate::upstream::ConnectionPolicy;

/// The placeholder for an address that has not been looked up; ureq insists on at least one.
const UNRESOLVED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

thread_local! {
    /// A bound on each read of this thread, tighter than the agent's own.
    static READ_TIMEOUT: Cell<Option<Duration>> = const { Cell::new(None) };

    /// Whether this thread reads only what has arrived.
    static NONBLOCKING: Cell<bool> = const { Cell::new(false) };

    /// When a read of this thread stops waiting.
    static WAKE_AT: Cell<Option<Instant>> = const { Cell::new(None) };

    /// Whether this thread has made a connection since [`detect_connect`] reset it.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with a thread-local set to `value`, and restores it afterwards.
fn scoped<V: Copy + 'static, T>(
    key: &'static LocalKey<Cell<V>>,
    value: V,
    work: impl FnOnce() -> T,
) -> T {
    struct Restore<V: Copy + 'static>(&'static LocalKey<Cell<V>>, V);
    impl<V: Copy + 'static> Drop for Restore<V> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(key, key.replace(value));
    work()
}

/// Runs `work` with a tighter bound on each read than the agent's own.
pub(in crate::upstream) fn with_read_timeout<T>(timeout: Duration, work: impl FnOnce() -> T) -> T {
    scoped(&READ_TIMEOUT, Some(timeout), work)
}

/// The bound on this thread's next read, where it is tighter than the agent's own.
pub(super) fn read_timeout() -> Option<Duration> {
    READ_TIMEOUT.get()
}

/// Runs `work`, in which a read that would have to ask the socket fails with `WouldBlock` instead.
/// Such a failure loses no byte: the next read continues at the same place.
pub(in crate::upstream) fn without_blocking<T>(work: impl FnOnce() -> T) -> T {
    scoped(&NONBLOCKING, true, work)
}

/// Whether this thread reads only what has arrived.
pub(super) fn is_nonblocking() -> bool {
    NONBLOCKING.get()
}

/// Runs `work`, in which a read that waits until `at` fails with `WouldBlock` then. Such a failure loses no
/// byte, either.
pub(in crate::upstream) fn waking_at<T>(at: Instant, work: impl FnOnce() -> T) -> T {
    scoped(&WAKE_AT, Some(at), work)
}

/// When this thread's next read stops waiting, if it does before its timeout.
pub(super) fn wake_at() -> Option<Instant> {
    WAKE_AT.get()
}

/// Runs `work`, and returns whether it made a connection; otherwise it used a pooled one.
pub(super) fn detect_connect<T>(work: impl FnOnce() -> T) -> (T, bool) {
    CONNECTED.set(false);
    (work(), CONNECTED.get())
}

/// Notes a new connection for [`detect_connect`].
pub(super) fn note_connect() {
    CONNECTED.set(true);
}

/// Sets which connections of the pool a request may use.
pub(super) fn configure_connection<B>(
    config: ConfigBuilder<RequestScope<B>>,
    policy: ConnectionPolicy,
) -> ConfigBuilder<RequestScope<B>> {
    match policy {
        ConnectionPolicy::Reuse => config,
        // Every pooled connection is older, and ureq closes those that are too old.
        ConnectionPolicy::Fresh => config.max_idle_age(Duration::ZERO),
        // ureq gives out a pooled connection only for the buffer sizes that it was made with.
        ConnectionPolicy::Dedicated => config.output_buffer_size(BUFFER_BYTES + 1),
    }
}

/// Looks no name up: a pooled connection needs no address, and the connector resolves for a new one.
#[derive(Debug)]
pub(super) struct DeferredResolver;

impl Resolver for DeferredResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(UNRESOLVED);
        Ok(addresses)
    }
}

/// The addresses of a URL's host, which [`DeferredResolver`] did not look up.
pub(super) fn resolve_deferred(
    resolver: &DefaultResolver,
    details: &ConnectionDetails<'_>,
    uri: &Uri,
) -> Result<ResolvedSocketAddrs, Error> {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // A literal address needs no lookup, and so no thread that has to be abandoned at a timeout.
    let after = match bare.parse::<IpAddr>() {
        Ok(_) => time::Duration::NotHappening,
        Err(_) => CONNECT_TIMEOUT.into(),
    };
    let timeout = NextTimeout { after, reason: Timeout::Resolve, ..NextTimeout::default() };
    resolver.resolve(uri, details.config, timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_timeout_is_restored_after_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            with_read_timeout(Duration::ZERO, || panic!("on purpose"));
        });
        assert!(panicked.is_err());
        assert_eq!(READ_TIMEOUT.get(), None);
    }
}
