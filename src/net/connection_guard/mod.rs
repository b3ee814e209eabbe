//! Watches over the connections, which tiny_http does not: what nginx would do in front, done inside.
//!
//! tiny_http starts a thread for each connection, reads heads of any length for any time and never
//! ends a connection that is silent; and while we wait for the upstream nothing tells that the client
//! has left. So one thread, the guard, looks at all accepted sockets again and again: what the kernel
//! knows of each (`socket`) and what we have in hand for it ([`registry`]) decides ([`rules`])
//! whether it is shut down, which ends whatever thread waits on it.
//!
//! It looks some fifty times a second, less often when a look takes long, so that it takes no more
//! than some 2 % of a core (`pace`), unless there is a crowd that asks nothing. A connection costs it
//! some microseconds.
//!
//! **A client that has left** is one whose connection was reset. One that has only finished sending
//! (`SentAll`) may still read: as long as nothing of its answer is out, it is sent the first byte of
//! it, which is the same for every answer; between two chunks a zero that the next chunk's length may
//! well begin with. The kernel of a client that is gone answers either with a reset.
//!
//! Never reads from a connection. On other systems than Linux there is no guard, and the log says so.

#[cfg(target_os = "linux")]
mod fd_range;
pub mod registry;
pub mod rules;
#[cfg(target_os = "linux")]
mod scan_interval;
#[cfg(target_os = "linux")]
mod scanner;
#[cfg(target_os = "linux")]
mod socket;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub use self::registry::{
    InFlight, Registry, Rejection, RequestHandle, RequestPhase, ResponseState,
};
pub use self::rules::{CutReason, Limits};

/// What the guard counts.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicUsize,
    cuts: [AtomicU64; CutReason::ALL.len()],
    disconnects: AtomicU64,
    active_connections: AtomicUsize,
    scans: AtomicU64,
}

impl Counters {
    /// Connections at the last look.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were cut since the start.
    #[must_use]
    pub fn cuts(&self, reason: CutReason) -> u64 {
        self.cuts[reason as usize].load(Ordering::Relaxed)
    }

    /// Connections on which a request was on its way or in hand at the last look. One that is in hand
    /// may not have reached the workers yet, who would count it.
    #[must_use]
    pub fn active_connections(&self) -> usize {
        self.active_connections.load(Ordering::SeqCst)
    }

    /// How many looks there were since the start.
    #[must_use]
    pub fn scans(&self) -> u64 {
        self.scans.load(Ordering::SeqCst)
    }

    /// Requests whose client left before the end of the answer, since the start.
    #[must_use]
    pub fn disconnects(&self) -> u64 {
        self.disconnects.load(Ordering::Relaxed)
    }
}

/// What one look found, for those who have to do something about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Connections.
    pub connections: usize,
    /// Requests that wait for more of their body.
    pub stalled_requests: usize,
    cuts: [u64; CutReason::ALL.len()],
}

impl ScanReport {
    /// How many connections were cut, for each reason for which some were.
    pub fn cuts(&self) -> impl Iterator<Item = (CutReason, u64)> {
        let counts = CutReason::ALL.into_iter().map(|reason| (reason, self.cuts[reason as usize]));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// Called after each look, on the guard's thread.
pub type OnScan = Box<dyn FnMut(&ScanReport) + Send>;

/// The running guard. Dropping it ends it.
pub struct ConnectionGuard {
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
}

impl ConnectionGuard {
    /// Watches over the connections that are accepted on `port`.
    ///
    /// # Errors
    /// Those of a descriptor and a thread of its own.
    #[cfg(target_os = "linux")]
    pub fn start(
        port: u16,
        registry: Arc<Registry>,
        limits: Limits,
        on_scan: OnScan,
    ) -> io::Result<Self> {
        let guard = Self { counters: Arc::default(), stopping: Arc::default() };
        registry.set_guarded();
        let (counters, stopping) = (guard.counters.clone(), guard.stopping.clone());
        let scanner = scanner::Scanner::new(port, registry, limits, counters, on_scan)?;
        std::thread::Builder::new().name("guard".into()).spawn(move || scanner.run(&stopping))?;
        Ok(guard)
    }

    /// Watches over nothing.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn start(_: u16, _: Arc<Registry>, _: Limits, _: OnScan) -> io::Result<Self> {
        log::warn!(
            "no guard over slow or idle connections on this system: put a reverse proxy in front"
        );
        Ok(Self { tally: Arc::default(), stopping: Arc::default() })
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}
