//! Takes each request, decides about it, and queues it for a worker.
//!
//! There are three lanes, each with its own worker pool and queue; see [`crate::app`].
//!
//! A request that finds its workers and queue full gets a 503 at once: a client can retry after a
//! 503, but cannot tell a full queue from a slow upstream while it waits. A new request also gets a
//! 503 while memory is nearly exhausted and other requests are running. Never handles a request
//! itself. Invariant: each request is answered and logged exactly once, also if its handler panics;
//! the log never quotes the panic, which may hold a prompt.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::handlers;
use crate::handlers::stack_trim::StackTrimmer;
use crate::handlers::{App, AppView, Context, Handler, ROUTES};
use crate::http::access::{AccessControl, EarlyResponse, RequestInfo};
use crate::http::client_keys::Credentials;
use crate::http::exchange::{self, Exchange, IncomingRequest};
use crate::http::routes::{self, Lane, ResolvedRoute};
use crate::net::connection_guard::{Registry, Rejection};
use crate::net::limits::{MemoryBudget, MemoryPressure};
use crate::net::worker_pool::{Overcommit, WorkerPool};
use crate::observe::lock;
use crate::observe::metrics::{Metrics, RequestRecord};
use crate::observe::redact::{self, Secret};
use crate::upstream::Trace;

/// Characters of a path that are logged.
const MAX_LOGGED_PATH_CHARS: usize = 200;

const SIDE_LANE_WORKERS: usize = 2;

const SIDE_LANE_QUEUE: usize = 1024;

/// A request on its way to a worker.
pub(super) struct Job {
    exchange: Exchange,
    route: ResolvedRoute<Handler>,
    /// The response that it gets without its handler.
    early_response: Option<EarlyResponse>,
    received: Instant,
    /// The key that an upstream may get instead of its own.
    client_key: Option<Secret>,
}

/// The worker pools, in the order of [`Lane`].
pub(super) struct WorkerPools {
    app: Arc<App>,
    pools: [WorkerPool; 3],
}

impl WorkerPools {
    pub(super) fn start(workers: usize, queue: usize, app: Arc<App>) -> io::Result<Self> {
        let pools = [
            WorkerPool::start("worker", workers, queue)?,
            WorkerPool::start("health", SIDE_LANE_WORKERS, SIDE_LANE_QUEUE)?,
            WorkerPool::start("probe", SIDE_LANE_WORKERS, SIDE_LANE_QUEUE)?,
        ];
        Ok(Self { app, pools })
    }

    /// Lets other requests use main workers that wait for slow clients.
    pub(super) fn overcommit(&self) -> Overcommit {
        self.pool(Lane::Main).overcommit()
    }

    /// Waits for running and queued requests; `false` if some are not done within `grace`.
    pub(super) fn drain(self, grace: Duration) -> bool {
        let began = Instant::now();
        // Every pool is drained, also after a pool whose jobs were not done in time.
        let drained = self.pools.map(|pool| pool.drain(grace.saturating_sub(began.elapsed())));
        drained == [true; 3]
    }

    fn pool(&self, lane: Lane) -> &WorkerPool {
        &self.pools[lane as usize]
    }
}

pub(super) struct Dispatcher {
    /// Replaced by a reload.
    pub access: RwLock<Arc<AccessControl>>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub body_budget: Arc<MemoryBudget>,
    pub memory_pressure: Arc<MemoryPressure>,
    /// `None` once no more requests are taken.
    pub pools: RwLock<Option<WorkerPools>>,
}

impl Dispatcher {
    /// Makes `/ready` fail, and each response the last one on its connection.
    pub(super) fn begin_shutdown(&self) {
        self.metrics.mark_stopping();
        self.registry.mark_stopping();
    }

    /// Decides about new requests by other rules.
    pub(super) fn set_access(&self, access: AccessControl) {
        *lock::write(&self.access) = Arc::new(access);
    }

    /// Refuses all further requests; returns the workers, to be drained.
    pub(super) fn close(&self) -> Option<WorkerPools> {
        lock::write(&self.pools).take()
    }

    /// Requests that run or are queued.
    pub(super) fn active_requests(&self) -> usize {
        let pools = lock::read(&self.pools);
        pools.iter().flat_map(|pools| &pools.pools).map(WorkerPool::load).sum()
    }

    /// Decides about a request and queues it, or responds that the workers are busy. A worker also
    /// writes the response to a refused request, because a write may block.
    pub(super) fn dispatch(&self, request: IncomingRequest) {
        let received = Instant::now();
        let head_error = exchange::check_head(&request);
        let peer = request.remote_addr().copied();
        let route = routes::resolve(ROUTES, request.method().as_str(), request.url());
        let request_id = format!("req_{:08x}", rand::random::<u32>());
        let reservation = self.body_budget.new_reservation();
        let mut exchange = Exchange::new(request, request_id, route.error_format, reservation);
        let mut early_response = head_error.map(|_| EarlyResponse::Fail(Error::MalformedHead));
        if let Some(peer) = peer {
            let (handle, refused) = self.registry.begin_request(peer, received);
            exchange.attach(handle);
            match refused {
                None => {}
                Some(Rejection::TooManyRequests) => {
                    early_response = Some(EarlyResponse::Fail(Error::Busy));
                }
                Some(Rejection::Closing) => return exchange.discard(),
            }
        }
        if let Some(fault) = head_error {
            log::warn!("{} rejected: {fault}", exchange.request_id());
            // Not left to the worker: the next request on the connection may already have arrived.
            exchange.close_after_response();
        }
        // One and the same for all decisions about the request.
        let access = lock::read(&self.access).clone();
        let early_response =
            early_response.or_else(|| check_access(&access, &mut exchange, route.is_public()));
        let client_key = None;
        let job = Job { exchange, route, early_response, received, client_key };
        self.submit(Box::new(job), &access);
    }

    fn submit(&self, mut job: Box<Job>, access: &AccessControl) {
        let error = {
            let lane = job.route.lane();
            let is_main = lane == Lane::Main;
            // While no request is running, refusing a request would free no memory.
            let low_memory = is_main && self.memory_pressure.is_high();
            let pools = lock::read(&self.pools);
            let permit = match &*pools {
                Some(pools) if low_memory && pools.pool(Lane::Main).load() > 0 => Err(Error::Busy),
                Some(pools) => {
                    let permit = pools.pool(lane).try_reserve().ok_or(Error::Busy);
                    permit.map(|permit| (permit, pools.app.clone()))
                }
                None => Err(Error::ShuttingDown),
            };
            if let Ok((_, app)) = &permit
                && app.router().passes_client_keys()
            {
                job.client_key = access.find_foreign_key(credentials(&job.exchange));
            }
            match permit {
                Ok((permit, app)) if is_main => {
                    self.metrics.queued_requests.inc();
                    return permit.run(move || {
                        app.metrics.queued_requests.dec();
                        let _busy = app.metrics.busy_workers.track();
                        serve(&app, job);
                    });
                }
                Ok((permit, app)) => return permit.run(move || serve(&app, job)),
                Err(error) => error,
            }
        };
        job.early_response.get_or_insert(EarlyResponse::Fail(error));
        finish(&self.metrics, job, &mut Trace::default(), |_, _, _| Ok(()));
    }
}

/// Decides whether a request goes on to its handler; `None` if it does.
fn check_access(
    access: &AccessControl,
    exchange: &mut Exchange,
    is_public: bool,
) -> Option<EarlyResponse> {
    let decision = access.decide(&RequestInfo {
        method: exchange.method(),
        target: exchange.target(),
        origin: exchange.header("Origin"),
        host: exchange.header("Host"),
        credentials: credentials(exchange),
        is_public,
    });
    if let Some(why) = decision.denial_reason {
        log::info!("{} refused: {why}", exchange.request_id());
    }
    exchange.add_headers(decision.headers);
    decision.response
}

/// The headers of a request that may hold a key.
fn credentials(exchange: &Exchange) -> Credentials<'_> {
    Credentials {
        authorization: exchange.header("Authorization"),
        api_key: exchange.header("x-api-key"),
    }
}

/// Runs a request on a worker.
fn serve(app: &App, mut job: Box<Job>) {
    let client_key = job.client_key.take();
    redact::with_request_key(client_key.as_ref(), || serve_with_key(app, job, client_key.clone()));
}

fn serve_with_key(app: &App, job: Box<Job>, client_key: Option<Secret>) {
    let mut trace = Trace { client_key, ..Trace::new(job.exchange.request_id()) };
    let mut stack = StackTrimmer::default();
    let (received, metrics) = (job.received, &app.metrics);
    let work = |route: &ResolvedRoute<Handler>, exchange: &mut Exchange, trace: &mut Trace| {
        let (router, stack) = (app.router(), &mut stack);
        let app = AppView { state: app, router: &router };
        handlers::handle(Context { app, route, exchange, trace, stack, received_at: received })
    };
    match job.exchange.cancel_token() {
        // The client disconnected while the request was queued.
        Some(cancel) if cancel.is_cancelled() => {
            finish(metrics, job, &mut trace, |_, _, _| Err(Error::ClientDisconnected))
        }
        Some(cancel) => cancel.scope(|| finish(metrics, job, &mut trace, work)),
        None => finish(metrics, job, &mut trace, work),
    }
    stack.after_request();
}

/// Gives the early response or runs `work`, completes the response, and records the request. The
/// exchange is used outside of the part that may panic.
fn finish(
    metrics: &Metrics,
    mut job: Box<Job>,
    trace: &mut Trace,
    work: impl FnOnce(&ResolvedRoute<Handler>, &mut Exchange, &mut Trace) -> Result<()>,
) {
    let early_response = job.early_response.take();
    let (exchange, received) = (&mut job.exchange, job.received);
    let result = panic::catch_unwind(AssertUnwindSafe(|| match early_response {
        None => work(&job.route, exchange, trace),
        Some(EarlyResponse::Empty(status)) => exchange.respond_empty(status),
        Some(EarlyResponse::Fail(error)) => Err(error),
    }));
    let error = match result {
        Ok(Ok(())) if exchange.is_done() => {
            // A refused origin or host has no body, hence no text.
            let is_refused = exchange.status() == Some(403);
            let refusal = is_refused.then(|| Error::Forbidden(String::new()));
            trace.reported_error.take().or(refusal)
        }
        Ok(Ok(())) => Some(Error::Internal("a handler returned without a response")),
        Ok(Err(error)) => Some(error),
        Err(_) => Some(Error::Internal("a handler panicked")),
    };
    if let Some(error) = &error {
        if trace.retries_exhausted {
            exchange.forbid_retry();
        }
        exchange.set_upstream(trace.upstream.clone());
        exchange.fail(error);
    }
    metrics.record_request(&RequestRecord {
        route: job.route.pattern(),
        model: &trace.model,
        known_model: trace.known_model.as_deref(),
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

/// The level of a request's line: a response that the upstream broke off after its status was sent, or
/// after its head had come, was not logged as a failed call.
fn log_level(exchange: &Exchange, error: Option<&Error>) -> log::Level {
    let is_cut = |error: &Error| {
        let is_partial = exchange.status().is_some_and(|status| status < 400);
        error.is_upstream() && is_partial || error.is_cut_response()
    };
    if error.is_some_and(is_cut) { log::Level::Warn } else { log::Level::Info }
}

/// Logs the one line about a request. Path and model are the only parts of the request in it.
fn log_request(exchange: &Exchange, trace: &Trace, received: Instant, error: Option<&Error>) {
    let path = exchange.target().split('?').next().unwrap_or_default();
    let path: String = path.chars().take(MAX_LOGGED_PATH_CHARS).collect();
    let upstream_id = match trace.attempts {
        0 => String::new(),
        _ => format!(" upstream_request_id={}", trace.upstream_request_id),
    };
    let upstream = trace.upstream.as_ref().map(|name| format!(" upstream={name}"));
    let upstream = upstream.unwrap_or_default();
    let failure = error.map(|error| format!(" error={error}")).unwrap_or_default();
    log::log!(
        log_level(exchange, error),
        "{} {} {path:?} model={:?} status={} attempts={} duration_ms={} tokens={}+{}{upstream_id}{upstream}{failure}",
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
