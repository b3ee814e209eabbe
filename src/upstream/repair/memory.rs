//! The repairs that models needed, so that a rejection is paid for once.
//!
//! Kept for each operation and model, bounded in number and by the memory budget, and for an hour, so that a
//! corrected upstream gets requests as they are again. Of the groups of a plainest form, one at a time is left
//! out of a later request, at most once a minute, until only those that are needed remain. Never reads the
//! clock.
//! Invariant: the lock is never held while a request is sent.

use std::sync::RwLock;
use std::time::{Duration, Instant};

use super::plainest::{GROUPS, Group};
use super::repairs::{Repair, Scope};
use crate::observe::lock;
use crate::upstream::model_table::{ModelEntry, ModelTable};

/// How long a repair is made before the request is tried as it is again.
const TTL: Duration = crate::upstream::LEARNT_TTL;

/// The time between two requests of a model that leave a group out.
pub const EXPERIMENT_INTERVAL: Duration = Duration::from_secs(60);

/// The same for a repair after which a request was not rejected, but failed in another way.
const UNPROVEN_TTL: Duration = Duration::from_secs(600);

/// How long a rejection that even the plainest form could not answer is not tried in that form again.
const HOPELESS_TTL: Duration = Duration::from_secs(600);

/// The most repairs of one model.
const MAX_REPAIRS_PER_MODEL: usize = 32;

/// The most groups of one model.
const MAX_GROUPS_PER_MODEL: usize = 64;

/// The most rejections of one model that are known to be hopeless.
const MAX_HOPELESS_PER_MODEL: usize = 32;

/// What is known of all models, by operation and model.
#[derive(Debug)]
pub struct RepairMemory {
    table: RwLock<ModelTable<ModelMemory>>,
    experiment_interval: Duration,
}

#[derive(Debug, Default)]
struct ModelMemory {
    repairs: Vec<(Repair, Scope, Instant)>,
    groups: Vec<KnownGroup>,
    last_experiment: Option<Instant>,
    /// Hashes of rejections.
    hopeless: Vec<(u64, Instant)>,
    /// Why changes were made: the change in words, and what the upstream said.
    reasons: Vec<(Box<str>, Box<str>, Instant)>,
}

/// A change that requests of a model need, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearntChange {
    /// The upstream's id of the model.
    pub model: String,
    /// What is changed, in the words of the log.
    pub change: String,
    /// What the upstream said, as the log shows it.
    pub reason: Option<Box<str>>,
    /// Since when it is known.
    pub since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct KnownGroup {
    group: Group,
    scope: Scope,
    since: Instant,
    /// True if a request without it was rejected.
    is_needed: bool,
}

/// What is done to a request before it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Repairs in the order in which they were found.
    pub repairs: Vec<(Repair, Scope)>,
    /// Groups of the plainest form.
    pub groups: Vec<(Group, Scope)>,
    /// The group that this request does without.
    pub left_out: Option<Group>,
}

impl Known {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.repairs.is_empty() && self.groups.is_empty() && self.left_out.is_none()
    }
}

impl ModelMemory {
    fn forget_old(&mut self, now: Instant) {
        self.repairs.retain(|(_, _, since)| now.duration_since(*since) < TTL);
        self.groups.retain(|known| now.duration_since(known.since) < TTL);
        self.hopeless.retain(|(_, since)| now.duration_since(*since) < HOPELESS_TTL);
        self.reasons.retain(|(.., since)| now.duration_since(*since) < TTL);
    }

    fn is_empty(&self) -> bool {
        self.repairs.is_empty()
            && self.groups.is_empty()
            && self.hopeless.is_empty()
            && self.reasons.is_empty()
    }
}

impl ModelEntry for ModelMemory {
    fn known_since(&self) -> Option<Instant> {
        let repairs = self.repairs.iter().map(|(_, _, since)| *since);
        let groups = self.groups.iter().map(|known| known.since);
        repairs.chain(groups).chain(self.hopeless.iter().map(|(_, since)| *since)).min()
    }

    fn heap_bytes(&self) -> usize {
        let repairs = self.repairs.capacity() * size_of::<(Repair, Scope, Instant)>();
        let groups = self.groups.capacity() * size_of::<KnownGroup>();
        let hopeless = self.hopeless.capacity() * size_of::<(u64, Instant)>();
        let texts: usize = self.repairs.iter().map(|(repair, ..)| repair.text_bytes()).sum();
        let reasons = self.reasons.iter().map(|(change, reason, _)| change.len() + reason.len());
        let places = self.reasons.capacity() * size_of::<(Box<str>, Box<str>, Instant)>();
        repairs + groups + hopeless + texts + places + reasons.sum::<usize>()
    }
}

impl RepairMemory {
    /// An empty memory, in which a group is left out of one request in each interval.
    pub fn new(experiment_interval: Duration) -> Self {
        Self { table: RwLock::default(), experiment_interval }
    }

    /// What a model needs. May choose a group to be left out of this request.
    pub fn get(&self, path: &'static str, model: &str, now: Instant) -> Known {
        let table = lock::read(&self.table);
        let Some(found) = table.get(path, model) else { return Known::default() };
        if !found.groups.is_empty() {
            drop(table);
            return self.get_with_experiment(path, model, now);
        }
        let is_fresh = |(_, _, since): &&(Repair, Scope, Instant)| now.duration_since(*since) < TTL;
        let repairs = found.repairs.iter().filter(is_fresh);
        let repairs = repairs.map(|(repair, scope, _)| (repair.clone(), *scope)).collect();
        Known { repairs, ..Known::default() }
    }

    fn get_with_experiment(&self, path: &'static str, model: &str, now: Instant) -> Known {
        let mut table = lock::write(&self.table);
        let Some(found) = table.entries.get_mut(&(path, model.to_owned())) else {
            return Known::default();
        };
        found.forget_old(now);
        let is_due = found
            .last_experiment
            .is_none_or(|last| now.duration_since(last) >= self.experiment_interval);
        let is_open = |group: &&Group| {
            found.groups.iter().any(|known| known.group == **group && !known.is_needed)
        };
        let left_out = GROUPS.iter().find(is_open).copied().filter(|_| is_due);
        if left_out.is_some() {
            found.last_experiment = Some(now);
        }
        let groups = found.groups.iter().map(|known| (known.group, known.scope));
        Known {
            repairs: found.repairs.iter().map(|(it, scope, _)| (it.clone(), *scope)).collect(),
            groups: groups.filter(|(group, _)| Some(*group) != left_out).collect(),
            left_out,
        }
    }

    /// True if something is known of a model.
    pub fn knows(&self, path: &'static str, model: &str, now: Instant) -> bool {
        let table = lock::read(&self.table);
        table.get(path, model).is_some_and(|found| {
            found.repairs.iter().any(|(_, _, since)| now.duration_since(*since) < TTL)
                || found.groups.iter().any(|known| now.duration_since(known.since) < TTL)
        })
    }

    /// Remembers the repairs with which a request was accepted.
    pub fn insert(
        &self,
        path: &'static str,
        model: &str,
        repairs: &[(Repair, Scope)],
        now: Instant,
    ) {
        if repairs.is_empty() {
            return;
        }
        self.update(path, model, now, |found| {
            for (repair, scope) in repairs {
                found.repairs.retain(|(known, known_scope, _)| {
                    let is_same = known == repair && known_scope == scope;
                    !is_same && !repair.is_inverse_of(known)
                });
                if found.repairs.len() >= MAX_REPAIRS_PER_MODEL {
                    found.repairs.remove(0);
                }
                found.repairs.push((repair.clone(), *scope, now));
            }
        });
    }

    /// Remembers the groups with which a request was accepted in its plainest form.
    pub fn insert_groups(
        &self,
        path: &'static str,
        model: &str,
        groups: &[(Group, Scope)],
        now: Instant,
    ) {
        self.update(path, model, now, |found| {
            for (group, scope) in groups.iter().copied() {
                found.groups.retain(|known| known.group != group || known.scope != scope);
                if found.groups.len() >= MAX_GROUPS_PER_MODEL {
                    found.groups.remove(0);
                }
                found.groups.push(KnownGroup { group, scope, since: now, is_needed: false });
            }
            // The next request is like this one; an experiment waits.
            found.last_experiment = Some(now);
        });
    }

    /// Remembers for a short time the repairs and groups with which a request was not rejected, though it
    /// failed in another way.
    pub fn insert_unproven(
        &self,
        path: &'static str,
        model: &str,
        repairs: &[(Repair, Scope)],
        groups: &[(Group, Scope)],
        now: Instant,
    ) {
        let since = now.checked_sub(TTL.saturating_sub(UNPROVEN_TTL)).unwrap_or(now);
        self.insert(path, model, repairs, since);
        if !groups.is_empty() {
            self.insert_groups(path, model, groups, since);
            // An experiment waits.
            self.update(path, model, now, |found| found.last_experiment = Some(now));
        }
    }

    /// Notes whether a request passed that left `group` out.
    pub fn record_experiment(
        &self,
        path: &'static str,
        model: &str,
        (group, passed): (Group, bool),
        now: Instant,
    ) {
        self.update(path, model, now, |found| {
            if passed {
                found.groups.retain(|known| known.group != group);
            }
            for known in found.groups.iter_mut().filter(|known| known.group == group) {
                *known = KnownGroup { since: now, is_needed: true, ..*known };
            }
        });
    }

    /// True if the plainest form could not answer this rejection lately.
    pub fn is_hopeless(&self, path: &'static str, model: &str, hash: u64, now: Instant) -> bool {
        let table = lock::read(&self.table);
        table.get(path, model).is_some_and(|found| {
            found
                .hopeless
                .iter()
                .any(|(known, since)| *known == hash && now.duration_since(*since) < HOPELESS_TTL)
        })
    }

    /// Notes that the plainest form could not answer this rejection.
    pub fn mark_hopeless(&self, path: &'static str, model: &str, hash: u64, now: Instant) {
        self.update(path, model, now, |found| {
            found.hopeless.retain(|(known, _)| *known != hash);
            if found.hopeless.len() >= MAX_HOPELESS_PER_MODEL {
                found.hopeless.remove(0);
            }
            found.hopeless.push((hash, now));
        });
    }

    /// Notes why a change was made.
    pub fn note_reason(
        &self,
        path: &'static str,
        model: &str,
        (change, reason): (&str, &str),
        now: Instant,
    ) {
        self.update(path, model, now, |found| {
            found.reasons.retain(|(known, ..)| **known != *change);
            if found.reasons.len() >= MAX_REPAIRS_PER_MODEL {
                found.reasons.remove(0);
            }
            found.reasons.push((change.into(), reason.into(), now));
        });
    }

    /// At most `most` of what requests of all models need, for people.
    pub fn list(&self, most: usize, now: Instant) -> Vec<LearntChange> {
        let table = lock::read(&self.table);
        let mut changes = Vec::new();
        for ((_, model), found) in &table.entries {
            let repairs =
                found.repairs.iter().map(|(repair, _, since)| (repair.to_string(), *since));
            let groups = found.groups.iter().map(|it| (describe_group(it.group), it.since));
            for (change, since) in repairs.chain(groups) {
                let is_known = changes
                    .iter()
                    .any(|it: &LearntChange| it.model == *model && it.change == change);
                if changes.len() >= most || is_known || now.duration_since(since) >= TTL {
                    continue;
                }
                let reason = found.reasons.iter().find(|(known, ..)| **known == *change);
                // What is not proven is known since earlier than it was learnt, so that it ends earlier.
                let since = reason.map_or(since, |(_, _, noted)| since.max(*noted));
                let reason = reason.map(|(_, reason, _)| reason.clone());
                changes.push(LearntChange { model: model.clone(), change, reason, since });
            }
        }
        changes
    }

    fn update(
        &self,
        path: &'static str,
        model: &str,
        now: Instant,
        change: impl FnOnce(&mut ModelMemory),
    ) {
        let mut table = lock::write(&self.table);
        for found in table.entries.values_mut() {
            found.forget_old(now);
        }
        table.entries.retain(|_, found| !found.is_empty());
        change(table.entries.entry((path, model.to_owned())).or_default());
        table.shrink();
    }
}

/// A group in words.
pub fn describe_group(group: Group) -> String {
    format!("plainest form ({} changed)", group.describe())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::model_table::MAX_MODELS;

    const CHAT: &str = "chat/completions";

    fn repairs(memory: &RepairMemory, model: &str, now: Instant) -> Vec<Repair> {
        memory.get(CHAT, model, now).repairs.into_iter().map(|(repair, _)| repair).collect()
    }

    fn omit(member: &str) -> (Repair, Scope) {
        (Repair::omit(member), Scope::Model)
    }

    #[test]
    fn what_is_not_proven_is_known_for_a_shorter_time() {
        let (memory, now) = (RepairMemory::new(EXPERIMENT_INTERVAL), Instant::now() + TTL);
        memory.insert(CHAT, "m", &[omit("a")], now);
        let learnt = ([omit("b")], [(Group::Sampling, Scope::Model)]);
        memory.insert_unproven(CHAT, "m", &learnt.0, &learnt.1, now);
        let known = memory.get(CHAT, "m", now);
        assert_eq!((known.repairs.len(), known.groups.len(), known.left_out), (2, 1, None));
        let later = now + UNPROVEN_TTL;
        assert_eq!(repairs(&memory, "m", later), [omit("a").0]);
        assert!(memory.get(CHAT, "m", later).groups.is_empty());
    }

    #[test]
    fn what_was_learnt_of_a_model_is_known_for_an_hour() {
        let learnt = RepairMemory::new(EXPERIMENT_INTERVAL);
        let now = Instant::now();
        assert!(learnt.get(CHAT, "a", now).is_empty() && !learnt.knows(CHAT, "a", now));
        learnt.insert(CHAT, "a", &[omit("seed")], now);
        learnt.insert(CHAT, "a", &[], now);
        learnt.insert(CHAT, "a", &[omit("top_k")], now + TTL / 2);
        let both = [Repair::omit("seed"), Repair::omit("top_k")];
        assert_eq!(repairs(&learnt, "a", now + TTL / 2), both);
        assert_eq!(repairs(&learnt, "a", now + TTL), both[1..]);
        assert!(learnt.knows(CHAT, "a", now + TTL));
        assert!(learnt.get(CHAT, "b", now).is_empty(), "another model");
        assert!(learnt.get("completions", "a", now).is_empty(), "another path");
    }

    #[test]
    fn what_was_learnt_is_listed_with_the_reasons() {
        let (learnt, now) = (RepairMemory::new(EXPERIMENT_INTERVAL), Instant::now());
        learnt.note_reason(CHAT, "a", ("seed removed", "no seed"), now);
        learnt.note_reason(CHAT, "b", ("top_k removed", "no top_k"), now);
        assert_eq!(learnt.list(9, now), []);
        learnt.insert(CHAT, "a", &[omit("seed"), omit("n")], now);
        learnt.insert_groups(CHAT, "b", &[(Group::Sampling, Scope::Model)], now);
        let mut listed = learnt.list(9, now);
        listed.sort_by_key(|it| (it.model.clone(), it.reason.is_none()));
        let shown: Vec<_> =
            listed.iter().map(|it| (&*it.model, &*it.change, it.reason.as_deref())).collect();
        let expected = [
            ("a", "seed removed", Some("no seed")),
            ("a", "n removed", None),
            ("b", "plainest form (sampling parameters changed)", None),
        ];
        assert_eq!(shown, expected);
        assert_eq!(learnt.list(1, now).len(), 1);
        assert_eq!(learnt.list(9, now + TTL), []);
        // Known as long as it was noted, though it ends earlier.
        learnt.note_reason(CHAT, "c", ("seed removed", "no seed"), now + TTL);
        learnt.insert_unproven(CHAT, "c", &[omit("seed")], &[], now + TTL);
        assert_eq!(learnt.list(9, now + TTL)[0].since, now + TTL);
        for number in 0..100 {
            learnt.note_reason(CHAT, "a", (&number.to_string(), "x"), now);
        }
        let table = lock::read(&learnt.table);
        assert_eq!(table.entries[&(CHAT, "a".to_owned())].reasons.len(), MAX_REPAIRS_PER_MODEL);
    }

    #[test]
    fn nothing_is_known_twice_and_the_last_word_counts() {
        let learnt = RepairMemory::new(EXPERIMENT_INTERVAL);
        let now = Instant::now();
        let (old, new) = ("max_tokens", "max_completion_tokens");
        let there = (Repair::Rename { from: old, to: new }, Scope::Model);
        let back = (Repair::Rename { from: new, to: old }, Scope::Model);
        learnt.insert(CHAT, "a", std::slice::from_ref(&there), now);
        learnt.insert(CHAT, "a", std::slice::from_ref(&there), now);
        assert_eq!(repairs(&learnt, "a", now), [there.0]);
        learnt.insert(CHAT, "a", std::slice::from_ref(&back), now);
        assert_eq!(repairs(&learnt, "a", now), [back.0], "the upstream has changed its mind");
    }

    #[test]
    fn groups_are_left_out_one_at_a_time_until_only_the_needed_ones_remain() {
        let learnt = RepairMemory::new(EXPERIMENT_INTERVAL);
        let now = Instant::now();
        let groups = [Group::Roles, Group::Sampling, Group::Limit].map(|it| (it, Scope::Model));
        learnt.insert_groups(CHAT, "a", &groups, now);
        let known = learnt.get(CHAT, "a", now);
        assert_eq!((known.groups.as_slice(), known.left_out), (&groups[..], None), "not at once");
        let minute = |count: u32| now + EXPERIMENT_INTERVAL * count;
        let known = learnt.get(CHAT, "a", minute(1));
        assert_eq!(known.left_out, Some(Group::Sampling), "it costs most");
        assert_eq!(known.groups, [groups[0], groups[2]]);
        assert_eq!(learnt.get(CHAT, "a", minute(1)).left_out, None, "once a minute");
        learnt.record_experiment(CHAT, "a", (Group::Sampling, true), minute(1));
        assert_eq!(learnt.get(CHAT, "a", minute(1)).groups, [groups[0], groups[2]]);
        assert_eq!(learnt.get(CHAT, "a", minute(2)).left_out, Some(Group::Limit));
        learnt.record_experiment(CHAT, "a", (Group::Limit, false), minute(2));
        assert_eq!(learnt.get(CHAT, "a", minute(3)).left_out, Some(Group::Roles));
        learnt.record_experiment(CHAT, "a", (Group::Roles, false), minute(3));
        let known = learnt.get(CHAT, "a", minute(4));
        assert_eq!((known.groups.len(), known.left_out), (2, None), "both are needed");
        assert!(learnt.get(CHAT, "a", minute(3) + TTL).is_empty());
    }

    #[test]
    fn a_rejection_that_nothing_helps_is_known_for_a_while() {
        let learnt = RepairMemory::new(EXPERIMENT_INTERVAL);
        let now = Instant::now();
        learnt.mark_hopeless(CHAT, "a", 7, now);
        assert!(learnt.is_hopeless(CHAT, "a", 7, now) && !learnt.is_hopeless(CHAT, "a", 8, now));
        assert!(!learnt.is_hopeless(CHAT, "a", 7, now + HOPELESS_TTL));
        assert!(learnt.get(CHAT, "a", now).is_empty() && !learnt.knows(CHAT, "a", now));
        for hash in 0..100 {
            learnt.mark_hopeless(CHAT, "a", hash, now);
        }
        assert!(!learnt.is_hopeless(CHAT, "a", 7, now), "bounded");
    }

    #[test]
    fn the_memory_is_bounded() {
        let learnt = RepairMemory::new(EXPERIMENT_INTERVAL);
        let now = Instant::now();
        for number in 0..MAX_MODELS as u64 + 5 {
            let later = now + Duration::from_millis(number);
            learnt.insert(CHAT, &number.to_string(), &[omit("seed")], later);
        }
        assert!(learnt.get(CHAT, "4", now).is_empty());
        assert!(!learnt.get(CHAT, "5", now).is_empty());
        assert_eq!(lock::read(&learnt.table).entries.len(), MAX_MODELS);
        for schemas in 0..1000 {
            let repair = (Repair::ReduceSchemas, Scope::Schemas(schemas));
            learnt.insert(CHAT, "9", &[repair], now);
        }
        assert_eq!(learnt.get(CHAT, "9", now).repairs.len(), MAX_REPAIRS_PER_MODEL);
    }

    #[test]
    fn what_was_learnt_is_a_part_of_the_memory_budget() {
        use crate::net::memory_budget::MemoryBudget;

        let (learnt, now) = (RepairMemory::new(EXPERIMENT_INTERVAL), Instant::now());
        let budget = MemoryBudget::new(64 * 1024);
        budget.scope(|| {
            for number in 0..200 {
                let later = now + Duration::from_secs(number);
                let member = format!("member{number}").repeat(20);
                learnt.insert(CHAT, &number.to_string(), &[omit(&member)], later);
                assert_eq!(budget.used(), lock::read(&learnt.table).bytes());
            }
        });
        assert!(budget.used() > 60 * 1024);
        let known = |number: u64| learnt.knows(CHAT, &number.to_string(), now);
        assert!(!known(0) && known(199), "the oldest went first");
    }
}
