//! Builds the program and runs it: socket, acceptor, guard, workers, and the way to the end.
//!
//! Requests come from the acceptor's threads into the `hall`, which hands each to a worker.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::app::dispatcher::{Crews, Hall, Means};
use crate::app::shutdown::Stop;
use crate::config::Config;
use crate::handlers::App;
use crate::http::access::Gate;
use crate::http::host_info;
use crate::http::unread_body;
use crate::models::store::Store;
use crate::net::acceptor::Acceptor;
use crate::net::cancel;
use crate::net::connection_guard::{Guard, Limits, Registry, Sight, Tally};
use crate::net::limits::{Ledger, Pressure, Room};
use crate::observe::metrics::Metrics;
use crate::observe::order;
use crate::upstream::{Client, Pacing};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long a client may take nothing of what it is sent before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing may be going on before the program ends, so that the request that follows an
/// answer at once is still served.
const QUIET: Duration = Duration::from_millis(50);

/// Looks of the guard, if there is one, that must find nothing on its way before the program ends; the
/// first may have begun before.
const QUIET_LOOKS: u64 = if cfg!(target_os = "linux") { 2 } else { 0 };

/// How long the end waits for the acceptor, and for the guard, at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often is looked whether anything is going on.
const PACE: Duration = Duration::from_millis(5);

/// Requests that were let go of (`unread`) before the program begins anew: some 12 MiB.
const MOST_LET_GO: usize = 256;

/// How often it is looked whether memory runs short.
const MEMORY_LOOK: Duration = Duration::from_millis(100);

/// How often a sleeper looks whether its client has left.
const NAP: Duration = Duration::from_millis(200);

/// A running server.
pub struct Server {
    acceptor: Acceptor,
    hall: Arc<Hall>,
    guard: Guard,
    stop: Stop,
    grace: Duration,
}

impl Server {
    /// Binds, starts all threads and serves until `stop` is given and [`Server::drain`] is called.
    ///
    /// # Errors
    /// When the state file cannot be read, the address cannot be bound or the system gives no
    /// threads.
    pub fn start(config: Config, stop: Stop) -> io::Result<Self> {
        let sleeper = stop.clone();
        let pacing = Pacing {
            sleep: Box::new(move |duration| sleep(&sleeper, duration)),
            jitter: Box::new(rand::random::<f64>),
        };
        Self::start_with(config, stop, pacing)
    }

    /// As [`Server::start`], with sleep and randomness of the caller's own.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(config: Config, stop: Stop, pacing: Pacing) -> io::Result<Self> {
        let room = Room::look();
        let config = fitted(config, &room);
        let store = Store::open(config.state.clone()).map_err(io::Error::other)?;
        let (host, port) = config.listen_addr();
        let listener = bind(&host, port).map_err(|error| told(&config.host, port, &error))?;
        let (origins, keys) = (config.origins.clone(), config.proxy_api_keys.clone());
        let gate = Gate::new(origins, keys, listener.local_addr()?.ip(), host_info::this());
        let (workers, queue, grace) = (config.workers, config.max_queue, config.shutdown_grace);
        let registry = Registry::new(config.max_per_client);
        let limits = Limits { body_time: config.request_timeout, ..config.limits };
        let metrics = Arc::new(Metrics::default());
        metrics.has_room_for(workers, queue);
        let client = Client::new(&config, pacing, metrics.clone());
        let app = Arc::new(App::new(config, client, store, SystemTime::now()));
        let crews = Crews::start(workers, queue, &app)?;
        let relief = crews.relief();
        let counted = metrics.clone();
        let (mut memory, short) = (Memory::new(), Arc::new(AtomicBool::new(false)));
        let (told, ending) = (short.clone(), stop.clone());
        let heed = Box::new(move |sight: &Sight| {
            relief.look(sight.stalled);
            memory.look(&told);
            if unread_body::let_go() >= MOST_LET_GO && !ending.is_given() {
                log::error!("too many requests of impossible sizes: the program begins anew");
                ending.give();
            }
            counted.connections.set(sight.connections);
            sight.cuts().for_each(|(reason, count)| counted.connections_cut(reason.word(), count));
        });
        let guard = Guard::start(listener.local_addr()?.port(), registry.clone(), limits, heed)?;
        let means =
            Means { bodies: Ledger::new(limits.bodies.unwrap_or_else(|| room.bodies())), short };
        let hall = Arc::new(Hall::new(gate, registry, metrics, means, crews));
        let entrance = hall.clone();
        let acceptor = Acceptor::start(listener, Arc::new(move |request| entrance.admit(request)))?;
        Ok(Self { acceptor, hall, guard, stop, grace })
    }

    /// What the guard over its connections counts.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.guard.tally()
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// Requests that run or wait.
    #[must_use]
    pub fn load(&self) -> usize {
        self.hall.load()
    }

    /// Whether the program had better begin anew after its end, because clients have cost it what
    /// cannot be had back.
    #[must_use]
    pub fn is_worn() -> bool {
        unread_body::let_go() >= MOST_LET_GO
    }

    /// Waits for the sign to stop, then serves who is there to the end and nobody new; `false` when
    /// some answers had to be left.
    #[must_use]
    pub fn run(self) -> bool {
        self.stop.wait();
        self.drain()
    }

    /// Takes in who has connected, refuses new connections, and serves what is asked on the others
    /// until nothing is going on, each once and all within the grace; `false` when some answers had
    /// to be left.
    #[must_use]
    pub fn drain(self) -> bool {
        let began = Instant::now();
        self.stop.give();
        self.hall.stops();
        log::info!("stopping: {} requests to finish", self.hall.load());
        self.acceptor.close(PATIENCE.min(self.grace));
        self.settle(began);
        self.acceptor.stop();
        let left = self.grace.saturating_sub(began.elapsed());
        self.hall.close().is_none_or(|crews| crews.drain(left))
    }

    /// Waits until nothing is going on, but no longer than the grace.
    fn settle(&self, began: Instant) {
        let tally = self.guard.tally();
        let mut quiet = (Instant::now(), tally.looks());
        while began.elapsed() < self.grace {
            if self.hall.load() > 0 || tally.asking() > 0 {
                quiet = (Instant::now(), tally.looks());
            }
            let (since, looks) = (quiet.0.elapsed(), tally.looks() - quiet.1);
            if since >= QUIET && (looks >= QUIET_LOOKS || since >= PATIENCE) {
                return;
            }
            thread::sleep(PACE);
        }
    }
}

/// The configuration, with no more workers and connections than there is room for.
fn fitted(mut config: Config, room: &Room) -> Config {
    let (workers, connections) = room.fit(config.workers, config.limits.connections);
    if workers < config.workers {
        log::warn!("the limits of this process leave room for {workers} workers: {room:?}");
    }
    if connections < config.limits.connections {
        log::warn!("the limits of this process leave room for {connections} connections: {room:?}");
    }
    (config.workers, config.limits.connections) = (workers, connections);
    config
}

/// Looks now and then whether memory runs short.
struct Memory {
    pressure: Option<Pressure>,
    last: Instant,
}

impl Memory {
    fn new() -> Self {
        Self { pressure: Pressure::find(), last: Instant::now() }
    }

    fn look(&mut self, short: &AtomicBool) {
        let Some(pressure) = &self.pressure else { return };
        if self.last.elapsed() < MEMORY_LOOK {
            return;
        }
        self.last = Instant::now();
        let is_high = pressure.is_high();
        if short.swap(is_high, Ordering::Relaxed) != is_high {
            let word = if is_high { "short: new requests are refused" } else { "there again" };
            log::warn!("memory is {word}");
        }
    }
}

/// Sleeps; `false` when the program is to end, or soon after the client has left.
fn sleep(stop: &Stop, duration: Duration) -> bool {
    let mut left = duration;
    loop {
        let nap = left.min(NAP);
        if cancel::is_given() || !stop.sleep(nap) {
            return false;
        }
        left -= nap;
        if left.is_zero() {
            return true;
        }
    }
}

/// Opens the listening socket. Accepted sockets inherit its settings on Linux.
fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    if host == "::" {
        // All interfaces, also on a machine without IPv6.
        addresses.push(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    // As Go does, IPv4 before IPv6 where a name has both.
    let is_late = |address: &SocketAddr| host != "::" && address.is_ipv6();
    order::sort_by(&mut addresses, |a, b| is_late(a).cmp(&is_late(b)));
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Why nothing can be listened on, in Go's words (ollama-api.md 17.1).
fn told(host: &str, port: u16, error: &io::Error) -> io::Error {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let reason = error.to_string();
    // The system's own reasons begin with a capital letter here and end in their number.
    let reason = match (error.raw_os_error(), reason.split_once(" (os error ")) {
        (Some(_), Some((text, _))) => {
            let (first, rest) = text.split_at_checked(1).unwrap_or(("", text));
            format!("bind: {}{rest}", first.to_ascii_lowercase())
        }
        _ => reason,
    };
    io::Error::new(error.kind(), format!("listen tcp {host}:{port}: {reason}"))
}

/// A client whose machine is gone without a word is found out within two minutes, not hours.
fn keep_alive() -> TcpKeepalive {
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(60));
    #[cfg(unix)]
    let probes = probes.with_interval(Duration::from_secs(15)).with_retries(4);
    probes
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // On Windows this would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keep_alive())?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_listened_on_is_told_in_go_s_words() {
        let check = |host: &str, error: io::Error, expected: &str| {
            let found = told(host, 80, &error);
            assert_eq!((found.kind(), found.to_string().as_str()), (error.kind(), expected));
        };
        let denied = || io::Error::from_raw_os_error(13);
        check("1.2.3.4", denied(), "listen tcp 1.2.3.4:80: bind: permission denied");
        check("::1", denied(), "listen tcp [::1]:80: bind: permission denied");
        check("", denied(), "listen tcp :80: bind: permission denied");
        check("h", io::Error::other("No such name"), "listen tcp h:80: No such name");
    }
}
