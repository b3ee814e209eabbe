//! Rendezvous hashing: which replica a conversation stays at (Thaler and Ravishankar, "Using Name-Based
//! Mappings to Increase Hit Rates", 1998). Pure.
//!
//! Each pair of a conversation and a replica has a score, and the replica with the highest score gets the
//! conversation. Invariant: without one replica, only its own conversations move.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a conversation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationKey(u64);

impl ConversationKey {
    /// The key of a conversation that these parts identify.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = DefaultHasher::new();
        parts.into_iter().for_each(|part| part.hash(&mut hasher));
        Self(hasher.finish())
    }

    /// The score of the replica whose name these parts make, without joining them.
    pub fn score_joined(self, replica: &[&str]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        replica.iter().for_each(|part| hasher.write(part.as_bytes()));
        hasher.write_u8(0xff);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ConversationKey {
        fn score(self, replica: &str) -> u64 {
            self.score_joined(&[replica])
        }
    }

    const REPLICAS: [&str; 5] = ["a", "b", "c", "lab-1", "lab-2"];

    fn key(number: usize) -> ConversationKey {
        ConversationKey::new(["You are a pirate.", &format!("question {number}")])
    }

    fn winner<'a>(key: ConversationKey, replicas: &[&'a str]) -> &'a str {
        replicas.iter().max_by_key(|replica| key.score(replica)).expect("replicas")
    }

    #[test]
    fn without_one_replica_only_its_own_conversations_move() {
        for removed in REPLICAS {
            let left: Vec<&str> =
                REPLICAS.into_iter().filter(|replica| *replica != removed).collect();
            let mut moved_to = Vec::new();
            for number in 0..2000 {
                let (before, after) = (winner(key(number), &REPLICAS), winner(key(number), &left));
                if before == removed {
                    moved_to.push(after);
                } else {
                    assert_eq!(before, after, "{number} without {removed}");
                }
            }
            for replica in left {
                assert!(moved_to.contains(&replica), "{removed} leaves some to {replica}");
            }
        }
    }

    #[test]
    fn conversations_spread_evenly_and_stay() {
        for replica in REPLICAS {
            let count = (0..5000).filter(|it| winner(key(*it), &REPLICAS) == replica).count();
            assert!((800..1200).contains(&count), "{replica}: {count}");
        }
        assert_eq!(key(7), key(7));
        assert_ne!(ConversationKey::new(["ab", "c"]), ConversationKey::new(["a", "bc"]));
    }

    #[test]
    fn a_name_in_parts_is_the_same_name() {
        for parts in [["lab", "/", "m"], ["lab/m", "", ""], ["l", "ab/", "m"]] {
            assert_eq!(key(3).score_joined(&parts), key(3).score("lab/m"));
        }
        // Conversations stay at their replica when the program is replaced by this version.
        let mut hasher = DefaultHasher::new();
        (key(3).0, "lab/m").hash(&mut hasher);
        assert_eq!(key(3).score("lab/m"), hasher.finish());
    }

    #[test]
    fn the_order_of_the_replicas_does_not_matter() {
        let mut reversed = REPLICAS;
        reversed.reverse();
        for number in 0..500 {
            assert_eq!(winner(key(number), &REPLICAS), winner(key(number), &reversed));
        }
    }
}
