//! A cache of the upstream's model list.
//!
//! Never fetches by itself: callers pass the function that does. No lock is held during a fetch, so
//! concurrent callers with a stale list all fetch. A failed fetch keeps the previous list, and
//! [`Catalog::try_get`] returns it without another attempt for the time that a list stays fresh.
//! Invariant: the upstream family known from a list survives failed fetches and empty lists.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backends::names;
use crate::error::Result;
use crate::models::list::ModelList;
use crate::models::model::Model;
use crate::observe::lock::lock;

/// A list shared between requests.
pub type SharedModelList = Arc<ModelList>;

/// The cached list.
#[derive(Debug)]
pub struct Catalog {
    state: Mutex<CatalogState>,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct CatalogState {
    list: Option<(Instant, SharedModelList)>,
    failed_at: Option<Instant>,
}

impl Catalog {
    /// An empty cache whose lists stay fresh for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { state: Mutex::default(), ttl }
    }

    /// The cached list if it is fresh, otherwise a new one from `fetch`.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn get_or_fetch(
        &self,
        fetch: impl FnOnce() -> Result<ModelList>,
    ) -> Result<SharedModelList> {
        if let Some((since, list)) = &lock(&self.state).list
            && since.elapsed() < self.ttl
        {
            return Ok(list.clone());
        }
        self.refresh(fetch)
    }

    /// Fetches a new list and caches it.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn refresh(&self, fetch: impl FnOnce() -> Result<ModelList>) -> Result<SharedModelList> {
        let fetched = fetch();
        let now = Instant::now();
        let mut state = lock(&self.state);
        match fetched {
            Ok(mut list) => {
                if list.models.is_empty() {
                    let previous = state.list.as_ref().and_then(|(_, list)| list.profile);
                    list.profile = list.profile.or(previous);
                }
                let list = Arc::new(list);
                *state = CatalogState { list: Some((now, list.clone())), failed_at: None };
                Ok(list)
            }
            Err(error) => {
                state.failed_at = Some(now);
                Err(error)
            }
        }
    }

    /// As [`Catalog::get_or_fetch`], but falls back to a stale list, and does not fetch if the last
    /// fetch failed less than the time to live ago.
    pub fn try_get(&self, fetch: impl FnOnce() -> Result<ModelList>) -> Option<SharedModelList> {
        if lock(&self.state).failed_at.is_some_and(|failed| failed.elapsed() < self.ttl) {
            return self.get_cached();
        }
        self.get_or_fetch(fetch).ok().or_else(|| self.get_cached())
    }

    /// The cached list, fresh or stale.
    pub fn get_cached(&self) -> Option<SharedModelList> {
        lock(&self.state).list.as_ref().map(|(_, list)| list.clone())
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
    use crate::error::Error;

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
        let of_vllm = || {
            let mut listed = list("a")?;
            listed.set_profile(profiles::find_by_name("vllm").expect("a known family"));
            Ok(listed)
        };
        catalog.refresh(of_vllm).expect("fetched");
        assert!(catalog.refresh(|| Err(Error::IncompleteStream)).is_err());
        assert_eq!(family(catalog.get_cached()), Some("vllm"));
        catalog.refresh(|| Ok(ModelList::default())).expect("an empty list");
        assert_eq!(family(catalog.get_cached()), Some("vllm"));
        catalog.refresh(|| list("a")).expect("fetched");
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
    fn a_fresh_list_is_not_fetched_again() {
        let catalog = Catalog::new(Duration::from_secs(3600));
        assert!(catalog.get_cached().is_none());
        assert_eq!(catalog.get_or_fetch(|| list("a")).expect("fetched")[0].id, "a");
        assert_eq!(catalog.get_or_fetch(|| list("b")).expect("kept")[0].id, "a");
        assert_eq!(catalog.refresh(|| list("c")).expect("fetched")[0].id, "c");
        assert_eq!(catalog.get_cached().expect("kept")[0].id, "c");
    }

    #[test]
    fn what_failed_a_moment_ago_is_not_tried_again_by_those_who_can_do_without() {
        let catalog = Catalog::new(Duration::from_secs(3600));
        assert!(catalog.try_get(|| Err(Error::IncompleteStream)).is_none());
        assert!(catalog.try_get(|| panic!("asked again")).is_none());
        catalog.refresh(|| list("a")).expect("fetched");
        assert_eq!(catalog.try_get(|| panic!("it is fresh")).expect("kept")[0].id, "a");
    }

    #[test]
    fn a_failed_fetch_leaves_the_old_list_at_hand() {
        let catalog = Catalog::new(Duration::ZERO);
        catalog.get_or_fetch(|| list("a")).expect("fetched");
        assert!(catalog.get_or_fetch(|| Err(Error::IncompleteStream)).is_err());
        assert_eq!(catalog.get_cached().expect("kept")[0].id, "a");
    }
}
