//! The running models, as `/api/ps` lists them.
//!
//! The proxy loads nothing; this table records which models requests have used, with which context
//! length, and until when Ollama would keep them loaded. As in Ollama (server/sched.go), a model
//! stays while a request uses it, and `keep_alive` counts from the end of its last use. Never reads
//! the clock. Invariant: the table has at most `MAX_MODELS` entries.
//!
//! The default of `keep_alive` is `OLLAMA_KEEP_ALIVE` (5 minutes). A request without messages or
//! prompt loads a model, and one with `keep_alive: 0` unloads it; neither calls the upstream to
//! generate.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::api::wire::keep_alive::{KeepAlive, MAX_DURATION};
use crate::observe::lock::lock;

/// The most models in the table; beyond that, the model that expires first is removed.
const MAX_MODELS: usize = 1024;

/// The running models by id.
#[derive(Debug)]
pub struct RunningModels {
    table: Mutex<HashMap<String, Entry>>,
    /// Applies to requests without `keep_alive`.
    default_keep_alive: Mutex<KeepAlive>,
}

/// The state of a running model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadState {
    /// When the model is unloaded, unless a request uses it.
    pub expires_at: SystemTime,
    /// The context length in tokens that the last request set; `None` for the model's own.
    pub num_ctx: Option<u64>,
    /// True if the upstream has responded to a request with this model.
    pub was_answered: bool,
}

/// The members of a request that say how its model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// How long the model stays loaded, if the request says so.
    pub keep_alive: Option<KeepAlive>,
    /// The context length in tokens, if the request sets one.
    pub num_ctx: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: LoadState,
    keep_alive: KeepAlive,
    /// The number of requests in progress.
    in_flight: usize,
}

impl RunningModels {
    /// An empty table.
    pub fn new(default_keep_alive: KeepAlive) -> Self {
        Self { table: Mutex::default(), default_keep_alive: Mutex::new(default_keep_alive) }
    }

    /// Applies another default to requests from now on.
    pub fn set_default_keep_alive(&self, keep_alive: KeepAlive) {
        *lock(&self.default_keep_alive) = keep_alive;
    }

    /// Records the start of a request for `id`; [`RunningModels::end_use`] must follow.
    ///
    /// Without a `keep_alive`, the previous one of the model applies, unless another `num_ctx` means
    /// that Ollama would load the model again; then the default applies.
    pub fn begin_use(&self, id: &str, load: LoadOptions, now: SystemTime) {
        let mut table = lock(&self.table);
        evict(&mut table, id, now);
        let previous = table.get(id).copied();
        let LoadOptions { keep_alive, num_ctx } = load;
        let same_context = previous.filter(|entry| entry.state.num_ctx == num_ctx);
        let keep_alive = keep_alive
            .or(same_context.map(|entry| entry.keep_alive))
            .unwrap_or_else(|| *lock(&self.default_keep_alive));
        let was_answered = previous.is_some_and(|entry| entry.state.was_answered);
        let expires_at = now + keep_alive_duration(keep_alive);
        let entry = Entry {
            state: LoadState { expires_at, num_ctx, was_answered },
            keep_alive,
            in_flight: previous.map_or(0, |entry| entry.in_flight) + 1,
        };
        table.insert(id.to_owned(), entry);
    }

    /// Records the end of a request for `id`, and whether the upstream responded to it.
    pub fn end_use(&self, id: &str, answered: bool, now: SystemTime) {
        let mut table = lock(&self.table);
        let Some(entry) = table.get_mut(id) else { return };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        entry.state.was_answered |= answered;
        entry.state.expires_at = now + keep_alive_duration(entry.keep_alive);
        // Without any response of the upstream, the model was never loaded.
        if entry.in_flight == 0 && (entry.keep_alive.is_zero() || !entry.state.was_answered) {
            table.remove(id);
        }
    }

    /// Records that `id` is loaded without a prompt; a `keep_alive` of zero unloads it as soon as no
    /// request uses it.
    pub fn mark_loaded(&self, id: &str, load: LoadOptions, now: SystemTime) {
        self.begin_use(id, load, now);
        self.end_use(id, true, now);
    }

    /// The models running at `now`, those that expire last first.
    pub fn list(&self, now: SystemTime) -> Vec<(String, LoadState)> {
        let table = lock(&self.table);
        let mut list: Vec<(String, LoadState)> = Vec::new();
        for (id, entry) in table.iter().filter(|(_, entry)| entry.is_running(now)) {
            let key = (Reverse(entry.state.expires_at), id);
            let place =
                list.partition_point(|(other, state)| (Reverse(state.expires_at), other) < key);
            list.insert(place, (id.clone(), entry.state));
        }
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
        KeepAlive::For(duration) => duration.min(MAX_DURATION),
        KeepAlive::Forever => MAX_DURATION,
    }
}

/// Removes expired models, and one more if the table is full and `id` is not in it.
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

    fn load(keep_alive: Option<KeepAlive>, num_ctx: Option<u64>) -> LoadOptions {
        LoadOptions { keep_alive, num_ctx }
    }

    fn ids(loaded: &RunningModels, now: SystemTime) -> Vec<String> {
        loaded.list(now).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn models_stay_as_long_as_they_were_asked_to() {
        let loaded = RunningModels::new(minutes(1));
        loaded.mark_loaded("a", load(Some(minutes(5)), None), NOW);
        loaded.mark_loaded("b", load(Some(KeepAlive::Forever), None), NOW);
        loaded.mark_loaded("c", load(Some(minutes(9)), None), NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "c", "a"]);
        assert_eq!(ids(&loaded, NOW + Duration::from_secs(301)), ["b", "c"]);
        loaded.mark_loaded("a", load(Some(minutes(5)), None), NOW);
        loaded.mark_loaded("c", load(UNLOAD, None), NOW);
        assert_eq!(ids(&loaded, NOW), ["b", "a"]);
    }

    #[test]
    fn another_default_applies_to_requests_from_then_on() {
        let loaded = RunningModels::new(minutes(1));
        loaded.mark_loaded("a", load(None, None), NOW);
        loaded.set_default_keep_alive(minutes(3));
        loaded.mark_loaded("b", load(None, None), NOW);
        assert_eq!(ids(&loaded, NOW + Duration::from_secs(120)), ["b"]);
    }

    #[test]
    fn a_model_in_use_is_there_and_its_time_runs_from_the_end() {
        let loaded = RunningModels::new(minutes(1));
        let later = NOW + Duration::from_secs(600);
        loaded.begin_use("a", load(Some(minutes(5)), None), NOW);
        loaded.begin_use("b", load(UNLOAD, None), NOW);
        assert_eq!(ids(&loaded, later), ["a", "b"]);
        loaded.end_use("a", true, later);
        loaded.end_use("b", true, later);
        assert_eq!(ids(&loaded, later + Duration::from_secs(299)), ["a"]);
        assert!(ids(&loaded, later + Duration::from_secs(300)).is_empty());
    }

    #[test]
    fn an_unload_waits_for_those_who_use_the_model() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("a", load(Some(minutes(5)), None), NOW);
        loaded.mark_loaded("a", load(UNLOAD, None), NOW);
        assert_eq!(ids(&loaded, NOW), ["a"]);
        loaded.end_use("a", true, NOW);
        assert!(ids(&loaded, NOW).is_empty());
    }

    #[test]
    fn what_was_never_answered_was_never_loaded() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("a", load(Some(minutes(5)), None), NOW);
        loaded.end_use("a", false, NOW);
        assert!(ids(&loaded, NOW).is_empty());
        loaded.mark_loaded("a", load(Some(minutes(5)), None), NOW);
        loaded.begin_use("a", load(Some(minutes(5)), None), NOW);
        loaded.end_use("a", false, NOW);
        assert_eq!(ids(&loaded, NOW), ["a"], "it was there before");
    }

    #[test]
    fn the_window_is_that_of_the_last_request() {
        let loaded = RunningModels::new(minutes(1));
        let windows = || -> Vec<_> { loaded.list(NOW).iter().map(|(_, it)| it.num_ctx).collect() };
        loaded.mark_loaded("a", load(Some(minutes(5)), Some(4096)), NOW);
        assert_eq!(windows(), [Some(4096)]);
        loaded.mark_loaded("a", load(Some(minutes(5)), None), NOW);
        assert_eq!(windows(), [None]);
    }

    #[test]
    fn who_says_nothing_changes_nothing() {
        let loaded = RunningModels::new(minutes(1));
        let check = |keep_alive: Option<u64>, num_ctx: Option<u64>, expected: u64| {
            loaded.mark_loaded("a", load(keep_alive.map(minutes), num_ctx), NOW);
            let stays = loaded.list(NOW)[0].1.expires_at.duration_since(NOW).expect("later");
            assert_eq!(stays.as_secs(), 60 * expected, "{keep_alive:?} {num_ctx:?}");
        };
        check(None, None, 1);
        check(Some(9), None, 9);
        check(None, None, 9);
        // Another window has it loaded anew.
        check(None, Some(512), 1);
        // So has a time without it.
        loaded.mark_loaded("a", load(UNLOAD, Some(512)), NOW);
        check(None, Some(512), 1);
    }

    #[test]
    fn the_table_is_bounded() {
        let loaded = RunningModels::new(minutes(1));
        loaded.begin_use("in use", load(UNLOAD, None), NOW);
        for number in 0..MAX_MODELS as u64 + 9 {
            loaded.mark_loaded(&number.to_string(), load(Some(minutes(number + 1)), None), NOW);
        }
        let ids = ids(&loaded, NOW);
        assert_eq!(ids.len(), MAX_MODELS);
        assert!(!ids.contains(&"9".to_owned()) && ids.contains(&"10".to_owned()));
        assert!(ids.contains(&"in use".to_owned()));
    }
}
