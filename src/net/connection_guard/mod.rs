//! Closes connections that are slow, idle or too many, and notices clients that disconnect; tiny_http
//! does neither.
//!
//! tiny_http gives each connection a thread, reads heads of any length for any time, and never closes
//! an idle connection. One thread, the guard, scans all accepted sockets: what the kernel knows of
//! each (`socket`) and which request it has in flight ([`registry`]) decide ([`rules`]) whether the
//! guard shuts it down, which ends the read of the thread that waits on it.
//!
//! A scan costs some microseconds for each connection. The pause after it (`scan_interval`) limits the
//! guard to about 2 % of a core, unless many connections are idle. When nothing has happened for half a
//! second, the guard rests (`rest`): a connection that is accepted, a request that begins, or bytes on
//! an idle connection wake it, and once a second it looks at the connections that it knows. Without any
//! connection the process then wakes up once or twice a second and makes about 10 system calls a second;
//! each idle connection adds 6.
//!
//! **A client has disconnected** if its connection was reset. A client that only finished sending
//! (half-closed) may still read, so the guard sends it a byte: before the response the first byte,
//! which all responses share; between two chunks a zero, which the next chunk length may begin with
//! (RFC 9112 section 7.1). The kernel of a client that is gone replies with a reset.
//!
//! Never reads from a connection. On other systems than Linux there is no guard, and the log says so.
//!
//! # Reasons to close a connection
//!
//! The names are those of the log and of `/metrics` ([`CutReason`]); the limits are [`Limits`].
//!
//! | reason | the connection | default |
//! | --- | --- | --- |
//! | `large_head` | sent more than this without a complete head | 64 KiB |
//! | `slow_head` | takes longer than this for a head, with a body below 1 KiB | 10 s |
//! | `idle` | has had no request for this long; 5 s during shutdown | 75 s |
//! | `slow_body` | sends its body below this rate, after a grace of 10 s | 1 KiB/s |
//! | `slow_body` | takes longer than `REQUEST_TIMEOUT` for its body | 300 s |
//! | `too_many` | is idle while more than `MAX_CONNECTIONS` are open, the oldest first | 1,024 |
//! | `answered` | got `Connection: close` and stays open for this long | 3 s |
//!
//! A body that is too slow gets 408. A connection whose request is being worked on is never closed,
//! however long that takes.
//!
//! # Clients that disconnect
//!
//! When a client closes or resets its connection, its upstream request is cancelled, also before
//! the first byte of the response. A client that has only shut down its sending side gets its whole
//! response. The proxy notices late:
//!
//! - a client that vanishes without FIN or reset: by TCP keep-alive, after about two minutes;
//! - a client that leaves while a host name is resolved or a connection is made (10 s at most
//!   each): only afterwards, and nothing is sent upstream then;
//! - an HTTP/1.0 client in the middle of a stream: at the next write;
//! - a client that reads nothing of its response: after 30 s it counts as gone.
//!
//! A scan follows the last one after 20 ms at the earliest (2 ms while a large head arrives), so a
//! flood can send some MiB before it is cut: 3 to 5 MiB over loopback, from a new connection or one that
//! was idle, whether the guard rested or not. During a rest, a head that begins slowly on an idle
//! connection may be noticed a second late, and an idle connection is closed a second late at most. Where
//! the system has no epoll (`epoll_create1`, `eventfd`), the guard scans all the time.

#[cfg(target_os = "linux")]
mod fd_range;
pub mod registry;
#[cfg(target_os = "linux")]
mod rest;
pub mod rules;
#[cfg(target_os = "linux")]
mod scan_interval;
#[cfg(target_os = "linux")]
mod scanner;
#[cfg(target_os = "linux")]
mod socket;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub use self::registry::{
    InFlight, Registry, Rejection, RequestHandle, RequestPhase, ResponseState,
};
pub use self::rules::{CutReason, Limits};
#[cfg(target_os = "linux")]
use crate::net::arrivals::Arrivals;
use crate::observe::lock::lock;
use crate::observe::system_error;

/// What the guard has counted since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Open connections at the last scan.
    pub connections: usize,
    /// Connections with a request arriving or in flight at the last scan. A request in flight may not
    /// have reached a worker yet.
    pub active_connections: usize,
    /// Scans since the start.
    pub scans: u64,
    /// Requests whose client disconnected before the end of the response, since the start.
    pub disconnects: u64,
    cuts: CutCounts,
}

impl Counters {
    /// Connections closed for this reason since the start.
    pub fn cuts(&self, reason: CutReason) -> u64 {
        self.cuts[reason as usize]
    }
}

/// Closed connections by [`CutReason`].
type CutCounts = [u64; CutReason::ALL.len()];

/// What one scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Open connections.
    pub connections: usize,
    /// Requests that wait for more of their body.
    pub stalled_requests: usize,
    /// Connections with a request arriving or in flight.
    active: usize,
    /// Connections whose request is being answered or waits for it.
    served: usize,
    /// Connections on which nothing happens.
    at_rest: usize,
    /// Whether a head grows that may become too large before the next scan.
    head_growing: bool,
    cuts: CutCounts,
}

impl ScanReport {
    /// The reasons for which connections were closed, and how many.
    pub fn cuts(&self) -> impl Iterator<Item = (CutReason, u64)> {
        let counts = CutReason::ALL.into_iter().map(|reason| (reason, self.cuts[reason as usize]));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// Called after each scan, on the guard's thread.
pub type OnScan = Box<dyn FnMut(&ScanReport) + Send>;

/// The running guard. Dropping it stops its thread.
pub struct ConnectionGuard {
    counters: Arc<Mutex<Counters>>,
    stopping: Arc<AtomicBool>,
    registry: Arc<Registry>,
}

impl ConnectionGuard {
    /// Starts to guard the connections that are accepted on `port`.
    ///
    /// # Errors
    /// If the system refuses a descriptor or the thread.
    #[cfg(target_os = "linux")]
    pub fn start(
        port: u16,
        registry: Arc<Registry>,
        limits: Limits,
        on_scan: OnScan,
    ) -> io::Result<Self> {
        let dup_fd = socket::DupFd::new()?;
        let guard =
            Self { counters: Arc::default(), stopping: Arc::default(), registry: registry.clone() };
        let (counters, stopping) = (guard.counters.clone(), guard.stopping.clone());
        let arrivals = Arrivals::at_port(port);
        let rest = rest::Rest::new();
        match &rest {
            Ok(rest) => {
                let waker = rest.waker();
                arrivals.subscribe(Box::new(move || waker.wake()));
                registry.set_waker(rest.waker());
            }
            Err(error) => log::debug!(
                "the connection guard scans even when nothing happens: {}",
                system_error::describe(error)
            ),
        }
        let scanner = scanner::Scanner::new(port, registry, limits, counters, on_scan);
        let run = move || scanner.run(dup_fd, &arrivals, rest.ok().as_ref(), &stopping);
        std::thread::Builder::new().name("guard".into()).spawn(run)?;
        Ok(guard)
    }

    /// Guards nothing, and logs a warning about it.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn start(_: u16, registry: Arc<Registry>, _: Limits, _: OnScan) -> io::Result<Self> {
        log::warn!(
            "slow and idle connections are not closed on this operating system: \
             put a reverse proxy in front"
        );
        Ok(Self { counters: Arc::default(), stopping: Arc::default(), registry })
    }

    /// The counters as they are now.
    pub fn counters(&self) -> Counters {
        *lock(&self.counters)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.registry.wake_guard();
    }
}
