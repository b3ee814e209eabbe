//! Where requests arrive: each is checked, noted and handed to a worker.
//!
//! It becomes a job for the workers, or a 503 at once when they are as busy as they may be, because a
//! client that is told "busy" can try again and one that waits cannot tell why. Questions about our
//! health have workers of their own, so that they are answered when all others are busy. A job tells
//! the client of its own error, writes its own log line, and survives its own panic: the exchange
//! stays outside the part that may panic, so that a client always gets an end.

use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::handlers;
use crate::handlers::{App, Context, stack_trim};
use crate::http::access;
use crate::http::access::{Asked, Gate};
use crate::http::client_keys::Credentials;
use crate::http::exchange::Exchange;
use crate::http::framing;
use crate::http::routes;
use crate::http::routes::Desk;
use crate::net::connection_guard::{Refused, Registry};
use crate::net::limits::Ledger;
use crate::net::worker_pool::{Full, Pool, Relief};
use crate::observe::metrics::{Finished, Metrics};
use crate::upstream::Trace;

/// Characters of a path that are logged.
const LOGGED_PATH: usize = 200;

/// Workers and queue of each of the desks.
const DESK: (usize, usize) = (2, 1024);

/// A request on its way to a worker: in a box, because it goes through many hands.
pub(super) struct Job {
    exchange: Exchange,
    ruled: Ruled,
    received: Instant,
}

/// What was decided about a request before its route is looked at.
enum Ruled {
    /// It goes on to its route.
    Served,
    /// It is answered with this status and nothing else.
    Status(u16),
    /// It fails.
    Failed(Error),
}

/// All workers.
pub(super) struct Crews {
    workers: Pool<Box<Job>>,
    /// For those who ask how we are.
    desk: Pool<Box<Job>>,
    /// For those who ask how the upstream is, which may take a while.
    probes: Pool<Box<Job>>,
}

impl Crews {
    pub(super) fn start(workers: usize, queue: usize, app: &Arc<App>) -> io::Result<Self> {
        let work = || {
            let app = app.clone();
            move |job| serve(&app, job)
        };
        let counted = app.clone();
        let main = move |job| {
            counted.metrics().queued.down();
            let _busy = counted.metrics().busy.hold();
            serve(&counted, job);
        };
        Ok(Self {
            workers: Pool::start("worker", workers, queue, main)?,
            desk: Pool::start("desk", DESK.0, DESK.1, work())?,
            probes: Pool::start("probe", DESK.0, DESK.1, work())?,
        })
    }

    /// What keeps slow clients from holding all workers.
    pub(super) fn relief(&self) -> Relief {
        self.workers.relief()
    }

    /// Requests that run or wait.
    pub(super) fn load(&self) -> usize {
        self.workers.load() + self.desk.load() + self.probes.load()
    }

    /// Lets running answers finish; `false` when some had to be left.
    pub(super) fn drain(self, grace: Duration) -> bool {
        let began = Instant::now();
        let mut all = self.workers.drain(grace);
        for desk in [self.desk, self.probes] {
            all &= desk.drain(grace.saturating_sub(began.elapsed()));
        }
        all
    }

    fn of(&self, desk: Desk) -> &Pool<Box<Job>> {
        match desk {
            Desk::Main => &self.workers,
            Desk::Health => &self.desk,
            Desk::Upstream => &self.probes,
        }
    }
}

/// What there is for all requests together.
pub(super) struct Means {
    /// Bytes of bodies that are held.
    pub bodies: Arc<Ledger>,
    /// Whether memory runs short.
    pub short: Arc<AtomicBool>,
}

/// Where requests arrive.
pub(super) struct Hall {
    gate: Gate,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    means: Means,
    /// `None` once the program is ending.
    crews: RwLock<Option<Crews>>,
}

impl Hall {
    pub(super) fn new(
        gate: Gate,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        means: Means,
        crews: Crews,
    ) -> Self {
        Self { gate, registry, metrics, means, crews: RwLock::new(Some(crews)) }
    }

    /// Tells whoever asks that the server is to end; all is served as before, but each answer is the
    /// last one on its connection.
    pub(super) fn stops(&self) {
        self.metrics.stops();
        self.registry.stops();
    }

    /// Refuses whatever comes from now on; gives the workers, to be waited for.
    pub(super) fn close(&self) -> Option<Crews> {
        self.crews.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Requests that run or wait.
    pub(super) fn load(&self) -> usize {
        let crews = self.crews.read().unwrap_or_else(PoisonError::into_inner);
        crews.as_ref().map_or(0, Crews::load)
    }

    /// Hands a request to the workers with what was ruled about it, or answers that they are busy.
    /// As long as there is room, the ruling is carried out by a worker, too: a write may wait for the
    /// client, and this thread had better not.
    pub(super) fn admit(&self, request: tiny_http::Request) {
        let received = Instant::now();
        let fault = fault(&request);
        let peer = request.remote_addr().copied();
        let mut exchange = Exchange::new(request, format!("req_{:08x}", rand::random::<u32>()));
        exchange.account(self.means.bodies.lease());
        let mut ruled = match fault {
            Some(_) => Ruled::Failed(Error::Malformed),
            None => Ruled::Served,
        };
        if let Some(peer) = peer {
            let (ticket, refused) = self.registry.begin(peer, received);
            exchange.attend(ticket);
            match refused {
                None => {}
                Some(Refused::TooMany) => ruled = Ruled::Failed(Error::Busy),
                Some(Refused::Condemned) => return exchange.discard(),
            }
        }
        if let Some(fault) = fault {
            log::warn!("{} is refused: {fault}", exchange.request_id());
            // Before a worker gets it: the next request may be here already.
            exchange.condemn();
        }
        if let Ruled::Served = ruled {
            ruled = self.rule(&mut exchange);
        }
        self.hand_over(Box::new(Job { exchange, ruled, received }));
    }

    fn hand_over(&self, job: Box<Job>) {
        let desk = routes::desk(job.exchange.target());
        let counts = desk == Desk::Main;
        if counts {
            self.metrics.queued.up();
        }
        // With nothing in hand there is nothing to wait for.
        let short = counts && self.means.short.load(Ordering::Relaxed);
        let refused = match &*self.crews.read().unwrap_or_else(PoisonError::into_inner) {
            Some(crews) if short && crews.workers.load() > 0 => Some((job, Error::Busy)),
            Some(crews) => crews.of(desk).try_submit(job).err().map(|Full(job)| (job, Error::Busy)),
            None => Some((job, Error::Stopping)),
        };
        if let Some((mut job, error)) = refused {
            if counts {
                self.metrics.queued.down();
            }
            if let Ruled::Served = job.ruled {
                job.ruled = Ruled::Failed(error);
            }
            finish(&self.metrics, job, &mut Trace::default(), |_, _| Ok(()));
        }
    }

    /// Asks the gate about a request.
    fn rule(&self, exchange: &mut Exchange) -> Ruled {
        let ruling = self.gate.decide(&Asked {
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
        match ruling.answer {
            None => Ruled::Served,
            Some(access::Answer::Empty(status)) => Ruled::Status(status),
            Some(access::Answer::Unauthorized) => Ruled::Failed(Error::Unauthorized),
        }
    }
}

/// What is wrong with a request's head.
fn fault(request: &tiny_http::Request) -> Option<&'static str> {
    let headers = request.headers().iter();
    framing::fault(framing::Head {
        method: request.method().as_str(),
        target: request.url(),
        old: *request.http_version() < tiny_http::HTTPVersion(1, 1),
        headers: headers.map(|it| (it.field.as_str().as_str(), it.value.as_str())),
    })
}

/// Handles a request and sees to its end.
fn serve(app: &App, job: Box<Job>) {
    let mut trace = Trace { request_id: job.exchange.request_id().to_owned(), ..Trace::default() };
    let (received, metrics) = (job.received, app.metrics());
    let work = |exchange: &mut Exchange, trace: &mut Trace| {
        handlers::handle(Context { app, exchange, trace, received })
    };
    match job.exchange.cancel() {
        // Its client has left while it waited.
        Some(cancel) if cancel.is_given() => {
            finish(metrics, job, &mut trace, |_, _| Err(Error::left()))
        }
        Some(cancel) => cancel.during(|| finish(metrics, job, &mut trace, work)),
        None => finish(metrics, job, &mut trace, work),
    }
    stack_trim::is_over(&trace);
}

/// Carries out what was ruled, or else does `work`, and sees to the end of the exchange.
fn finish(
    metrics: &Metrics,
    mut job: Box<Job>,
    trace: &mut Trace,
    work: impl FnOnce(&mut Exchange, &mut Trace) -> Result<()>,
) {
    let ruled = mem::replace(&mut job.ruled, Ruled::Served);
    let (exchange, received) = (&mut job.exchange, job.received);
    let result = panic::catch_unwind(AssertUnwindSafe(|| match ruled {
        Ruled::Served => work(exchange, trace),
        Ruled::Status(status) => exchange.answer_empty(status),
        Ruled::Failed(error) => Err(error),
    }));
    let error = match result {
        Ok(Ok(())) if exchange.is_done() => None,
        Ok(Ok(())) => Some(Error::Internal("a handler left its exchange open")),
        Ok(Err(error)) => Some(error),
        Err(_) => Some(Error::Internal("a handler panicked")),
    };
    if let Some(error) = &error {
        exchange.fail(error);
    }
    metrics.finished(&Finished {
        route: routes::row(exchange.target()),
        model: &trace.model,
        asked: trace.attempts > 0,
        status: exchange.status(),
        error: error.as_ref().map(Error::kind),
        duration: received.elapsed(),
        first: exchange.first_line().map(|first| first.saturating_duration_since(received)),
        tokens: trace.tokens,
    });
    log_end(exchange, trace, received, error.as_ref());
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
