//! The model list, and who else is asked about the models.
//!
//! What a family tells beside its list (openai-wire.md 2.2) is asked for after it, in one short
//! attempt at each place. That never fails the list: what cannot be had is left out, and is not
//! asked for again for some minutes; what was told before stays. Only the configured server is ever
//! asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Call, Client, Trace};
use crate::backends::profiles::Side;
use crate::error::Result;
use crate::models::model;
use crate::models::model::{Listed, Told};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::breaker::Caller;

/// The longest wait for a model list, which every server has at hand.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for a model list that is only a help, or for a sign of life.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait for what is told beside a list: somebody waits for the list itself.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a place that told nothing is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);

/// What was told beside the list, and where nothing was.
#[derive(Default)]
pub(super) struct Asides(Mutex<HashMap<&'static str, Aside>>);

#[derive(Clone, Default)]
struct Aside {
    told: Option<Arc<Told>>,
    failed: Option<Instant>,
}

impl Client {
    /// `GET models`, and what is told beside it.
    ///
    /// # Errors
    /// Those of the upstream, and [`Error::UpstreamProtocol`](crate::error::Error::UpstreamProtocol)
    /// when the answer is no list.
    pub fn list_models(&self, trace: &mut Trace) -> Result<Listed> {
        let listed = self.list((self.policy, Caller::New), LIST_TIMEOUT, trace)?;
        Ok(self.completed(listed, trace))
    }

    /// The same, with one short attempt at the list.
    ///
    /// # Errors
    /// As [`Client::list_models`]; nothing is tried twice.
    pub fn list_models_once(&self, trace: &mut Trace) -> Result<Listed> {
        let listed = self.list((self.no_retry(), Caller::New), SHORT_TIMEOUT, trace)?;
        Ok(self.completed(listed, trace))
    }

    /// Whether the upstream answers: how many models it lists. Nobody else is asked. It is asked also
    /// while others are told at once that it is not there.
    ///
    /// # Errors
    /// As [`Client::list_models_once`].
    pub fn health_check(&self, trace: &mut Trace) -> Result<usize> {
        let how = (self.no_retry(), Caller::Check);
        self.list(how, SHORT_TIMEOUT, trace).map(|listed| listed.len())
    }

    fn no_retry(&self) -> RetryPolicy {
        RetryPolicy { max: 0, ..self.policy }
    }

    fn list(
        &self,
        how: (RetryPolicy, Caller),
        timeout: Duration,
        trace: &mut Trace,
    ) -> Result<Listed> {
        let call = self.get("list_models", "models", how, timeout);
        let list = self.send(&call, trace)?.into_text().and_then(|body| model::read_list(&body));
        list.map_err(|error| self.failed(self.cleaned(error)))
    }

    fn get(
        &self,
        operation: &'static str,
        path: &'static str,
        (policy, caller): (RetryPolicy, Caller),
        timeout: Duration,
    ) -> Call<'static> {
        let (body, stream, timeout) = (None, false, timeout.min(self.request_timeout));
        let (method, model) = ("GET", None);
        Call { operation, method, path, model, body, stream, policy, caller, timeout }
    }

    /// The list with all that is known besides: its family, what its side source tells, and the
    /// well-known facts.
    fn completed(&self, mut listed: Listed, trace: &Trace) -> Listed {
        if let Some(profile) = self.family() {
            listed.is_of(profile);
        }
        if let Some(told) = listed.side().and_then(|side| self.told(side, trace)) {
            listed.learn(&told);
        }
        listed.settled()
    }

    /// What a side source tells, from the first of its places that answers.
    fn told(&self, side: Side, trace: &Trace) -> Option<Arc<Told>> {
        side.paths().iter().find_map(|path| {
            let aside = self.asides.at(path);
            let left_alone = |failed: Instant| failed.elapsed() < LEFT_ALONE;
            if aside.failed.is_some_and(left_alone) {
                return aside.told;
            }
            let told = self.ask_aside(side, path, trace);
            self.asides.note(path, told)
        })
    }

    /// One attempt that counts nowhere: a server without such a place is not failing.
    fn ask_aside(&self, side: Side, path: &'static str, trace: &Trace) -> Option<Arc<Told>> {
        let how = (self.no_retry(), Caller::New);
        let call = self.get("list_models_aside", path, how, ASIDE_TIMEOUT);
        let mut aside = Trace { request_id: trace.request_id.clone(), ..Trace::default() };
        let answer = self.attempt(&call, &mut aside).and_then(|answer| answer.into_text());
        let (told, why) = match answer {
            Ok(body) => (Told::read(side, &body), "not the expected answer".into()),
            Err(error) => (None, self.redactor.clean(&error.to_string()).into_owned()),
        };
        if told.is_none() {
            log::debug!("{} {path} tells nothing: {why}", trace.request_id);
        }
        told.map(Arc::new)
    }
}

impl Asides {
    fn at(&self, path: &'static str) -> Aside {
        self.kept().get(path).cloned().unwrap_or_default()
    }

    /// Keeps what a place told. Where it told nothing, that is kept and what it told before.
    fn note(&self, path: &'static str, told: Option<Arc<Told>>) -> Option<Arc<Told>> {
        let mut kept = self.kept();
        let aside = kept.entry(path).or_default();
        aside.failed = told.is_none().then(Instant::now);
        aside.told = told.or(aside.told.take());
        aside.told.clone()
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<&'static str, Aside>> {
        // No code can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
