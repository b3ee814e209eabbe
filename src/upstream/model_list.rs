//! The model list, and who else is asked about the models.
//!
//! What a family tells beside its list (openai-wire.md 2.2) is asked for after it, in one short
//! attempt at each place. That never fails the list: what cannot be had is left out, and is not
//! asked for again for some minutes; what was told before stays. Only the configured server is ever
//! asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Call, Client, Trace};
use crate::backends::profiles::DetailsProbe;
use crate::error::Result;
use crate::models::list::{self, ModelList};
use crate::models::probes::ModelFacts;
use crate::observe::lock::lock;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::breaker::Caller;

/// The longest wait for a model list, which every server has at hand.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for a model list that is only a help, or for a sign of life.
const QUICK_LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for what is told beside a list: somebody waits for the list itself.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a place that told nothing is left alone.
const DETAILS_RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// What was told beside the list, and where nothing was.
#[derive(Default)]
pub(super) struct ModelDetails(Mutex<HashMap<&'static str, DetailsEntry>>);

#[derive(Clone, Default)]
struct DetailsEntry {
    facts: Option<Arc<ModelFacts>>,
    failed_at: Option<Instant>,
}

impl Client {
    /// `GET models`, and what is told beside it.
    ///
    /// # Errors
    /// Those of the upstream, and [`Error::UpstreamProtocol`](crate::error::Error::UpstreamProtocol)
    /// when the answer is no list.
    pub fn list_models(&self, trace: &mut Trace) -> Result<ModelList> {
        let listed = self.fetch_list((self.retry_policy, Caller::New), LIST_TIMEOUT, trace)?;
        Ok(self.add_details(listed, trace))
    }

    /// The same, with one short attempt at the list.
    ///
    /// # Errors
    /// As [`Client::list_models`]; nothing is tried twice.
    pub fn list_models_quickly(&self, trace: &mut Trace) -> Result<ModelList> {
        let listed =
            self.fetch_list((self.no_retry_policy(), Caller::New), QUICK_LIST_TIMEOUT, trace)?;
        Ok(self.add_details(listed, trace))
    }

    /// Whether the upstream answers: how many models it lists. Nobody else is asked. It is asked also
    /// while others are told at once that it is not there.
    ///
    /// # Errors
    /// As [`Client::list_models_quickly`].
    pub fn check_health(&self, trace: &mut Trace) -> Result<usize> {
        let how = (self.no_retry_policy(), Caller::HealthCheck);
        self.fetch_list(how, QUICK_LIST_TIMEOUT, trace).map(|listed| listed.len())
    }

    fn no_retry_policy(&self) -> RetryPolicy {
        RetryPolicy { max_retries: 0, ..self.retry_policy }
    }

    fn fetch_list(
        &self,
        how: (RetryPolicy, Caller),
        timeout: Duration,
        trace: &mut Trace,
    ) -> Result<ModelList> {
        let call = self.build_get_call("list_models", "models", how, timeout);
        let list = self.send(&call, trace)?.into_text().and_then(|body| list::parse_list(&body));
        list.map_err(|error| self.count_failure(self.redact_error(error)))
    }

    fn build_get_call(
        &self,
        operation: &'static str,
        path: &'static str,
        (policy, caller): (RetryPolicy, Caller),
        timeout: Duration,
    ) -> Call<'static> {
        let (body, stream, timeout) = (None, false, timeout.min(self.request_timeout));
        let (method, model) = ("GET", None);
        Call { operation, method, path, model, body, stream, retry_policy: policy, caller, timeout }
    }

    /// The list with all that is known besides: its family, what its side source tells, and the
    /// well-known facts.
    fn add_details(&self, mut listed: ModelList, trace: &Trace) -> ModelList {
        if let Some(profile) = self.current_profile() {
            listed.set_profile(profile);
        }
        if let Some(told) = listed.details_probe().and_then(|side| self.get_details(side, trace)) {
            listed.merge_facts(&told);
        }
        listed.with_defaults()
    }

    /// What a side source tells, from the first of its places that answers.
    fn get_details(&self, side: DetailsProbe, trace: &Trace) -> Option<Arc<ModelFacts>> {
        side.paths().iter().find_map(|path| {
            let aside = self.model_details.get(path);
            let left_alone = |failed: Instant| failed.elapsed() < DETAILS_RETRY_INTERVAL;
            if aside.failed_at.is_some_and(left_alone) {
                return aside.facts;
            }
            let told = self.fetch_details(side, path, trace);
            self.model_details.record(path, told)
        })
    }

    /// One attempt that counts nowhere: a server without such a place is not failing.
    fn fetch_details(
        &self,
        side: DetailsProbe,
        path: &'static str,
        trace: &Trace,
    ) -> Option<Arc<ModelFacts>> {
        let how = (self.no_retry_policy(), Caller::New);
        let call = self.build_get_call("list_models_aside", path, how, DETAILS_TIMEOUT);
        let mut aside = Trace { request_id: trace.request_id.clone(), ..Trace::default() };
        let answer = self.attempt(&call, &mut aside).and_then(|answer| answer.into_text());
        let (told, why) = match answer {
            Ok(body) => (ModelFacts::parse(side, &body), "not the expected answer".into()),
            Err(error) => (None, self.redactor.redact(&error.to_string()).into_owned()),
        };
        if told.is_none() {
            log::debug!("{} {path} tells nothing: {why}", trace.request_id);
        }
        told.map(Arc::new)
    }
}

impl ModelDetails {
    fn get(&self, path: &'static str) -> DetailsEntry {
        lock(&self.0).get(path).cloned().unwrap_or_default()
    }

    /// Keeps what a place told. Where it told nothing, that is kept and what it told before.
    fn record(&self, path: &'static str, told: Option<Arc<ModelFacts>>) -> Option<Arc<ModelFacts>> {
        let mut kept = lock(&self.0);
        let aside = kept.entry(path).or_default();
        aside.failed_at = told.is_none().then(Instant::now);
        aside.facts = told.or(aside.facts.take());
        aside.facts.clone()
    }
}
