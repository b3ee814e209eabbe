//! Builds the program and runs it: socket, acceptor, pool, and the way to the end.
//!
//! Requests come from the acceptor's threads; each becomes a job for the pool, or a 503 at once when
//! the pool is full, because a client that is told "busy" can try again and one that waits cannot
//! tell why. A job tells the client of its own error, writes its own log line, and survives its own
//! panic: the exchange stays outside the part that may panic, so that a client always gets an end.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Protocol, Socket, Type};

use crate::acceptor::Acceptor;
use crate::cancel;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::gate::{self, Asked, Gate};
use crate::handler::{self, App, Context};
use crate::keys::Credentials;
use crate::machine;
use crate::pool::{Full, Pool};
use crate::stop::Stop;
use crate::store::Store;
use crate::upstream::{Client, Pacing, Trace};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long a client may take nothing of what it is sent before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a sleeper looks whether its client has left.
const NAP: Duration = Duration::from_millis(200);

/// Characters of a path that are logged.
const LOGGED_PATH: usize = 200;

/// A request on its way to a worker.
struct Job {
    exchange: Exchange,
    /// How the gate answers it; `None` when it goes on to its route.
    ruled: Option<gate::Answer>,
    received: Instant,
}

/// A running server.
pub struct Server {
    acceptor: Acceptor,
    pool: Arc<RwLock<Option<Pool<Job>>>>,
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
        let store = Store::open(config.state.clone()).map_err(io::Error::other)?;
        let (host, port) = config.listen_addr();
        let listener = bind(&host, port).map_err(|error| told(&config.host, port, &error))?;
        let (origins, keys) = (config.origins.clone(), config.proxy_api_keys.clone());
        let gate = Gate::new(origins, keys, listener.local_addr()?.ip(), machine::this());
        let (workers, queue, grace) = (config.workers, config.max_queue, config.shutdown_grace);
        let client = Client::new(&config, pacing);
        let app = App::new(config, client, store, SystemTime::now());
        let pool = Pool::start(workers, queue, move |job| serve(&app, job))?;
        let pool = Arc::new(RwLock::new(Some(pool)));
        let entrance = pool.clone();
        let acceptor =
            Acceptor::start(listener, Arc::new(move |request| admit(&gate, &entrance, request)))?;
        Ok(Self { acceptor, pool, stop, grace })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// Waits for the sign to stop, then refuses new connections and lets running answers finish;
    /// `false` when some had to be left.
    #[must_use]
    pub fn run(self) -> bool {
        self.stop.wait();
        self.drain()
    }

    /// Refuses new connections and lets running answers finish; `false` when some had to be left.
    #[must_use]
    pub fn drain(self) -> bool {
        self.stop.give();
        self.acceptor.stop();
        let pool = self.pool.write().unwrap_or_else(PoisonError::into_inner).take();
        log::info!("stopping: {} requests to finish", pool.as_ref().map_or(0, Pool::load));
        pool.is_none_or(|pool| pool.drain(self.grace))
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
    addresses.sort_by_key(|address| host != "::" && address.is_ipv6());
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

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // On Windows this would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Hands a request to the pool with the gate's ruling, or answers that it is full. As long as there
/// is room, the ruling is carried out by a worker, too: a write may wait for the client, and this
/// thread had better not.
fn admit(gate: &Gate, pool: &RwLock<Option<Pool<Job>>>, request: tiny_http::Request) {
    let request_id = format!("req_{:08x}", rand::random::<u32>());
    let job = rule(gate, Exchange::new(request, request_id));
    let refused = match &*pool.read().unwrap_or_else(PoisonError::into_inner) {
        Some(pool) => pool.try_submit(job).err().map(|Full(job)| (job, Error::Busy)),
        None => Some((job, Error::Stopping)),
    };
    if let Some((mut job, error)) = refused {
        let error = match job.ruled {
            Some(answer) => carry_out(&mut job.exchange, answer).err(),
            None => Some(error),
        };
        if let Some(error) = &error {
            job.exchange.fail(error);
        }
        log_end(&job.exchange, &Trace::default(), job.received, error.as_ref());
    }
}

/// Asks the gate about a request.
fn rule(gate: &Gate, mut exchange: Exchange) -> Job {
    let received = Instant::now();
    let ruling = gate.decide(&Asked {
        method: exchange.method(),
        target: exchange.target(),
        origin: exchange.header("Origin"),
        host: exchange.header("Host"),
        credentials: Credentials {
            authorization: exchange.header("Authorization"),
            api_key: exchange.header("x-api-key"),
        },
    });
    if let Some(why) = ruling.refusal {
        log::info!("{} is refused: {why}", exchange.request_id());
    }
    exchange.add_headers(ruling.headers);
    Job { exchange, ruled: ruling.answer, received }
}

/// Answers a request as the gate has ruled.
fn carry_out(exchange: &mut Exchange, answer: gate::Answer) -> Result<()> {
    match answer {
        gate::Answer::Empty(status) => exchange.answer_empty(status),
        gate::Answer::Unauthorized => Err(Error::Unauthorized),
    }
}

/// Handles a request and sees to its end.
fn serve(app: &App, mut job: Job) {
    let mut trace = Trace { request_id: job.exchange.request_id().to_owned(), ..Trace::default() };
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        if let Some(answer) = job.ruled {
            return carry_out(&mut job.exchange, answer);
        }
        handler::handle(Context {
            app,
            exchange: &mut job.exchange,
            trace: &mut trace,
            received: job.received,
        })
    }));
    let error = match result {
        Ok(Ok(())) if job.exchange.is_done() => None,
        Ok(Ok(())) => Some(Error::Internal("a handler left its exchange open")),
        Ok(Err(error)) => Some(error),
        Err(_) => Some(Error::Internal("a handler panicked")),
    };
    if let Some(error) = &error {
        job.exchange.fail(error);
    }
    log_end(&job.exchange, &trace, job.received, error.as_ref());
}

/// The one line about a request. It names no text of the request but path and model.
fn log_end(exchange: &Exchange, trace: &Trace, received: Instant, error: Option<&Error>) {
    let path = exchange.target().split('?').next().unwrap_or_default();
    let path: String = path.chars().take(LOGGED_PATH).collect();
    let failure = error.map(|error| format!(" error={error}")).unwrap_or_default();
    log::info!(
        "{} {} {path:?} model={:?} status={} attempts={} duration_ms={} tokens={}+{}{failure}",
        exchange.request_id(),
        exchange.method(),
        trace.model,
        exchange.status().unwrap_or(0),
        trace.attempts,
        received.elapsed().as_millis(),
        trace.tokens.0,
        trace.tokens.1,
    );
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
