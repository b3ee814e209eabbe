//! The model lists of several upstreams, fetched at the same time.
//!
//! Each list is fetched by a thread of its own, so that a slow or broken upstream delays no other one: a
//! request waits for lists that it needs until one is there, then for the others a moment longer. The last
//! list of an upstream is shown until the upstream sends another one. Invariant: at most one fetch of a list
//! is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Router;
use crate::error::{Error, Result};
use crate::models::catalog::{CachedList, RefreshGuard, SharedModelList};
use crate::models::list::ModelList;
use crate::net::cancel;
use crate::upstream::model_list::REVALIDATE_WAIT;
use crate::upstream::{Trace, Upstream};

/// How long a request waits for lists while it has none.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(10);

/// How long it waits for the others once it has one.
const OTHER_LISTS_WAIT: Duration = Duration::from_secs(2);

impl Router {
    /// The list of each upstream, in their order, as far as one is at hand; newer ones are fetched behind
    /// the request.
    pub(crate) fn cached_lists(&self, trace: &Trace) -> Vec<Option<SharedModelList>> {
        let cached = |upstream: &Arc<Upstream>| {
            let (list, is_current) = upstream.look_up_list();
            if !is_current {
                upstream.refresh_behind(trace, None);
            }
            list
        };
        self.upstreams.iter().map(cached).collect()
    }

    /// The same, after a bounded wait for those that are not at hand or not current.
    pub(crate) fn lists(&self, trace: &Trace) -> Vec<Option<SharedModelList>> {
        let (sender, changes) = bounded(self.upstreams.len());
        let mut pending = Vec::new();
        let (mut has_list, mut lacks_list) = (false, false);
        for upstream in &self.upstreams {
            let (list, is_current) = upstream.look_up_list();
            has_list |= list.is_some();
            if !is_current && upstream.refresh_behind(trace, Some(&sender)) {
                lacks_list |= list.is_none() || !upstream.catalog.keeps_lists();
                pending.push(upstream);
            }
        }
        drop(sender);
        let wait = if lacks_list { OTHER_LISTS_WAIT } else { REVALIDATE_WAIT };
        self.wait_for_lists(&changes, pending, (has_list, wait));
        self.upstreams.iter().map(|upstream| upstream.look_up_list().0).collect()
    }

    /// Waits until all fetches have ended, or for `wait` once some list is there. A fetch that failed brings
    /// none.
    fn wait_for_lists(
        &self,
        changes: &Receiver<()>,
        mut pending: Vec<&Arc<Upstream>>,
        (has_list, wait): (bool, Duration),
    ) {
        let began = Instant::now();
        let mut first_list_at = has_list.then_some(began);
        loop {
            pending.retain(|upstream| upstream.catalog.is_refreshing());
            let has_list = || self.upstreams.iter().any(|it| it.catalog.get_cached().is_some());
            first_list_at = first_list_at.or_else(|| has_list().then(Instant::now));
            let deadline = list_deadline(began, first_list_at, wait);
            let left = deadline.saturating_duration_since(Instant::now());
            if pending.is_empty() || left.is_zero() || cancel::is_cancelled() {
                return;
            }
            let change = changes.recv_timeout(left.min(cancel::POLL_INTERVAL));
            if change == Err(RecvTimeoutError::Disconnected) {
                // All of these fetches have ended; others may have begun, which tell somebody else.
                return;
            }
        }
    }

    /// One list of all models, each id once, in the order of the upstreams.
    ///
    /// # Errors
    /// That of the first upstream, if none has a list.
    pub(crate) fn merged_list(&self, trace: &Trace) -> Result<SharedModelList> {
        let lists: Vec<SharedModelList> = self.lists(trace).into_iter().flatten().collect();
        if lists.is_empty() {
            let failure = self.upstreams.iter().find_map(|upstream| upstream.catalog.last_error());
            return Err(failure.unwrap_or(Error::Connect("no upstream has sent a list yet".into())));
        }
        Ok(Arc::new(ModelList::merge(lists.iter().map(|list| &**list))))
    }
}

/// When a wait that began then is over: `wait` after the first list.
fn list_deadline(began: Instant, first_list_at: Option<Instant>, wait: Duration) -> Instant {
    let last = began + FIRST_LIST_WAIT;
    first_list_at.map_or(last, |at| last.min(at + wait))
}

impl Upstream {
    /// Fetches the list behind the request if none came for `interval`, and none was tried for.
    pub(crate) fn refresh_if_older(self: &Arc<Self>, interval: Duration, trace: &Trace) {
        if !self.catalog.was_tried_within(interval) {
            self.refresh_behind(trace, None);
        }
    }

    /// Fetches the list behind the request if that was not tried for an hour: it also finds out anew what
    /// kind of server answers. Requests for known models need no list, and would never ask for it.
    pub(crate) fn relearn_if_due(self: &Arc<Self>, trace: &Trace) {
        if self.catalog.is_untried_for(self.settings.learnt_ttl) {
            self.refresh_behind(trace, None);
        }
    }

    /// The last list, and whether there is no need to fetch another one now.
    fn look_up_list(&self) -> (Option<SharedModelList>, bool) {
        match self.catalog.lookup() {
            CachedList::Fresh(list) => (Some(list), true),
            CachedList::Stale(list) => (Some(list), self.catalog.has_failed_lately()),
            // The last one stays until there is another one.
            CachedList::Missing => (self.catalog.get_cached(), self.catalog.has_failed_lately()),
        }
    }

    /// Fetches the list behind the request, unless a fetch is under way. `sender` is told when the fetch
    /// has ended. `false` if there is none.
    fn refresh_behind(self: &Arc<Self>, trace: &Trace, sender: Option<&Sender<()>>) -> bool {
        let begins = self.catalog.begin_refresh();
        let is_subscribed = sender.is_none_or(|sender| self.catalog.subscribe(sender));
        if !begins {
            return is_subscribed;
        }
        let (upstream, mut trace) = (self.clone(), trace.clone());
        self.spawn_refresh(move || {
            let _refresh = RefreshGuard(&upstream.catalog);
            // The catalog keeps the error.
            let _ = upstream.store_list(upstream.client.list_models_quickly(&mut trace));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_the_others_begins_with_the_first_list() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(list_deadline(began, None, OTHER_LISTS_WAIT), after(10));
        assert_eq!(list_deadline(began, Some(began), OTHER_LISTS_WAIT), after(2));
        assert_eq!(list_deadline(began, Some(after(5)), OTHER_LISTS_WAIT), after(7));
        assert_eq!(list_deadline(began, Some(after(9)), OTHER_LISTS_WAIT), after(10));
    }
}
