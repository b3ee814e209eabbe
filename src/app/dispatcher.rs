//! Takes each request, decides about it, and queues it for a worker.
//!
//! There are three lanes, each with its own worker pool and queue; see [`crate::app`].
//!
//! A request that finds its workers and queue full gets a 503 at once: a client can retry after a
//! 503, but cannot tell a full queue from a slow upstream while it waits. A new request also gets a
//! 503 while memory is nearly exhausted and other requests are running.
//!
//! [`Dispatcher::dispatch`] runs on the one thread through which all requests pass. It passes over the head
//! once, looks at no more of a value than its check does, compares no text that is longer than what it is
//! compared with can be, and never writes to a client: responses to refused requests are written by threads
//! of their own, so that clients without a key take no worker and no place in its queue, and a client that
//! does not read, or whose earlier response still runs, delays nobody else.
//!
//! Never handles a request itself. Invariant: each request is answered and logged exactly once, also if its
//! handler panics ([`super::outcome`]). The exception is a request on a connection that is to be closed: one
//! behind its last response, or one of more refused requests than may wait ([`MIN_REFUSALS`]).

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::outcome::{Job, finish};
use crate::error::Error;
use crate::handlers;
use crate::handlers::stack_trim::StackTrimmer;
use crate::handlers::{App, AppView, Context, Handler, ROUTES};
use crate::http::access::{AccessControl, AccessDecision, Denial, EarlyResponse, RequestInfo};
use crate::http::client_keys::Credentials;
use crate::http::exchange::{Exchange, IncomingRequest, RequestHead};
use crate::http::routes::{self, Lane, Outcome, ResolvedRoute};
use crate::http::wrong_keys::WrongKeys;
use crate::net::connection_guard::{Registry, Rejection};
use crate::net::key_limits::KeyUse;
use crate::net::memory_budget::MemoryBudget;
use crate::net::memory_pressure::MemoryPressure;
use crate::net::worker_pool::{Overcommit, WorkerPool};
use crate::observe::lock;
use crate::observe::metrics::Metrics;
use crate::observe::redact;
use crate::upstream::Trace;

const SIDE_LANE_WORKERS: usize = 2;

const SIDE_LANE_QUEUE: usize = 1024;

/// Threads that write responses to refused requests. They wait only for clients that do not read, or that
/// sent the request before they had their last response.
const REFUSAL_WORKERS: usize = 4;

/// Refused requests that wait for one of these threads, at least. Of each open connection there may be one.
const MIN_REFUSALS: usize = 1024;

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
    pub memory_budget: Arc<MemoryBudget>,
    pub memory_pressure: Arc<MemoryPressure>,
    /// `None` once no more requests are taken.
    pub pools: RwLock<Option<WorkerPools>>,
    /// Writes the responses to refused requests, also of those that come after the pools are closed.
    pub refusals: WorkerPool,
    /// The addresses that sent wrong client keys.
    pub wrong_keys: Mutex<WrongKeys>,
}

/// The threads that write the responses to refused requests.
///
/// # Errors
/// If the system refuses the first thread.
pub(super) fn start_refusals(max_connections: usize) -> io::Result<WorkerPool> {
    WorkerPool::start("refusal", REFUSAL_WORKERS, max_connections.max(MIN_REFUSALS))
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
        let lanes = pools.iter().flat_map(|pools| &pools.pools);
        lanes.chain([&self.refusals]).map(WorkerPool::load).sum()
    }

    /// Decides about a request and queues it, or lets a response be written that the workers are busy.
    pub(super) fn dispatch(&self, request: IncomingRequest) {
        let received = Instant::now();
        let head = RequestHead::read(&request);
        let (fault, connection) = (head.fault, head.connection);
        let peer = request.remote_addr().copied();
        let client = peer.map(|peer| peer.ip().to_canonical());
        let route = routes::resolve(ROUTES, request.method().as_str(), request.url());
        let registered = peer.map(|peer| self.registry.begin_request(peer, received));
        let (handle, rejection) = registered.unzip();
        let rejection = rejection.flatten();
        // One and the same for all decisions about the request.
        let access = lock::read(&self.access).clone();
        let fail = |error| AccessDecision {
            response: Some(EarlyResponse::Fail(error)),
            ..AccessDecision::default()
        };
        let decision = match (fault, &rejection) {
            (Some(_), _) => fail(Error::MalformedHead),
            (_, Some(Rejection::TooManyRequests)) => fail(Error::Busy),
            (_, Some(Rejection::Closing)) => AccessDecision::default(),
            (None, None) => {
                let request = describe(&request, &head, &route);
                self.count_wrong_keys(access.decide(&request), (client, received))
            }
        };
        let body_bytes = request.body_length().unwrap_or_default();
        let (decision, key_use) = begin_key_use(decision, &route, (received, body_bytes), &|| {
            handlers::is_passed_on(request.method().as_str(), request.url())
        });
        let request_id = format!("req_{:08x}", rand::random::<u32>());
        let (format, reservation) = (route.error_format, self.memory_budget.new_reservation());
        let mut exchange = Exchange::new(request, request_id, format, reservation, connection);
        handle.into_iter().for_each(|handle| exchange.attach(handle));
        if rejection == Some(Rejection::Closing) {
            return exchange.discard();
        }
        if let Some(fault) = fault {
            log::warn!("{} rejected: {fault}", exchange.request_id());
        }
        exchange.set_key_use(key_use);
        exchange.set_from_own_page(decision.is_from_own_page);
        let AccessDecision { response, headers, denial_reason: denial, key, .. } = decision;
        if fault.is_some() || denial == Some(Denial::TooManyWrongKeys) {
            // Not left to another thread: the next request on the connection may already have arrived.
            exchange.close_after_response();
        }
        exchange.add_headers(headers);
        let early_response = response;
        let job = Job { exchange, route, early_response, received, client, denial, access, key };
        self.submit(Box::new(job));
    }

    /// Counts wrong keys by address, and refuses an address that sends too many. A right key clears it.
    fn count_wrong_keys(
        &self,
        mut decision: AccessDecision,
        (client, now): (Option<IpAddr>, Instant),
    ) -> AccessDecision {
        let Some(client) = client else { return decision };
        if decision.has_right_key {
            lock::lock(&self.wrong_keys).clear(client);
        }
        if decision.denial_reason == Some(Denial::WrongKey)
            && let Some(wait) = lock::lock(&self.wrong_keys).record(client, now)
        {
            decision.response = Some(EarlyResponse::Fail(Error::TooManyWrongKeys(wait)));
            decision.denial_reason = Some(Denial::TooManyWrongKeys);
        }
        decision
    }

    fn submit(&self, mut job: Box<Job>) {
        let lane = match &job.early_response {
            None => job.route.lane(),
            // A preflight: what follows it is somebody's work.
            Some(EarlyResponse::Empty(204)) => Lane::Health,
            Some(_) => return self.refuse(job),
        };
        let error = {
            let is_main = lane == Lane::Main;
            // While no request is running, refusing a request would free no memory.
            let low_memory = is_main && {
                self.memory_pressure.update();
                self.memory_pressure.is_high()
            };
            let pools = lock::read(&self.pools);
            let permit = match &*pools {
                Some(pools) if low_memory && pools.pool(Lane::Main).load() > 0 => Err(Error::Busy),
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
        self.refuse(job);
    }

    /// Lets the response to a refused request be written.
    fn refuse(&self, mut job: Box<Job>) {
        let Some(permit) = self.refusals.try_reserve() else {
            // A client may send more and more requests without reading a response.
            job.exchange.close_after_response();
            return job.exchange.discard();
        };
        let metrics = self.metrics.clone();
        permit.run(move || finish(&metrics, job, &mut Trace::default(), |_, _, _| Ok(())));
    }
}

/// Counts a request that asks a model for its key, if that has a name, and refuses it where a limit of the key
/// is reached.
fn begin_key_use(
    mut decision: AccessDecision,
    route: &ResolvedRoute<Handler>,
    (received, body_bytes): (Instant, usize),
    is_passed_on: &dyn Fn() -> bool,
) -> (AccessDecision, Option<Arc<KeyUse>>) {
    let Some(key) = decision.key.as_ref().filter(|_| decision.response.is_none()) else {
        return (decision, None);
    };
    let asks_model = match route.outcome {
        Outcome::Found(found) => found.asks_model,
        Outcome::NotFound => is_passed_on(),
        Outcome::MethodNotAllowed(_) | Outcome::Redirect { .. } => false,
    };
    if !asks_model {
        return (decision, None);
    }
    match key.begin(received, body_bytes) {
        Ok(key_use) => (decision, Some(key_use)),
        Err(error) => {
            if let Error::KeyLimitReached(reached) = &error {
                decision.denial_reason = Some(Denial::KeyLimit(reached.limit));
            }
            decision.response = Some(EarlyResponse::Fail(error));
            (decision, None)
        }
    }
}

/// What access depends on.
fn describe<'a>(
    request: &'a IncomingRequest,
    head: &RequestHead<'a>,
    route: &ResolvedRoute<Handler>,
) -> RequestInfo<'a> {
    let RequestHead { origin, host, fetch_site, credentials, .. } = *head;
    let (method, target) = (request.method().as_str(), request.url());
    let (is_public, is_same_origin) = (route.is_public(), route.is_same_origin());
    RequestInfo { method, target, origin, host, fetch_site, credentials, is_public, is_same_origin }
}

/// The headers of a request that may hold a key.
fn credentials(exchange: &Exchange) -> Credentials<'_> {
    Credentials {
        authorization: exchange.header("Authorization"),
        api_key: exchange.header("x-api-key"),
    }
}

/// Runs a request on a worker.
fn serve(app: &App, job: Box<Job>) {
    match job.exchange.memory_budget() {
        Some(budget) => budget.scope(|| serve_counted(app, job)),
        None => serve_counted(app, job),
    }
}

fn serve_counted(app: &App, job: Box<Job>) {
    // The key that an upstream may get instead of its own.
    let client_key = if app.router().passes_client_keys() {
        job.access.find_foreign_key(credentials(&job.exchange))
    } else {
        None
    };
    redact::with_request_key(client_key.as_ref(), || {
        let (client_key, key_use) = (client_key.clone(), job.exchange.key_use().cloned());
        let mut trace = Trace { client_key, key_use, ..Trace::new(job.exchange.request_id()) };
        if handlers::asks_models(&job.route) {
            trace.live = app.metrics.board.ticket(job.route.pattern().unwrap_or("other"));
        }
        serve_traced(app, job, trace);
    });
}

fn serve_traced(app: &App, job: Box<Job>, mut trace: Trace) {
    let mut stack = StackTrimmer::default();
    let (received, metrics) = (job.received, &app.metrics);
    let key = job.key.clone();
    let work = |route: &ResolvedRoute<Handler>, exchange: &mut Exchange, trace: &mut Trace| {
        let (router, stack) = (app.router(), &mut stack);
        let app = AppView { state: app, router: &router, key: key.as_deref() };
        handlers::handle(Context { app, route, exchange, trace, stack, received_at: received })
    };
    match job.exchange.cancel_token() {
        // The client disconnected while the request was queued.
        Some(cancel) if cancel.is_cancelled() => {
            finish(metrics, job, &mut trace, |_, _, _| Err(Error::ClientDisconnected));
        }
        Some(cancel) => cancel.scope(|| finish(metrics, job, &mut trace, work)),
        None => finish(metrics, job, &mut trace, work),
    }
    stack.after_request();
}
