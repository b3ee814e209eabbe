//! Which models count as loaded: the table behind `/api/ps` (ollama-api.md 5.2, 11.5).
//!
//! Nothing is loaded in truth; the table remembers which model was used, until when a real server
//! would keep it, and the window it was asked for. It is told the time, and it is bounded.

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
pub struct Loaded(Mutex<HashMap<String, Stay>>);

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// When it is unloaded.
    pub expires: SystemTime,
    /// The window that the last request asked for; a request that asks for none gets the model's.
    pub num_ctx: Option<u64>,
}

impl Loaded {
    /// Notes that `id` was used at `now` with a window of `num_ctx` and stays for `keep_alive`; zero
    /// unloads it.
    pub fn touch(&self, id: &str, keep_alive: KeepAlive, num_ctx: Option<u64>, now: SystemTime) {
        let mut table = self.table();
        if keep_alive.is_zero() {
            table.remove(id);
            return;
        }
        let stays = match keep_alive {
            KeepAlive::For(duration) => duration.min(FOREVER),
            KeepAlive::Forever => FOREVER,
        };
        table.retain(|_, stay| stay.expires > now);
        if table.len() >= MOST && !table.contains_key(id) {
            let first = table.iter().min_by_key(|(_, stay)| stay.expires);
            if let Some(first) = first.map(|(id, _)| id.clone()) {
                table.remove(&first);
            }
        }
        table.insert(id.to_owned(), Stay { expires: now + stays, num_ctx });
    }

    /// The models that are loaded at `now`, the one that stays longest first.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<(String, Stay)> {
        let table = self.table();
        let mut list: Vec<_> = table
            .iter()
            .filter(|(_, stay)| stay.expires > now)
            .map(|(id, stay)| (id.clone(), *stay))
            .collect();
        list.sort_by(|(a, first), (b, second)| {
            second.expires.cmp(&first.expires).then_with(|| a.cmp(b))
        });
        list
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Stay>> {
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
        loaded.touch("a", minutes(5), None, NOW);
        loaded.touch("b", KeepAlive::Forever, None, NOW);
        loaded.touch("c", minutes(9), None, NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "c", "a"]);
        assert_eq!(ids(&loaded, NOW + Duration::from_secs(301)), ["b", "c"]);
        loaded.touch("a", minutes(5), None, NOW);
        loaded.touch("c", KeepAlive::For(Duration::ZERO), None, NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "a"]);
    }

    #[test]
    fn the_window_is_that_of_the_last_request() {
        let loaded = Loaded::default();
        let windows = || -> Vec<_> { loaded.list(NOW).iter().map(|(_, it)| it.num_ctx).collect() };
        loaded.touch("a", minutes(5), Some(4096), NOW);
        assert_eq!(windows(), [Some(4096)]);
        loaded.touch("a", minutes(5), None, NOW);
        assert_eq!(windows(), [None]);
    }

    #[test]
    fn the_table_is_bounded() {
        let loaded = Loaded::default();
        for number in 0..MOST as u64 + 10 {
            loaded.touch(&number.to_string(), minutes(number + 1), None, NOW);
        }
        let ids = ids(&loaded, NOW);
        assert_eq!(ids.len(), MOST);
        assert!(!ids.contains(&"9".to_owned()) && ids.contains(&"10".to_owned()));
    }
}
