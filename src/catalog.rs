//! The upstream's model list, kept for a short time.
//!
//! No lock is held while the list is fetched: two who find it stale at once both fetch it. A fetch
//! that fails leaves the old list in place for those who can do with an old one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::names;
use crate::translate::models::Model;

/// The models, as they were listed.
pub type List = Arc<Vec<Model>>;

/// The kept list.
#[derive(Debug)]
pub struct Catalog {
    kept: Mutex<Option<(Instant, List)>>,
    ttl: Duration,
}

impl Catalog {
    /// An empty catalog whose lists stay fresh for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { kept: Mutex::new(None), ttl }
    }

    /// A fresh list: the kept one, or a new one from `fetch`.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn fresh(&self, fetch: impl FnOnce() -> Result<Vec<Model>>) -> Result<List> {
        match &*self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((since, list)) if since.elapsed() < self.ttl => return Ok(list.clone()),
            _ => {}
        }
        self.renew(fetch)
    }

    /// A new list.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn renew(&self, fetch: impl FnOnce() -> Result<Vec<Model>>) -> Result<List> {
        let list = Arc::new(fetch()?);
        let kept = Some((Instant::now(), list.clone()));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(list)
    }

    /// The list that is at hand, fresh or not.
    #[must_use]
    pub fn at_hand(&self) -> Option<List> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|(_, list)| list.clone())
    }
}

/// The model that a name means.
#[must_use]
pub fn find<'a>(list: &'a [Model], name: &str) -> Option<&'a Model> {
    let id = names::find(list.iter().map(|model| model.id.as_str()), name)?;
    list.iter().find(|model| model.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn list(id: &str) -> Result<Vec<Model>> {
        Ok(vec![Model::unlisted(id)])
    }

    #[test]
    fn a_fresh_list_is_not_fetched_again() {
        let catalog = Catalog::new(Duration::from_secs(3600));
        assert!(catalog.at_hand().is_none());
        assert_eq!(catalog.fresh(|| list("a")).expect("fetched")[0].id, "a");
        assert_eq!(catalog.fresh(|| list("b")).expect("kept")[0].id, "a");
        assert_eq!(catalog.renew(|| list("c")).expect("fetched")[0].id, "c");
        assert_eq!(catalog.at_hand().expect("kept")[0].id, "c");
    }

    #[test]
    fn a_failed_fetch_leaves_the_old_list_at_hand() {
        let catalog = Catalog::new(Duration::ZERO);
        catalog.fresh(|| list("a")).expect("fetched");
        assert!(catalog.fresh(|| Err(Error::UpstreamClosed)).is_err());
        assert_eq!(catalog.at_hand().expect("kept")[0].id, "a");
    }
}
