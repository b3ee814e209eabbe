//! Texts that the log shows once, although requests repeat what they tell.
//!
//! A conversation is sent again with each turn, and so is all that the log has to say of it.
//! Invariant: at most `MAX_TEXTS` texts are kept; further ones are not shown, because a client that sends
//! so many different ones could fill the log.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::lock::lock;

/// The most texts that are shown.
const MAX_TEXTS: usize = 64;

/// The texts that were shown.
#[derive(Debug, Default)]
pub struct FirstTimes(Mutex<BTreeSet<String>>);

impl FirstTimes {
    /// True the first time for each text.
    pub fn is_first(&self, text: &str) -> bool {
        let mut texts = lock(&self.0);
        texts.len() < MAX_TEXTS && texts.insert(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_first_once_and_there_are_not_many() {
        let times = FirstTimes::default();
        assert_eq!(["a", "b", "a"].map(|text| times.is_first(text)), [true, true, false]);
        let shown = (0..1000).filter(|number| times.is_first(&number.to_string())).count();
        assert_eq!(shown, MAX_TEXTS - 2);
    }
}
