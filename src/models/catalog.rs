//! A cache of the upstream's model list.
//!
//! Never fetches by itself: callers store what they fetched. No lock is held during a fetch. A failed
//! fetch keeps the previous list, which is shown for five minutes more.
//! Invariant: the upstream family known from a list survives failed fetches, and empty lists for an hour.

use std::borrow::Cow;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backends::names;
use crate::error::{Error, Result};
use crate::models::list::ModelList;
use crate::models::model::Model;
use crate::models::unlisted::UnlistedModels;
use crate::observe::lock::lock;

/// A list shared between requests.
pub type SharedModelList = Arc<ModelList>;

/// How long a list that is no longer fresh is shown while no newer one arrives.
const MAX_STALE_AGE: Duration = Duration::from_secs(300);

/// How long empty lists are taken for those of the family that an earlier list has named.
const MAX_FAMILY_AGE: Duration = Duration::from_secs(3600);

/// The cached list.
#[derive(Debug)]
pub struct Catalog {
    state: Mutex<CatalogState>,
    ttl: Duration,
    /// Models that are asked for although no list has them.
    pub unlisted: UnlistedModels,
}

#[derive(Debug, Default)]
struct CatalogState {
    list: Option<(Instant, SharedModelList)>,
    failure: Option<(Instant, Error)>,
    /// When a list last named the family.
    family_at: Option<Instant>,
    is_refreshing: bool,
    /// Whether the list is known to have changed since it was fetched.
    is_outdated: bool,
    /// Told when the fetch that is under way has ended.
    subscribers: Vec<Sender<()>>,
}

impl CatalogState {
    fn knows_family(&self, now: Instant) -> bool {
        self.family_at.is_some_and(|at| now.duration_since(at) < MAX_FAMILY_AGE)
    }
}

/// What the cache holds.
#[derive(Debug)]
pub enum CachedList {
    /// A list younger than its time to live.
    Fresh(SharedModelList),
    /// A list that may be shown while a newer one is fetched.
    Stale(SharedModelList),
    /// No list, or a list that is too old to be shown.
    Missing,
}

impl Catalog {
    /// An empty cache whose lists stay fresh for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { state: Mutex::default(), ttl, unlisted: UnlistedModels::default() }
    }

    /// False if each list is stale at once.
    pub fn keeps_lists(&self) -> bool {
        !self.ttl.is_zero()
    }

    /// The cached list, and whether it may be shown.
    pub fn lookup(&self) -> CachedList {
        let state = lock(&self.state);
        match &state.list {
            _ if state.is_outdated => CachedList::Missing,
            Some((since, list)) if since.elapsed() < self.ttl => CachedList::Fresh(list.clone()),
            Some((since, list)) if since.elapsed() < self.ttl + MAX_STALE_AGE => {
                CachedList::Stale(list.clone())
            }
            _ => CachedList::Missing,
        }
    }

    /// Caches what a fetch returned.
    ///
    /// # Errors
    /// The error of the fetch.
    pub fn store(&self, fetched: Result<ModelList>) -> Result<SharedModelList> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        match fetched {
            Ok(mut list) => {
                if list.models.is_empty() && state.knows_family(now) {
                    let previous = state.list.as_ref().and_then(|(_, list)| list.profile);
                    list.profile = list.profile.or(previous);
                } else {
                    state.family_at = list.profile.map(|_| now);
                }
                let list = Arc::new(list);
                state.list = Some((now, list.clone()));
                (state.failure, state.is_outdated) = (None, false);
                Ok(list)
            }
            Err(error) => {
                state.failure = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    /// Notes that the list is about to change, or has changed: it is fetched anew before it is shown.
    pub fn expire(&self) {
        lock(&self.state).is_outdated = true;
    }

    /// True if there is a list, and none was asked for within `interval`.
    pub fn is_untried_for(&self, interval: Duration) -> bool {
        let state = lock(&self.state);
        let is_old = |since: Instant| since.elapsed() >= interval;
        state.list.as_ref().is_some_and(|(since, _)| is_old(*since))
            && state.failure.as_ref().is_none_or(|(failed, _)| is_old(*failed))
    }

    /// True if a list came, or a fetch failed, less than `interval` ago, or one is under way.
    pub fn was_tried_within(&self, interval: Duration) -> bool {
        let state = lock(&self.state);
        let is_new = |since: Instant| since.elapsed() < interval;
        state.is_refreshing
            || state.list.as_ref().is_some_and(|(since, _)| is_new(*since))
            || state.failure.as_ref().is_some_and(|(failed, _)| is_new(*failed))
    }

    /// True if the last fetch failed less than the time to live ago.
    pub fn has_failed_lately(&self) -> bool {
        let state = lock(&self.state);
        state.failure.as_ref().is_some_and(|(failed, _)| failed.elapsed() < self.ttl)
    }

    /// Why the last fetch failed, if it did.
    pub fn last_error(&self) -> Option<Error> {
        lock(&self.state).failure.as_ref().map(|(_, error)| error.clone())
    }

    /// Begins a fetch behind the requests; `false` if one is under way. [`Catalog::end_refresh`] or a
    /// [`RefreshGuard`] must follow `true`.
    pub fn begin_refresh(&self) -> bool {
        !mem::replace(&mut lock(&self.state).is_refreshing, true)
    }

    /// Notes that a fetch behind the requests has ended.
    pub fn end_refresh(&self) {
        let mut state = lock(&self.state);
        state.is_refreshing = false;
        for subscriber in state.subscribers.drain(..) {
            // Nobody may wait any more.
            let _ = subscriber.try_send(());
        }
    }

    /// True while a fetch behind the requests is under way.
    pub fn is_refreshing(&self) -> bool {
        lock(&self.state).is_refreshing
    }

    /// Sends when the fetch that is under way has ended; `false` if there is none.
    pub fn subscribe(&self, subscriber: &Sender<()>) -> bool {
        let mut state = lock(&self.state);
        if state.is_refreshing {
            state.subscribers.push(subscriber.clone());
        }
        state.is_refreshing
    }

    /// How old the list is, if there is one, and whether it could not be fetched anew.
    pub fn list_age(&self) -> (Option<Duration>, bool) {
        let state = lock(&self.state);
        let age = state.list.as_ref().map(|(since, _)| since.elapsed());
        (age, age.is_some() && state.failure.is_some())
    }

    /// The cached list, whatever its age.
    pub fn get_cached(&self) -> Option<SharedModelList> {
        lock(&self.state).list.as_ref().map(|(_, list)| list.clone())
    }
}

/// Ends a fetch behind the requests when it is dropped, also by a panic.
pub struct RefreshGuard<'a>(pub &'a Catalog);

impl Drop for RefreshGuard<'_> {
    fn drop(&mut self) {
        self.0.end_refresh();
    }
}

/// The model that a name means: by its id, otherwise by one of its aliases.
pub fn find_model<'a>(list: &'a [Model], name: &str) -> Option<&'a Model> {
    if let Some(id) = names::find_id(list.iter().map(|model| model.id.as_str()), name) {
        return list.iter().find(|model| model.id == id);
    }
    list.iter()
        .find(|model| names::find_id(model.aliases.iter().map(String::as_str), name).is_some())
}

/// The model that a name means, or else a model of this id that no list contains.
pub fn find_or_unlisted<'a>(list: &'a [Model], name: &str) -> Cow<'a, Model> {
    find_model(list, name).map_or_else(|| Cow::Owned(Model::from_id(name)), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::profiles;

    fn list(id: &str) -> Result<ModelList> {
        let mut list = ModelList::default();
        list.models.push(Model::from_id(id));
        Ok(list)
    }

    #[test]
    fn a_family_stays_known_while_lists_fail_or_are_empty() {
        let catalog = Catalog::new(Duration::ZERO);
        let family =
            |list: Option<SharedModelList>| list.expect("kept").profile.map(|profile| profile.name);
        let mut of_vllm = list("a").expect("a list");
        of_vllm.set_profile(profiles::find_by_name("vllm").expect("a known family"));
        catalog.store(Ok(of_vllm)).expect("stored");
        assert!(catalog.store(Err(Error::IncompleteStream)).is_err());
        assert_eq!(family(catalog.get_cached()), Some("vllm"));
        catalog.store(Ok(ModelList::default())).expect("an empty list");
        assert_eq!(family(catalog.get_cached()), Some("vllm"));
        catalog.store(list("a")).expect("stored");
        assert_eq!(family(catalog.get_cached()), None, "another server, perhaps");
    }

    #[test]
    fn a_model_is_found_by_its_other_names_too() {
        let model =
            |id: &str, alias: &str| Model { aliases: vec![alias.to_owned()], ..Model::from_id(id) };
        let list = [model("a", "b"), model("b", "c")];
        let found = |name: &str| find_model(&list, name).map(|model| model.id.as_str());
        assert_eq!(
            (found("a"), found("B:latest"), found("c:latest")),
            (Some("a"), Some("b"), Some("b"))
        );
        assert_eq!(found("d"), None);
    }

    #[test]
    fn a_list_is_fresh_then_stale_then_too_old() {
        let catalog = Catalog::new(Duration::from_secs(30));
        assert!(matches!(catalog.lookup(), CachedList::Missing));
        catalog.store(list("a")).expect("stored");
        assert!(matches!(catalog.lookup(), CachedList::Fresh(_)));
        let set_age = |seconds: u64| {
            let since = Instant::now().checked_sub(Duration::from_secs(seconds));
            let mut state = lock(&catalog.state);
            state.list.as_mut().expect("a list").0 = since.expect("the machine runs longer");
        };
        set_age(31);
        assert!(matches!(catalog.lookup(), CachedList::Stale(list) if list[0].id == "a"));
        set_age(331);
        assert!(matches!(catalog.lookup(), CachedList::Missing));
        assert_eq!(catalog.get_cached().expect("kept")[0].id, "a");
    }

    #[test]
    fn one_fetch_behind_the_requests_runs_at_a_time() {
        let catalog = Catalog::new(Duration::from_secs(30));
        assert!(catalog.begin_refresh());
        assert!(!catalog.begin_refresh());
        catalog.end_refresh();
        assert!(catalog.begin_refresh());
    }

    #[test]
    fn a_failed_fetch_is_remembered_until_one_succeeds() {
        let catalog = Catalog::new(Duration::from_secs(3600));
        assert!(!catalog.has_failed_lately());
        assert!(catalog.store(Err(Error::IncompleteStream)).is_err());
        assert!(catalog.has_failed_lately());
        catalog.store(list("a")).expect("stored");
        assert!(!catalog.has_failed_lately());
    }
}
