//! Starts and stops the server: socket, acceptor, connection guard, workers.
//!
//! The acceptor's threads pass each request to the dispatcher. A graceful stop takes at most
//! `SHUTDOWN_GRACE`: new connections are refused, running responses complete, each open connection
//! is served one more request, and the process ends when nothing has happened for 50 ms. Never
//! decides about a request. Invariant: a connection that the kernel accepted before the stop is
//! served.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::app::dispatcher::{self, Dispatcher, WorkerPools};
use crate::app::key_counts;
use crate::app::reload::Reloader;
use crate::app::shutdown::Shutdown;
use crate::app::start_lines::{self, StartLines};
use crate::config::{Config, ConfigError};
use crate::handlers::App;
use crate::http::access::{AccessControl, Denial};
use crate::http::host_info;
use crate::http::named_keys::KeyBook;
use crate::models::store::Store;
use crate::net::acceptor::{Acceptor, reset_panic};
use crate::net::cancel;
use crate::net::connection_guard::{
    ConnectionGuard, Counters, Limits, OnScan, Registry, ScanReport,
};
use crate::net::limits::SystemLimits;
use crate::net::memory_budget::{MemoryBudget, Relief};
use crate::net::memory_pressure::MemoryPressure;
use crate::net::sys;
use crate::net::worker_pool::Overcommit;
use crate::observe::board::Board;
use crate::observe::logging;
use crate::observe::metrics::Metrics;
use crate::observe::panics;
use crate::observe::plural;
use crate::observe::system_error;
use crate::upstream::RetryEnv;
use crate::upstream::router::Router;

/// Most connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 1024;

/// A client that accepts no data for this long counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle time before exit, so that a request that immediately follows a response is still served.
const QUIET_PERIOD: Duration = Duration::from_millis(50);

/// Consecutive guard scans that must see no active request before exit: two, because the first may
/// have begun before the idle time. Without a guard, none.
const QUIET_SCANS: u64 = if cfg!(target_os = "linux") { 2 } else { 0 };

/// Longest wait for the acceptor to close, and for the scans of the guard.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which the shutdown checks for active requests.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What follows the error for a port that is taken.
const IN_USE_HINT: &str = "\nis Ollama running? Stop it, or choose another port with --port";

/// The same for an address of another machine.
const FOREIGN_HINT: &str =
    "\nthis machine does not have that address: check OLLAMA_HOST (0.0.0.0 is all interfaces)";

/// The same for a port that needs rights.
const LOW_PORT_HINT: &str =
    "\nports below 1024 need special rights: choose another port with --port";
const FIRST_FREE_PORT: u16 = 1024;

/// The same for a name without an address.
const NAME_HINT: &str = "\ncheck OLLAMA_HOST: the address to listen on";

/// A running server.
pub struct Server {
    acceptor: Acceptor,
    dispatcher: Arc<Dispatcher>,
    guard: ConnectionGuard,
    shutdown: Shutdown,
    grace: Duration,
    reloader: Reloader,
}

impl Server {
    /// Binds the address and starts all threads. The server runs until [`Server::drain`].
    ///
    /// # Errors
    /// If the state file cannot be read, the address cannot be bound, or a thread cannot be started.
    pub fn start(config: Config, shutdown: Shutdown) -> io::Result<Self> {
        let sleep_shutdown = shutdown.clone();
        let retry_env = RetryEnv {
            sleep: Box::new(move |duration| sleep(&sleep_shutdown, duration)),
            jitter: Box::new(rand::random::<f64>),
        };
        Self::start_with(config, shutdown, retry_env)
    }

    /// Like [`Server::start`], with the given sleep and jitter for retries.
    ///
    /// # Errors
    /// Those of [`Server::start`].
    pub fn start_with(
        mut config: Config,
        shutdown: Shutdown,
        retry_env: RetryEnv,
    ) -> io::Result<Self> {
        panics::count_as_reset(reset_panic::is_reset);
        let (system_limits, started_with) = (SystemLimits::detect(), config.clone());
        if system_limits.is_small() {
            sys::disable_huge_pages();
        }
        let max_connections = config.connection_limits.max_connections;
        (config.workers, config.connection_limits.max_connections) =
            system_limits.fit(config.workers, max_connections);
        let store = Store::open(config.state_file.clone()).map_err(io::Error::other)?;
        store.claim();
        let (host, port) = config.listen_addr();
        let listener =
            bind(&host, port).map_err(|error| listen_error(&config.host, port, &error))?;
        let (origins, keys) = (config.origins.clone(), config.proxy_api_keys.clone());
        let listen_address = listener.local_addr()?.ip();
        let named_keys = KeyBook::default();
        let named = named_keys.apply(&keys);
        let access = AccessControl::new(origins, keys, listen_address, host_info::detect())
            .with_named_keys(named);
        let (workers, queue, grace) = (config.workers, config.max_queue, config.shutdown_grace);
        let registry = Registry::new(config.max_per_client, cfg!(target_os = "linux"));
        let limits = Limits { body_timeout: config.request_timeout, ..config.connection_limits };
        let redactor = config.redactor();
        let board = Board::new(redactor.clone(), Instant::now());
        let metrics = Metrics::new(workers, queue, &Denial::WORDS).with_board(board);
        let metrics = Arc::new(metrics);
        let upstreams = config.upstream_settings(&redactor);
        let retry_env = Arc::new(retry_env);
        let max_held = limits.max_held_memory.unwrap_or_else(|| system_limits.max_held_memory());
        let memory_pressure = MemoryPressure::detect();
        let memory_budget = MemoryBudget::with_pressure(max_held, Some(memory_pressure.clone()));
        // What begins in the background counts, too.
        let router = memory_budget
            .scope(|| Router::new(upstreams, config.models.clone(), (&retry_env, &metrics), None));
        let settings = config.handler_settings(system_limits.max_kept_bytes());
        let mut app = App::new(settings, router, store, metrics.clone(), SystemTime::now());
        app.keys = named_keys;
        let app = Arc::new(app);
        key_counts::start(&app);
        let reloader = Reloader {
            app: app.clone(),
            retry_env,
            redactor,
            listen_address,
            workers,
            started_with,
            turn: Mutex::default(),
        };
        memory_budget.set_relief(relief(&app));
        let pools = WorkerPools::start(workers, queue, app.clone())?;
        let memory = (memory_pressure.clone(), app);
        let on_scan = on_scan(pools.overcommit(), memory, metrics.clone());
        let guard = ConnectionGuard::start(
            listener.local_addr()?.port(),
            registry.clone(),
            limits,
            on_scan,
        )?;
        let (pools, access) = (RwLock::new(Some(pools)), RwLock::new(Arc::new(access)));
        let refusals = dispatcher::start_refusals(config.connection_limits.max_connections)?;
        let dispatcher = Arc::new(Dispatcher {
            access,
            registry,
            metrics,
            memory_budget,
            memory_pressure,
            pools,
            refusals,
            wrong_keys: Mutex::default(),
        });
        let request_dispatcher = dispatcher.clone();
        let acceptor = Acceptor::start(
            listener,
            Arc::new(move |request| request_dispatcher.dispatch(request)),
        )?;
        Ok(Self { acceptor, dispatcher, guard, shutdown, grace, reloader })
    }

    /// The counters of the connection guard.
    pub fn counters(&self) -> Counters {
        self.guard.counters()
    }

    /// Bytes of memory that requests, answers and kept state have reserved.
    pub fn held_memory(&self) -> usize {
        self.dispatcher.memory_budget.used()
    }

    /// The listening address.
    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// Tells that the server listens: a person on a terminal in five lines, anyone else in one of the log.
    pub fn announce(&self, start: &StartLines) {
        let address = self.local_addr();
        if logging::is_for_people() {
            let models = start_lines::count_models(&self.reloader.app.router());
            logging::print(&start.lines(address, &models));
        } else {
            log::info!("{}", start.log_line(address));
        }
    }

    /// Requests that run or are queued.
    pub fn active_requests(&self) -> usize {
        self.dispatcher.active_requests()
    }

    /// Applies another configuration to requests from now on. What only a restart can change is named in
    /// a warning.
    pub fn reload(&self, config: Config) {
        self.reloader.reload(config, &self.dispatcher);
    }

    /// Logs why a configuration is not applied, and counts that.
    pub fn reject_reload(&self, error: &ConfigError) {
        self.reloader.reject(error);
    }

    /// Waits for the shutdown signal, and drains. `false` if some responses were cut off.
    #[must_use]
    pub fn run(self) -> bool {
        self.shutdown.wait();
        self.drain()
    }

    /// The same; calls `reload` for each message that comes before the signal.
    #[must_use]
    pub fn run_with_reloads(self, messages: &Receiver<()>, reload: fn(&Self)) -> bool {
        while self.shutdown.wait_or(messages) {
            reload(&self);
        }
        self.drain()
    }

    /// Refuses new connections, serves each open one once more, and waits for running requests, all
    /// within the grace period. `false` if some responses were cut off.
    #[must_use]
    pub fn drain(self) -> bool {
        let began = Instant::now();
        self.shutdown.trigger();
        self.dispatcher.begin_shutdown();
        let active = self.dispatcher.active_requests();
        log::info!("shutting down: waiting for {}", plural::count(active, "request"));
        self.acceptor.close(CLOSE_TIMEOUT.min(self.grace));
        self.wait_until_idle(began);
        self.acceptor.stop();
        let left = self.grace.saturating_sub(began.elapsed());
        let is_drained = self.dispatcher.close().is_none_or(|pools| pools.drain(left));
        key_counts::save(&self.reloader.app);
        is_drained
    }

    /// Waits until no request is active, at most for the grace period.
    fn wait_until_idle(&self, drain_started: Instant) {
        let mut idle_since = (Instant::now(), self.guard.counters().scans);
        while drain_started.elapsed() < self.grace {
            let has_requests = self.dispatcher.active_requests() > 0;
            let counters = self.guard.counters();
            if has_requests || counters.active_connections > 0 {
                idle_since = (Instant::now(), counters.scans);
            }
            let (idle, scans) = (idle_since.0.elapsed(), counters.scans - idle_since.1);
            if idle >= QUIET_PERIOD && (scans >= QUIET_SCANS || idle >= CLOSE_TIMEOUT) {
                return;
            }
            thread::sleep(IDLE_POLL_INTERVAL);
        }
    }
}

/// What happens after each scan of the guard: slots and memory are checked, and metrics updated.
fn on_scan(
    overcommit: Overcommit,
    (memory_pressure, app): (Arc<MemoryPressure>, Arc<App>),
    metrics: Arc<Metrics>,
) -> OnScan {
    Box::new(move |report: &ScanReport| {
        overcommit.update(report.stalled_requests);
        memory_pressure.update();
        app.free_memory(memory_pressure.is_high());
        metrics.connections.set(report.connections);
        report
            .cuts()
            .for_each(|(reason, count)| metrics.connections_cut.add(reason.as_str(), count));
    })
}

/// Frees what is kept for later requests.
fn relief(app: &Arc<App>) -> Relief {
    let app = Arc::downgrade(app);
    Box::new(move |bytes| app.upgrade().iter().for_each(|app| app.free_kept(bytes)))
}

/// Sleeps; `false` if the shutdown signal or the client's disconnect ended the sleep.
fn sleep(shutdown: &Shutdown, duration: Duration) -> bool {
    let mut left = duration;
    loop {
        let nap = left.min(cancel::POLL_INTERVAL);
        if cancel::is_cancelled() || !shutdown.sleep(nap) {
            return false;
        }
        left -= nap;
        if left.is_zero() {
            return true;
        }
    }
}

/// Opens the listening socket. On Linux, accepted sockets inherit its options.
fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    bind_first(host, port, |address| {
        let socket = bind_address(address)?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(socket.into())
    })
}

/// Whether the server could listen on its address now; does not listen.
///
/// # Errors
/// As [`Server::start`] for an address that cannot be bound.
pub(super) fn check_listen_address(config: &Config) -> io::Result<()> {
    let (host, port) = config.listen_addr();
    let bound = bind_first(&host, port, |address| bind_address(address).map(drop));
    bound.map_err(|error| listen_error(&config.host, port, &error))
}

/// Binds the first of a host's addresses that can be bound.
fn bind_first<T>(
    host: &str,
    port: u16,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    if host == "::" {
        // All interfaces, also without IPv6.
        addresses.push(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    // Like Go, IPv4 before IPv6 if a name has both.
    let (first, last): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| host == "::" || address.is_ipv4());
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in first.into_iter().chain(last) {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The error in the words of Go's `net.Listen`, which Ollama prints, with a hint.
fn listen_error(host: &str, port: u16, error: &io::Error) -> io::Error {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let reason = match system_error::system_text(error) {
        Some(text) => format!("bind: {text}"),
        None => system_error::describe(error),
    };
    let hint = listen_hint(port, error);
    io::Error::new(error.kind(), format!("listen tcp {host}:{port}: {reason}{hint}"))
}

/// What to do about an address that cannot be bound, on a line of its own.
fn listen_hint(port: u16, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => IN_USE_HINT,
        io::ErrorKind::AddrNotAvailable => FOREIGN_HINT,
        io::ErrorKind::PermissionDenied if port < FIRST_FREE_PORT => LOW_PORT_HINT,
        _ if error.raw_os_error().is_none() => NAME_HINT,
        _ => "",
    }
}

/// Detects within two minutes that a client's machine is gone.
fn tcp_keepalive() -> TcpKeepalive {
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(60));
    #[cfg(unix)]
    let probes = probes.with_interval(Duration::from_secs(15)).with_retries(4);
    probes
}

fn bind_address(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // On Windows this option would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&tcp_keepalive())?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_error_has_go_s_words() {
        let check = |host: &str, error: io::Error, expected: &str| {
            let found = listen_error(host, 80, &error);
            assert_eq!((found.kind(), found.to_string().as_str()), (error.kind(), expected));
        };
        let denied = || io::Error::from_raw_os_error(13);
        let hint = LOW_PORT_HINT;
        check(
            "1.2.3.4",
            denied(),
            &format!("listen tcp 1.2.3.4:80: bind: permission denied{hint}"),
        );
        check("::1", denied(), &format!("listen tcp [::1]:80: bind: permission denied{hint}"));
        check("", denied(), &format!("listen tcp :80: bind: permission denied{hint}"));
        check("h", io::Error::from_raw_os_error(5), "listen tcp h:80: bind: input/output error");
    }

    #[test]
    fn a_listen_error_says_what_to_do() {
        let told = |error: io::Error, port| listen_error("h", port, &error).to_string();
        let system = io::Error::from_raw_os_error;
        let lookup = "failed to lookup address information: Name or service not known";
        for (error, port, hint) in [
            (system(98), 11434, IN_USE_HINT),
            (system(99), 11434, FOREIGN_HINT),
            (system(13), 80, LOW_PORT_HINT),
            (io::Error::other(lookup), 80, NAME_HINT),
            (system(13), 11434, "permission denied"),
        ] {
            assert!(told(error, port).ends_with(hint), "{hint}");
        }
        let name = told(io::Error::other(lookup), 80);
        assert!(name.contains("h:80: cannot resolve the host name: no such name"), "{name}");
    }
}
