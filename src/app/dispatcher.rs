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
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::handlers;
use crate::handlers::stack_trim::StackTrimmer;
use crate::handlers::{App, Context, Handler, ROUTES};
use crate::http::access;
use crate::http::access::{AccessControl, RequestInfo};
use crate::http::client_keys::Credentials;
use crate::http::exchange;
use crate::http::exchange::{Exchange, IncomingRequest};
use crate::http::routes;
use crate::http::routes::{Lane, ResolvedRoute};
use crate::net::connection_guard::{Registry, Rejection};
use crate::net::limits::{MemoryBudget, MemoryPressure};
use crate::net::worker_pool::{Overcommit, WorkerPool};
use crate::observe::lock;
use crate::observe::metrics::{Metrics, RequestRecord};
use crate::upstream::Trace;

/// Characters of a path that are logged.
const MAX_LOGGED_PATH_CHARS: usize = 200;

/// Workers and queue of each of the desks.
const SIDE_LANE_SIZE: (usize, usize) = (2, 1024);

/// A request on its way to a worker: in a box, because it goes through many hands.
pub(super) struct Job {
    exchange: Exchange,
    route: ResolvedRoute<Handler>,
    decision: Decision,
    received: Instant,
}

/// What was decided about a request before its route is looked at.
enum Decision {
    /// It goes on to its route.
    Proceed,
    /// It is answered with this status and nothing else.
    EmptyResponse(u16),
    /// It fails.
    Fail(Error),
}

/// The worker pools of all lanes.
pub(super) struct WorkerPools {
    app: Arc<App>,
    main: WorkerPool,
    health: WorkerPool,
    /// Checks of the upstream, which may take a while.
    probe: WorkerPool,
}

impl WorkerPools {
    pub(super) fn start(workers: usize, queue: usize, app: Arc<App>) -> io::Result<Self> {
        Ok(Self {
            app,
            main: WorkerPool::start("worker", workers, queue)?,
            health: WorkerPool::start("health", SIDE_LANE_SIZE.0, SIDE_LANE_SIZE.1)?,
            probe: WorkerPool::start("probe", SIDE_LANE_SIZE.0, SIDE_LANE_SIZE.1)?,
        })
    }

    /// What keeps slow clients from holding all workers.
    pub(super) fn overcommit(&self) -> Overcommit {
        self.main.overcommit()
    }

    /// Requests that run or wait.
    pub(super) fn active_requests(&self) -> usize {
        self.main.load() + self.health.load() + self.probe.load()
    }

    /// Lets running answers finish; `false` when some had to be left.
    pub(super) fn drain(self, grace: Duration) -> bool {
        let began = Instant::now();
        let mut all = self.main.drain(grace);
        for pool in [self.health, self.probe] {
            all &= pool.drain(grace.saturating_sub(began.elapsed()));
        }
        all
    }

    fn pool(&self, lane: Lane) -> &WorkerPool {
        match lane {
            Lane::Main => &self.main,
            Lane::Health => &self.health,
            Lane::Probe => &self.probe,
        }
    }
}

/// What there is for all requests together.
pub(super) struct SharedLimits {
    /// Bytes of bodies that are held.
    pub body_budget: Arc<MemoryBudget>,
    pub memory_pressure: Arc<MemoryPressure>,
}

/// Where requests arrive.
pub(super) struct Dispatcher {
    access: AccessControl,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    shared: SharedLimits,
    /// `None` once the program is ending.
    pools: RwLock<Option<WorkerPools>>,
}

impl Dispatcher {
    pub(super) fn new(
        access: AccessControl,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        shared: SharedLimits,
        pools: WorkerPools,
    ) -> Self {
        Self { access, registry, metrics, shared, pools: RwLock::new(Some(pools)) }
    }

    /// Tells whoever asks that the server is to end; all is served as before, but each answer is the
    /// last one on its connection.
    pub(super) fn begin_shutdown(&self) {
        self.metrics.mark_stopping();
        self.registry.mark_stopping();
    }

    /// Refuses whatever comes from now on; gives the workers, to be waited for.
    pub(super) fn close(&self) -> Option<WorkerPools> {
        lock::write(&self.pools).take()
    }

    /// Requests that run or wait.
    pub(super) fn active_requests(&self) -> usize {
        let pools = lock::read(&self.pools);
        pools.as_ref().map_or(0, WorkerPools::active_requests)
    }

    /// Hands a request to the workers with what was ruled about it, or answers that they are busy.
    /// As long as there is room, the ruling is carried out by a worker, too: a write may wait for the
    /// client, and this thread had better not.
    pub(super) fn dispatch(&self, request: IncomingRequest) {
        let received = Instant::now();
        let head_error = exchange::check_head(&request);
        let peer = request.remote_addr().copied();
        let route = routes::resolve(ROUTES, request.method().as_str(), request.url());
        let request_id = format!("req_{:08x}", rand::random::<u32>());
        let mut exchange = Exchange::new(request, request_id, route.error_format);
        exchange.set_reservation(self.shared.body_budget.new_reservation());
        let mut decision = match head_error {
            Some(_) => Decision::Fail(Error::MalformedHead),
            None => Decision::Proceed,
        };
        if let Some(peer) = peer {
            let (handle, refused) = self.registry.begin_request(peer, received);
            exchange.attach(handle);
            match refused {
                None => {}
                Some(Rejection::TooManyRequests) => decision = Decision::Fail(Error::Busy),
                Some(Rejection::Closing) => return exchange.discard(),
            }
        }
        if let Some(fault) = head_error {
            log::warn!("{} rejected: {fault}", exchange.request_id());
            // Before a worker gets it: the next request may be here already.
            exchange.close_after_response();
        }
        if let Decision::Proceed = decision {
            decision = self.check_access(&mut exchange, route.is_public());
        }
        self.submit(Box::new(Job { exchange, route, decision, received }));
    }

    fn submit(&self, mut job: Box<Job>) {
        let error = {
            let lane = job.route.lane();
            let is_main = lane == Lane::Main;
            // With no request running, refusing this one would free no memory.
            let low_memory = is_main && self.shared.memory_pressure.is_high();
            let pools = lock::read(&self.pools);
            let permit = match &*pools {
                Some(pools) if low_memory && pools.main.load() > 0 => Err(Error::Busy),
                Some(pools) => {
                    let permit = pools.pool(lane).try_reserve().ok_or(Error::Busy);
                    permit.map(|permit| (permit, pools.app.clone()))
                }
                None => Err(Error::ShuttingDown),
            };
            match permit {
                Ok((permit, app)) if is_main => {
                    self.metrics.queued_requests.inc();
                    return permit.run(move || {
                        app.metrics().queued_requests.dec();
                        let _busy = app.metrics().busy_workers.track();
                        serve(&app, job);
                    });
                }
                Ok((permit, app)) => return permit.run(move || serve(&app, job)),
                Err(error) => error,
            }
        };
        if let Decision::Proceed = job.decision {
            job.decision = Decision::Fail(error);
        }
        finish(&self.metrics, job, &mut Trace::default(), |_, _, _| Ok(()));
    }

    /// Asks the gate about a request.
    fn check_access(&self, exchange: &mut Exchange, is_public: bool) -> Decision {
        let decision = self.access.decide(&RequestInfo {
            method: exchange.method(),
            target: exchange.target(),
            origin: exchange.header("Origin"),
            host: exchange.header("Host"),
            credentials: Credentials {
                authorization: exchange.header("Authorization"),
                api_key: exchange.header("x-api-key"),
            },
            is_public,
        });
        if let Some(why) = decision.denial_reason {
            log::info!("{} refused: {why}", exchange.request_id());
        }
        exchange.add_headers(decision.headers);
        match decision.response {
            None => Decision::Proceed,
            Some(access::EarlyResponse::Empty(status)) => Decision::EmptyResponse(status),
            Some(access::EarlyResponse::Unauthorized) => Decision::Fail(Error::Unauthorized),
        }
    }
}

/// Handles a request and sees to its end.
fn serve(app: &App, job: Box<Job>) {
    let mut trace = Trace { request_id: job.exchange.request_id().to_owned(), ..Trace::default() };
    let mut stack = StackTrimmer::default();
    let (received, metrics) = (job.received, app.metrics());
    let work = |route: &ResolvedRoute<Handler>, exchange: &mut Exchange, trace: &mut Trace| {
        let stack = &mut stack;
        handlers::handle(Context { app, route, exchange, trace, stack, received_at: received })
    };
    match job.exchange.cancel_token() {
        // Its client has left while it waited.
        Some(cancel) if cancel.is_cancelled() => {
            finish(metrics, job, &mut trace, |_, _, _| Err(Error::client_disconnected()))
        }
        Some(cancel) => cancel.scope(|| finish(metrics, job, &mut trace, work)),
        None => finish(metrics, job, &mut trace, work),
    }
    stack.after_request();
}

/// Carries out what was ruled, or else does `work`, and sees to the end of the exchange.
fn finish(
    metrics: &Metrics,
    mut job: Box<Job>,
    trace: &mut Trace,
    work: impl FnOnce(&ResolvedRoute<Handler>, &mut Exchange, &mut Trace) -> Result<()>,
) {
    let decision = mem::replace(&mut job.decision, Decision::Proceed);
    let (exchange, received) = (&mut job.exchange, job.received);
    let result = panic::catch_unwind(AssertUnwindSafe(|| match decision {
        Decision::Proceed => work(&job.route, exchange, trace),
        Decision::EmptyResponse(status) => exchange.respond_empty(status),
        Decision::Fail(error) => Err(error),
    }));
    let error = match result {
        Ok(Ok(())) if exchange.is_done() => None,
        Ok(Ok(())) => Some(Error::Internal("a handler returned without a response")),
        Ok(Err(error)) => Some(error),
        Err(_) => Some(Error::Internal("a handler panicked")),
    };
    if let Some(error) = &error {
        exchange.fail(error);
    }
    metrics.record_request(&RequestRecord {
        route: job.route.pattern(),
        model: &trace.model,
        reached_upstream: trace.attempts > 0,
        status: exchange.status(),
        error_kind: error.as_ref().map(Error::kind),
        duration: received.elapsed(),
        time_to_first_line: exchange
            .first_line_at()
            .map(|first| first.saturating_duration_since(received)),
        tokens: trace.tokens,
    });
    log_request(exchange, trace, received, error.as_ref());
}

/// The one line about a request. It names no text of the request but path and model.
fn log_request(exchange: &Exchange, trace: &Trace, received: Instant, error: Option<&Error>) {
    let path = exchange.target().split('?').next().unwrap_or_default();
    let path: String = path.chars().take(MAX_LOGGED_PATH_CHARS).collect();
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
