//! Which models count as loaded: the table behind `/api/ps` (ollama-api.md 5.2, 11.5).
//!
//! Nothing is loaded in truth; the table remembers which model was used and until when a real
//! server would keep it. It is told the time, and it is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::keep_alive::KeepAlive;

/// Models remembered at once; beyond that the one that expires first is forgotten.
const MOST: usize = 1024;

/// "Forever", as Ollama stores it: some 292 years.
const FOREVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// The table.
#[derive(Debug, Default)]
pub struct Loaded(Mutex<HashMap<String, SystemTime>>);

impl Loaded {
    /// Notes that `id` was used at `now` and stays for `keep_alive`; zero unloads it.
    pub fn touch(&self, id: &str, keep_alive: KeepAlive, now: SystemTime) {
        let mut table = self.table();
        if keep_alive.is_zero() {
            table.remove(id);
            return;
        }
        let stays = match keep_alive {
            KeepAlive::For(duration) => duration.min(FOREVER),
            KeepAlive::Forever => FOREVER,
        };
        table.retain(|_, expires| *expires > now);
        if table.len() >= MOST && !table.contains_key(id) {
            let first = table.iter().min_by_key(|(_, expires)| **expires);
            if let Some(first) = first.map(|(id, _)| id.clone()) {
                table.remove(&first);
            }
        }
        table.insert(id.to_owned(), now + stays);
    }

    /// The models that are loaded at `now`, the one that stays longest first.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<(String, SystemTime)> {
        let table = self.table();
        let mut list: Vec<_> = table
            .iter()
            .filter(|(_, expires)| **expires > now)
            .map(|(id, expires)| (id.clone(), *expires))
            .collect();
        list.sort_by(|(a, first), (b, second)| second.cmp(first).then_with(|| a.cmp(b)));
        list
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, SystemTime>> {
        // No code can panic half-way through a change of the table.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn minutes(count: u64) -> KeepAlive {
        KeepAlive::For(Duration::from_secs(60 * count))
    }

    fn ids(loaded: &Loaded, now: SystemTime) -> Vec<String> {
        loaded.list(now).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn models_stay_as_long_as_they_were_asked_to() {
        let loaded = Loaded::default();
        loaded.touch("a", minutes(5), NOW);
        loaded.touch("b", KeepAlive::Forever, NOW);
        loaded.touch("c", minutes(9), NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "c", "a"]);
        assert_eq!(ids(&loaded, NOW + Duration::from_secs(301)), ["b", "c"]);
        loaded.touch("a", minutes(5), NOW);
        loaded.touch("c", KeepAlive::For(Duration::ZERO), NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "a"]);
    }

    #[test]
    fn the_table_is_bounded() {
        let loaded = Loaded::default();
        for number in 0..MOST as u64 + 10 {
            loaded.touch(&number.to_string(), minutes(number + 1), NOW);
        }
        let ids = ids(&loaded, NOW);
        assert_eq!(ids.len(), MOST);
        assert!(!ids.contains(&"9".to_owned()) && ids.contains(&"10".to_owned()));
    }
}
