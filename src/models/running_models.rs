//! Which models count as loaded: the table behind `/api/ps` (ollama-api.md 5.2, 11.5).
//!
//! Nothing is loaded in truth; the table remembers which models are or were used, until when a real
//! server would keep them, and the window they were asked for. As with Ollama, a model is there while
//! somebody uses it, and its time runs from the end of the last use. It is told the time, and it is
//! bounded.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::api::wire::keep_alive::KeepAlive;
use crate::observe::lock::lock;

/// Models remembered at once; beyond that the one that expires first is forgotten.
const MAX_MODELS: usize = 1024;

/// "Forever", as Ollama stores it: some 292 years.
const FOREVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// The table.
#[derive(Debug)]
pub struct RunningModels {
    table: Mutex<HashMap<String, Entry>>,
    /// For how long a model stays when nobody says so.
    default_keep_alive: KeepAlive,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadState {
    /// When it is unloaded, if nobody uses it any more.
    pub expires_at: SystemTime,
    /// The window that the last request asked for; a request that asks for none gets the model's.
    pub num_ctx: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: LoadState,
    keep_alive: KeepAlive,
    /// Requests that are being answered.
    in_flight: usize,
    /// Whether the upstream ever answered for it.
    was_answered: bool,
}

impl RunningModels {
    /// An empty table; `default` is how long a model stays when no request says so.
    #[must_use]
    pub fn new(default_keep_alive: KeepAlive) -> Self {
        Self { table: Mutex::default(), default_keep_alive }
    }

    /// Notes that a request for `id` began at `now`; it wants a window of `num_ctx`, and that the
    /// model stays for `keep_alive` afterwards: as long as was said last where it does not say, unless
    /// another window has the model loaded anew. To be followed by [`RunningModels::end_use`].
    pub fn begin_use(
        &self,
        id: &str,
        keep_alive: Option<KeepAlive>,
        num_ctx: Option<u64>,
        now: SystemTime,
    ) {
        let mut table = lock(&self.table);
        evict(&mut table, id, now);
        let said = table.get(id).filter(|it| it.state.num_ctx == num_ctx).map(|it| it.keep_alive);
        let keep_alive = keep_alive.or(said).unwrap_or(self.default_keep_alive);
        let stay = LoadState { expires_at: now + keep_alive_duration(keep_alive), num_ctx };
        let fresh = Entry { state: stay, keep_alive, in_flight: 0, was_answered: false };
        let entry = table.entry(id.to_owned()).or_insert(fresh);
        *entry = Entry { state: stay, keep_alive, in_flight: entry.in_flight + 1, ..*entry };
    }

    /// Notes that a request that began has ended at `now`, and whether the upstream `answered` it.
    pub fn end_use(&self, id: &str, answered: bool, now: SystemTime) {
        let mut table = lock(&self.table);
        let Some(entry) = table.get_mut(id) else { return };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        entry.was_answered |= answered;
        entry.state.expires_at = now + keep_alive_duration(entry.keep_alive);
        // What no upstream ever answered for was never loaded.
        if entry.in_flight == 0 && (entry.keep_alive.is_zero() || !entry.was_answered) {
            table.remove(id);
        }
    }

    /// Notes that `id` was loaded at `now` with a window of `num_ctx` and stays for `keep_alive`; zero
    /// unloads it, once nobody uses it.
    pub fn mark_loaded(
        &self,
        id: &str,
        keep_alive: Option<KeepAlive>,
        num_ctx: Option<u64>,
        now: SystemTime,
    ) {
        self.begin_use(id, keep_alive, num_ctx, now);
        self.end_use(id, true, now);
    }

    /// The models that are loaded at `now`, the one that stays longest first.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<(String, LoadState)> {
        let table = lock(&self.table);
        let mut list: Vec<_> = table
            .iter()
            .filter(|(_, entry)| entry.is_running(now))
            .map(|(id, entry)| (id.clone(), entry.state))
            .collect();
        list.sort_by(|(a, first), (b, second)| {
            second.expires_at.cmp(&first.expires_at).then_with(|| a.cmp(b))
        });
        list
    }
}

impl Entry {
    fn is_running(&self, now: SystemTime) -> bool {
        self.in_flight > 0 || self.state.expires_at > now
    }
}

fn keep_alive_duration(keep_alive: KeepAlive) -> Duration {
    match keep_alive {
        KeepAlive::For(duration) => duration.min(FOREVER),
        KeepAlive::Forever => FOREVER,
    }
}

/// Forgets what has expired, and one more where the table is full and `id` is new.
fn evict(table: &mut HashMap<String, Entry>, id: &str, now: SystemTime) {
    table.retain(|_, entry| entry.is_running(now));
    if table.len() >= MAX_MODELS && !table.contains_key(id) {
        let first =
            table.iter().min_by_key(|(_, entry)| (entry.in_flight > 0, entry.state.expires_at));
        if let Some(first) = first.map(|(id, _)| id.clone()) {
            table.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const UNLOAD: Option<KeepAlive> = Some(KeepAlive::For(Duration::ZERO));

    fn minutes(count: u64) -> KeepAlive {
        KeepAlive::For(Duration::from_secs(60 * count))
    }

    fn ids(loaded: &RunningModels, now: SystemTime) -> Vec<String> {
        loaded.list(now).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn models_stay_as_long_as_they_were_asked_to() {
        let loaded = RunningModels::new(minutes(1));
        loaded.mark_loaded("a", Some(minutes(5)), None, NOW);
        loaded.mark_loaded("b", Some(KeepAlive::Forever), None, NOW);
        loaded.mark_loaded("c", Some(minutes(9)), None, NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "c", "a"]);
        assert_eq!(ids(&loaded, NOW + Duration::from_secs(301)), ["b", "c"]);
        loaded.mark_loaded("a", Some(minutes(5)), None, NOW);
        loaded.mark_loaded("c", UNLOAD, None, NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "a"]);
    }

    #[test]
    fn a_model_in_use_is_there_and_its_time_runs_from_the_end() {
        let loaded = RunningModels::new(minutes(1));
        let later = NOW + Duration::from_secs(600);
        loaded.begin_use("a", Some(minutes(5)), None, NOW);
        loaded.begin_use("b", UNLOAD, None, NOW);
        assert_eq!(ids(&loaded, later), ["a", "b"]);
        loaded.end_use("a", true, later);
        loaded.end_use("b", true, later);
        assert_eq!(ids(&loaded, later + Duration::from_secs(299)), ["a"]);
        assert!(ids(&loaded, later + Duration::from_secs(300)).is_empty());
    }

    #[test]
    fn an_unload_waits_for_those_who_use_the_model() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("a", Some(minutes(5)), None, NOW);
        loaded.mark_loaded("a", UNLOAD, None, NOW);
        assert_eq!(ids(&loaded, NOW), ["a"]);
        loaded.end_use("a", true, NOW);
        assert!(ids(&loaded, NOW).is_empty());
    }

    #[test]
    fn what_was_never_answered_was_never_loaded() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("a", Some(minutes(5)), None, NOW);
        loaded.end_use("a", false, NOW);
        assert!(ids(&loaded, NOW).is_empty());
        loaded.mark_loaded("a", Some(minutes(5)), None, NOW);
        loaded.begin_use("a", Some(minutes(5)), None, NOW);
        loaded.end_use("a", false, NOW);
        assert_eq!(ids(&loaded, NOW), ["a"], "it was there before");
    }

    #[test]
    fn the_window_is_that_of_the_last_request() {
        let loaded = RunningModels::new(minutes(1));
        let windows = || -> Vec<_> { loaded.list(NOW).iter().map(|(_, it)| it.num_ctx).collect() };
        loaded.mark_loaded("a", Some(minutes(5)), Some(4096), NOW);
        assert_eq!(windows(), [Some(4096)]);
        loaded.mark_loaded("a", Some(minutes(5)), None, NOW);
        assert_eq!(windows(), [None]);
    }

    #[test]
    fn who_says_nothing_changes_nothing() {
        let loaded = RunningModels::new(minutes(1));
        let check = |keep_alive: Option<u64>, num_ctx: Option<u64>, expected: u64| {
            loaded.mark_loaded("a", keep_alive.map(minutes), num_ctx, NOW);
            let stays = loaded.list(NOW)[0].1.expires_at.duration_since(NOW).expect("later");
            assert_eq!(stays.as_secs(), 60 * expected, "{keep_alive:?} {num_ctx:?}");
        };
        check(None, None, 1);
        check(Some(9), None, 9);
        check(None, None, 9);
        // Another window has it loaded anew.
        check(None, Some(512), 1);
        // So has a time without it.
        loaded.mark_loaded("a", UNLOAD, Some(512), NOW);
        check(None, Some(512), 1);
    }

    #[test]
    fn the_table_is_bounded() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("in use", UNLOAD, None, NOW);
        for number in 0..MAX_MODELS as u64 + 9 {
            loaded.mark_loaded(&number.to_string(), Some(minutes(number + 1)), None, NOW);
        }
        let ids = ids(&loaded, NOW);
        assert_eq!(ids.len(), MAX_MODELS);
        assert!(!ids.contains(&"9".to_owned()) && ids.contains(&"10".to_owned()));
        assert!(ids.contains(&"in use".to_owned()));
    }
}
