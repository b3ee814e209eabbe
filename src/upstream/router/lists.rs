//! The model lists of several upstreams, fetched at the same time.
//!
//! Each list is fetched by a thread of its own, so that a slow or broken upstream delays no other one: a
//! request waits for lists that it needs until one is there, then for the others a moment longer. The last
//! list of an upstream is shown until the upstream sends another one. Invariant: at most one fetch of a list
//! is under way.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Router;
use crate::error::{Error, Result};
use crate::models::catalog::{CachedList, RefreshGuard, SharedModelList};
use crate::models::list::ModelList;
use crate::net::cancel;
use crate::upstream::{Trace, Upstream};

/// How long a request waits for lists while it has none.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(10);

/// How long it waits for the others once it has one.
const OTHER_LISTS_WAIT: Duration = Duration::from_secs(2);

/// How long it waits for newer lists than those at hand.
const REVALIDATE_WAIT: Duration = Duration::from_millis(500);

/// How often a request that waits looks whether its client has disconnected.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(200);

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
        wait_for_changes(&changes, pending, (has_list, wait));
        self.upstreams.iter().map(|upstream| upstream.look_up_list().0).collect()
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

/// Waits until all fetches have ended, or for `wait` once some list is there.
fn wait_for_changes(
    changes: &Receiver<()>,
    mut pending: Vec<&Arc<Upstream>>,
    (mut has_list, wait): (bool, Duration),
) {
    let began = Instant::now();
    let mut deadline = began + if has_list { wait } else { FIRST_LIST_WAIT };
    loop {
        pending.retain(|upstream| upstream.catalog.is_refreshing());
        let left = deadline.saturating_duration_since(Instant::now());
        if pending.is_empty() || left.is_zero() || cancel::is_cancelled() {
            return;
        }
        if changes.recv_timeout(left.min(CANCEL_POLL_INTERVAL)).is_ok() && !has_list {
            has_list = true;
            deadline = deadline.min(Instant::now() + wait);
        }
    }
}

impl Upstream {
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
        let refresh = move || {
            let _refresh = RefreshGuard(&upstream.catalog);
            // The catalog keeps the error.
            let _ = upstream.catalog.store(upstream.client.list_models_quickly(&mut trace));
        };
        let spawned = thread::Builder::new().name("model-list".into()).spawn(refresh);
        if let Err(error) = &spawned {
            log::warn!("cannot start a thread to refresh the model list: {error}");
            self.catalog.end_refresh();
        }
        spawned.is_ok()
    }
}
