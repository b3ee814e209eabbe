//! Where a name leads: the models of upstreams that a request may be sent to, and their order.
//!
//! A name means, in this order: a model of the configuration, a model made here, an id that an upstream
//! lists (exactly, then by the rules for names), `upstream/id`. A name that no list has goes to upstreams
//! without a list only, so that no prompt reaches a server that cannot have the model. With one upstream,
//! lists are incomplete, and any name is tried. Invariant: each upstream is at most once among the
//! candidates for one id.

use std::sync::Arc;

use super::Router;
use super::rendezvous::ConversationKey;
use crate::models::catalog::{self, SharedModelList};
use crate::models::configured::{ConfiguredModel, Strategy, Target};
use crate::models::model::Model;
use crate::observe::circuit_state::CircuitState;
use crate::upstream::{Trace, Upstream};

/// A model of an upstream.
#[derive(Clone)]
pub(crate) struct Candidate {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The name of the model there: an id, or another spelling of it.
    pub name: String,
}

/// The models of upstreams that a name means.
pub(crate) struct Candidates {
    /// In the order of the configuration; empty for an unknown name.
    pub list: Vec<Candidate>,
    /// Which one gets a request.
    pub strategy: Strategy,
}

impl Router {
    /// The candidates of a model of the configuration.
    pub(crate) fn targets(&self, model: &ConfiguredModel, trace: &Trace) -> Candidates {
        let candidates = |target: &Target| match &target.upstream {
            Some(name) => {
                let upstream = self.find_upstream(name);
                upstream.map(|upstream| upstream.candidate(&target.id)).into_iter().collect()
            }
            None => self.find_candidates(&target.id, trace),
        };
        let list = model.targets.iter().flat_map(candidates).collect();
        Candidates { list, strategy: model.strategy }
    }

    /// The candidates of the name of an upstream's model.
    pub(crate) fn candidates(&self, name: &str, trace: &Trace) -> Candidates {
        Candidates { list: self.find_candidates(name, trace), strategy: Strategy::Order }
    }

    fn find_candidates(&self, name: &str, trace: &Trace) -> Vec<Candidate> {
        if let [only] = self.upstreams() {
            return self.single_candidate(only, name);
        }
        let lists = self.cached_lists(trace);
        let found = self.listed_or_prefixed(name, &lists, Some(&lists));
        if !found.is_empty() {
            return found;
        }
        // The lists may be old, or not there yet.
        let lists = self.lists(trace);
        let found = self.listed_or_prefixed(name, &lists, None);
        if !found.is_empty() {
            return found;
        }
        // A name that is meant for one upstream is not the business of others.
        if name.split_once('/').is_some_and(|(prefix, _)| self.find_upstream(prefix).is_some()) {
            return Vec::new();
        }
        let without_list = self
            .upstreams
            .iter()
            .zip(&lists)
            .filter(|(upstream, list)| list.is_none() && upstream.settings.server.allows(name));
        without_list.map(|(upstream, _)| upstream.candidate(name)).collect()
    }

    /// With one upstream the list decides nothing but whether a prefix is part of the id.
    fn single_candidate(&self, upstream: &Arc<Upstream>, name: &str) -> Vec<Candidate> {
        let is_listed = |list: SharedModelList| catalog::find_model(&list, name).is_some();
        let candidate = match self.by_prefix(name, None) {
            Some(candidate) if !upstream.catalog.get_cached().is_some_and(is_listed) => candidate,
            _ => upstream.candidate(name),
        };
        let is_allowed = upstream.settings.server.allows(&candidate.name);
        if is_allowed { vec![candidate] } else { Vec::new() }
    }

    /// The upstreams that list a name, or else the one that its prefix names: with `of_prefix` only if that
    /// list has the id.
    fn listed_or_prefixed(
        &self,
        name: &str,
        lists: &[Option<SharedModelList>],
        of_prefix: Option<&[Option<SharedModelList>]>,
    ) -> Vec<Candidate> {
        let found = self.listed(name, lists);
        if found.is_empty() {
            return self.by_prefix(name, of_prefix).into_iter().collect();
        }
        found
    }

    /// The upstreams that list a name: exactly, or else by the rules for names.
    fn listed(&self, name: &str, lists: &[Option<SharedModelList>]) -> Vec<Candidate> {
        let pairs = || self.upstreams.iter().zip(lists);
        let exact = pairs().filter(|(_, list)| {
            list.as_ref().is_some_and(|list| list.iter().any(|model| model.id == name))
        });
        let exact: Vec<_> = exact.map(|(upstream, _)| upstream.candidate(name)).collect();
        if !exact.is_empty() {
            return exact;
        }
        let by_rules = pairs().filter_map(|(upstream, list)| {
            let model = catalog::find_model(list.as_deref()?, name)?;
            Some(upstream.candidate(&model.id))
        });
        by_rules.collect()
    }

    /// The model that `upstream/id` names. With `lists`, only one that is listed.
    fn by_prefix(
        &self,
        name: &str,
        lists: Option<&[Option<SharedModelList>]>,
    ) -> Option<Candidate> {
        let (prefix, id) = name.split_once('/')?;
        let at = self.upstreams.iter().position(|upstream| upstream.name() == prefix)?;
        let upstream = &self.upstreams[at];
        let is_listed = |lists: &[Option<SharedModelList>]| {
            let list = lists.get(at).and_then(Option::as_deref);
            list.is_some_and(|list| catalog::find_model(list, id).is_some())
        };
        let is_found = lists.is_none_or(is_listed);
        let is_allowed = !id.is_empty() && upstream.settings.server.allows(id);
        (is_found && is_allowed).then(|| upstream.candidate(id))
    }

    /// The model of a name that some list has.
    pub(crate) fn find_listed(&self, name: &str, trace: &Trace) -> Option<Model> {
        self.find_candidates(name, trace).iter().find_map(Candidate::listed_model)
    }
}

impl Candidate {
    /// What the upstream's list says of the model.
    pub(crate) fn listed_model(&self) -> Option<Model> {
        catalog::find_model(&self.upstream.catalog.get_cached()?, &self.name).cloned()
    }
}

impl Upstream {
    fn candidate(self: &Arc<Self>, name: &str) -> Candidate {
        Candidate { upstream: self.clone(), name: name.to_owned() }
    }

    /// True if attempts are known to fail now.
    pub(crate) fn is_out(&self) -> bool {
        self.client.circuit_state() != CircuitState::Closed
    }
}

impl Candidates {
    /// Puts the candidates into the order in which they are asked.
    pub(crate) fn sort(&mut self, key: impl FnOnce() -> ConversationKey) {
        if self.list.len() < 2 {
            return;
        }
        let score: &dyn Fn(&Candidate) -> u64 = match self.strategy {
            Strategy::Order => return,
            Strategy::LeastBusy => &|candidate| candidate.upstream.slots.in_flight() as u64,
            Strategy::Sticky => {
                let key = key();
                &move |it| !key.score_joined(&[it.upstream.name(), "/", &it.name])
            }
        };
        let mut sorted: Vec<(u64, Candidate)> = Vec::with_capacity(self.list.len());
        for candidate in self.list.drain(..) {
            let score = score(&candidate);
            let place = sorted.partition_point(|(other, _)| *other <= score);
            sorted.insert(place, (score, candidate));
        }
        self.list.extend(sorted.into_iter().map(|(_, candidate)| candidate));
    }
}
