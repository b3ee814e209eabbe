//! The upstream's model list, and what its family tells of the models beside it.
//!
//! The details are fetched after the list, in one short attempt at each place where the family has
//! them. A failure there never fails the list: the details are left out, and the place is not asked
//! again for some minutes; earlier details stay for an hour. A list that is no longer fresh is shown at once, while
//! a newer one is fetched behind the request. Invariant: only the configured server is ever asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::transport::agent::Payload;
use super::{Client, ConnectionPolicy, Operation, Trace, Upstream};
use crate::backends::profiles::DetailsProbe;
use crate::error::{Error, Result, TimeoutPhase};
use crate::models::catalog::{CachedList, RefreshGuard, SharedModelList};
use crate::models::list::{self, ModelList};
use crate::models::probes::ModelFacts;
use crate::net::memory_budget;
use crate::observe::lock::lock;
use crate::observe::redact;
use crate::observe::system_error;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::breaker::Caller;
use crate::upstream::retry::Call;

/// The longest wait for a model list, which every server has at hand.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for a list that is not needed, only helpful, or for a health check.
const QUICK_LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for details, because a request waits for the list itself.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request waits for a newer list than the one at hand.
pub(super) const REVALIDATE_WAIT: Duration = Duration::from_millis(500);

/// How long a place without details is not asked again.
const DETAILS_RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// The details by their place.
pub(super) struct ModelDetailsCache {
    entries: Mutex<HashMap<&'static str, DetailsEntry>>,
    ttl: Duration,
}

#[derive(Default)]
struct DetailsEntry {
    /// What came last, and when.
    facts: Option<(Arc<ModelFacts>, Instant)>,
    failed_at: Option<Instant>,
}

impl Upstream {
    /// A list that is fresh enough, or the last one while the upstream cannot say more.
    pub(crate) fn get_model_list(self: &Arc<Self>, trace: &mut Trace) -> Result<SharedModelList> {
        match self.catalog.lookup() {
            CachedList::Fresh(list) => Ok(list),
            CachedList::Stale(list) => Ok(self.revalidate(list, trace)),
            CachedList::Missing => self.refresh_model_list(trace),
        }
    }

    /// A new list.
    pub(crate) fn refresh_model_list(&self, trace: &mut Trace) -> Result<SharedModelList> {
        self.store_list(self.client.list_models(trace))
    }

    /// Caches what a fetch returned. A list for which the memory budget has no room serves this request alone.
    pub(super) fn store_list(&self, fetched: Result<ModelList>) -> Result<SharedModelList> {
        match fetched {
            Ok(list) if !lock(&self.list_bytes).try_resize(list.bytes()) => Ok(Arc::new(list)),
            fetched => self.catalog.store(fetched),
        }
    }

    /// The list from the cache, or from one short attempt. A list helps to understand a request, but
    /// the request does not fail without a list, and the attempt does not count as the request's own.
    pub(crate) fn try_get_model_list(self: &Arc<Self>, trace: &Trace) -> Option<SharedModelList> {
        match self.catalog.lookup() {
            CachedList::Fresh(list) => Some(list),
            CachedList::Stale(list) => Some(self.revalidate(list, &mut trace.clone())),
            CachedList::Missing if self.catalog.has_failed_lately() => self.catalog.get_cached(),
            CachedList::Missing => {
                let fetched = self.client.list_models_quickly(&mut trace.clone());
                self.store_list(fetched).ok().or_else(|| self.catalog.get_cached())
            }
        }
    }

    /// Fetches a newer list behind the request, which waits for the list for a moment only; then the
    /// stale one is returned. After a failure the stale one is returned at once for a while. Lists that
    /// are not kept are fetched in the request, which then can be cancelled.
    fn revalidate(self: &Arc<Self>, stale: SharedModelList, trace: &mut Trace) -> SharedModelList {
        if !self.catalog.keeps_lists() {
            return self.refresh_model_list(trace).unwrap_or(stale);
        }
        if self.catalog.has_failed_lately() || !self.catalog.begin_refresh() {
            return stale;
        }
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let (upstream, mut refresh_trace) = (self.clone(), trace.clone());
        let is_started = self.spawn_refresh(move || {
            let fetched = {
                let _refresh = RefreshGuard(&upstream.catalog);
                upstream.refresh_model_list(&mut refresh_trace)
            };
            // The receiver is gone if the request did not wait so long.
            let _ = sender.send((fetched, refresh_trace));
        });
        if !is_started {
            return stale;
        }
        match receiver.recv_timeout(REVALIDATE_WAIT) {
            Ok((fetched, refresh_trace)) => {
                *trace = refresh_trace;
                fetched.unwrap_or(stale)
            }
            Err(_) => stale,
        }
    }

    /// Starts the fetch that [`Catalog::begin_refresh`](crate::models::catalog::Catalog::begin_refresh)
    /// announced, on a thread of its own; `false`, and the fetch is over, if there is none.
    pub(super) fn spawn_refresh(&self, refresh: impl FnOnce() + Send + 'static) -> bool {
        let spawned =
            thread::Builder::new().name("model-list".into()).spawn(memory_budget::inherit(refresh));
        if let Err(error) = &spawned {
            log::warn!(
                "cannot start a thread to refresh the model list: {}",
                system_error::describe_spawn(error)
            );
            self.catalog.end_refresh();
        }
        spawned.is_ok()
    }
}

impl Client {
    /// `GET models`, and the details.
    ///
    /// # Errors
    /// Those of the upstream, and [`Error::UpstreamProtocol`]
    /// when the response is not a list.
    pub fn list_models(&self, trace: &mut Trace) -> Result<ModelList> {
        self.list_with_details((self.retry_policy, Caller::New), LIST_TIMEOUT, trace)
    }

    /// The same, with one short attempt at the list.
    ///
    /// # Errors
    /// As [`Client::list_models`].
    pub fn list_models_quickly(&self, trace: &mut Trace) -> Result<ModelList> {
        self.list_with_details((self.no_retry_policy(), Caller::New), QUICK_LIST_TIMEOUT, trace)
    }

    fn list_with_details(
        &self,
        attempt: (RetryPolicy, Caller),
        timeout: Duration,
        trace: &mut Trace,
    ) -> Result<ModelList> {
        let client_key = trace.client_key.clone();
        // Lists are fetched on threads that serve no request.
        redact::with_request_key(client_key.as_ref(), || {
            let fetch = |trace: &mut Trace| self.fetch_list(attempt, timeout, trace);
            // The texts of the responses are not held.
            memory_budget::part(|| {
                let list = self.fixed_list().map_or_else(|| fetch(trace), Ok)?;
                Ok(self.add_details(list, trace))
            })
        })
    }

    /// The list of the configuration, of a server that is not asked for one.
    pub(crate) fn fixed_list(&self) -> Option<ModelList> {
        let ids = self.settings.list.as_ref()?;
        Some(ModelList::from_ids(ids).filtered(|id| self.settings.allows(id)))
    }

    /// What the upstream lists, as a sign that it answers. Also asks while the circuit is open.
    ///
    /// # Errors
    /// As [`Client::list_models_quickly`].
    pub fn check_health(&self, trace: &mut Trace) -> Result<ModelList> {
        let attempt = (self.no_retry_policy(), Caller::HealthCheck);
        self.fetch_list(attempt, QUICK_LIST_TIMEOUT, trace)
    }

    pub(super) fn no_retry_policy(&self) -> RetryPolicy {
        RetryPolicy { max_retries: 0, ..self.retry_policy }
    }

    fn fetch_list(
        &self,
        (retry_policy, caller): (RetryPolicy, Caller),
        timeout: Duration,
        trace: &mut Trace,
    ) -> Result<ModelList> {
        let mut call =
            Call { retry_policy, caller, ..self.new_get_call(Operation::LIST_MODELS, timeout) };
        let result = self.retry(&mut call, trace, Self::read_response).map_err(|mut failure| {
            failure.error = name_limit(failure.error, timeout, self.agent.timeout);
            failure
        });
        let result = self.log_result(Operation::LIST_MODELS, trace, result);
        let response = result.map_err(|failure| failure.error)?;
        let list = self.parse(response, |body| list::parse_list(&body))?;
        Ok(list.filtered(|id| self.settings.allows(id)))
    }

    fn new_get_call(&self, operation: Operation, timeout: Duration) -> Call<'static> {
        let mut call = self.new_call(operation, None, Payload::Empty);
        call.request.timeout = timeout.min(self.agent.timeout);
        call
    }

    /// The list with all that is known besides: its family, the details, and well-known facts.
    fn add_details(&self, mut list: ModelList, trace: &Trace) -> ModelList {
        self.recheck_ollama(trace);
        if let Some(profile) = self.current_profile() {
            list.set_profile(profile);
        }
        // What the operator lists is not asked for.
        if self.settings.list.is_some() {
            return list.with_defaults();
        }
        self.merge_details(&mut list, trace);
        if let Some(profile) = self.detect_ollama(&list, trace) {
            let has_details = list.profile == Some(profile);
            list.set_profile(profile);
            if !has_details {
                self.merge_details(&mut list, trace);
            }
        }
        list.with_defaults()
    }

    fn merge_details(&self, list: &mut ModelList, trace: &Trace) {
        if let Some(facts) = list.details_probe().and_then(|probe| self.get_details(probe, trace)) {
            list.merge_facts(&facts);
        }
    }

    /// The details from the first place that has some.
    fn get_details(&self, probe: DetailsProbe, trace: &Trace) -> Option<Arc<ModelFacts>> {
        probe.paths().iter().find_map(|path| {
            let (facts, failed_lately) = self.model_details.get(path, Instant::now());
            if failed_lately {
                return facts;
            }
            let facts = self.fetch_details(probe, path, trace);
            self.model_details.record(path, facts, Instant::now())
        })
    }

    /// One attempt that counts nowhere: a server without such a place is not failing.
    fn fetch_details(
        &self,
        probe: DetailsProbe,
        path: &'static str,
        trace: &Trace,
    ) -> Option<Arc<ModelFacts>> {
        let mut call = self.new_get_call(Operation::model_details(path), DETAILS_TIMEOUT);
        let response = self.exchange(
            &mut call,
            ConnectionPolicy::Reuse,
            &mut trace.clone(),
            Self::read_response,
        );
        let body = response.and_then(|response| Ok(response.into_text()?));
        let (facts, why) = match body {
            Ok(body) => (ModelFacts::parse(probe, &body), "unexpected response".into()),
            Err(failure) => (None, self.redactor.redact(&failure.error.to_string()).into_owned()),
        };
        if facts.is_none() {
            log::debug!(
                "{} no model details from {path}: {why}; asking again in {} minutes",
                trace.request_id,
                DETAILS_RETRY_INTERVAL.as_secs() / 60
            );
        }
        facts.map(Arc::new)
    }
}

/// A list that came too late: unless it is the shorter one, REQUEST_TIMEOUT is not to blame.
fn name_limit(error: Error, limit: Duration, request_timeout: Duration) -> Error {
    match error {
        Error::UpstreamTimeout(TimeoutPhase::Head) if limit < request_timeout => {
            Error::UpstreamTimeout(TimeoutPhase::List(limit))
        }
        error => error,
    }
}

impl ModelDetailsCache {
    /// No details; each are kept for `ttl` after their place had them last.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { entries: Mutex::default(), ttl }
    }

    /// The details of a place, and whether it had none lately.
    fn get(&self, path: &'static str, now: Instant) -> (Option<Arc<ModelFacts>>, bool) {
        let entries = lock(&self.entries);
        let Some(entry) = entries.get(path) else { return (None, false) };
        let is_recent = |at: Instant| now.duration_since(at) < DETAILS_RETRY_INTERVAL;
        (self.current_facts(entry, now), entry.failed_at.is_some_and(is_recent))
    }

    fn current_facts(&self, entry: &DetailsEntry, now: Instant) -> Option<Arc<ModelFacts>> {
        let facts = entry.facts.as_ref();
        let facts = facts.filter(|(_, since)| now.duration_since(*since) < self.ttl);
        facts.map(|(facts, _)| facts.clone())
    }

    /// Keeps what a place returned, and what it returned before where it has nothing now.
    fn record(
        &self,
        path: &'static str,
        facts: Option<Arc<ModelFacts>>,
        now: Instant,
    ) -> Option<Arc<ModelFacts>> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(path).or_default();
        entry.failed_at = facts.is_none().then_some(now);
        match facts {
            Some(facts) => entry.facts = Some((facts, now)),
            None => {
                entry.facts = self.current_facts(entry, now).zip(entry.facts.take().map(|it| it.1))
            }
        }
        entry.facts.as_ref().map(|(facts, _)| facts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_list_names_the_limit_that_it_exceeded() {
        let late = || Error::UpstreamTimeout(TimeoutPhase::Head);
        let told = |limit, request| {
            let seconds = Duration::from_secs;
            name_limit(late(), seconds(limit), seconds(request)).message()
        };
        assert_eq!(told(30, 300), "no list of models from the upstream within 30 s");
        assert_eq!(told(30, 30), late().message());
        assert_eq!(told(30, 5), late().message());
        let other = Error::UpstreamTimeout(TimeoutPhase::Connect);
        assert_eq!(name_limit(other.clone(), Duration::ZERO, LIST_TIMEOUT), other);
    }

    #[test]
    fn details_are_kept_for_an_hour_after_their_place_had_them_last() {
        let ttl = Duration::from_secs(3600);
        let (cache, now) = (ModelDetailsCache::new(ttl), Instant::now());
        let facts =
            ModelFacts::parse(DetailsProbe::OpenRouterEmbeddings, r#"{"data":[]}"#).map(Arc::new);
        assert!(cache.record("props", facts, now).is_some());
        assert!(cache.record("props", None, now + ttl / 2).is_some());
        assert!(cache.get("props", now + ttl / 2).1);
        assert!(cache.get("props", now + ttl).0.is_none());
        assert!(cache.record("props", None, now + ttl).is_none());
        assert!(cache.get("props", now).0.is_none(), "gone from memory");
    }
}
