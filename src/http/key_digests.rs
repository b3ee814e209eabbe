//! A set of texts that is kept as digests, each with the place of its name.
//!
//! Never holds a text. Invariant: what tells whether a text is in the set are digests with a salt that is
//! another one in each process.

use std::hash::{BuildHasher, Hasher, RandomState};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// The place of the name of a text that has none.
pub(super) const NO_NAME: u16 = u16::MAX;

/// A digest of a key; all zeros for none.
type Digest = [u8; SHA256_OUTPUT_LEN];

const NO_DIGEST: Digest = [0; SHA256_OUTPUT_LEN];

const FREE: (Digest, u16) = (NO_DIGEST, NO_NAME);

/// A set of digests. They are evenly spread, so the place of one is a part of itself, or the next free place.
#[derive(Clone, Default)]
pub(super) struct DigestSet {
    salt: [u8; 16],
    /// A power of two, at most half of them taken; none for an empty set.
    places: Vec<(Digest, u16)>,
    count: usize,
}

impl DigestSet {
    /// Adds a text with the place of its name; of one that is there already, that place.
    pub(super) fn insert(&mut self, text: &str, name: u16) -> Result<(), u16> {
        if self.places.is_empty() {
            self.salt = random_salt();
        }
        if (self.count + 1) * 2 > self.places.len() {
            let larger = vec![FREE; (self.places.len() * 2).max(8)];
            let known = std::mem::replace(&mut self.places, larger);
            for entry in known.into_iter().filter(|(digest, _)| *digest != NO_DIGEST) {
                let place = self.find_place(&entry.0);
                self.places[place] = entry;
            }
        }
        let digest = self.digest(text);
        let place = self.find_place(&digest);
        if self.places[place].0 == digest {
            return Err(self.places[place].1);
        }
        self.places[place] = (digest, name);
        self.count += 1;
        Ok(())
    }

    /// The place of the name of a text that is in the set.
    pub(super) fn find(&self, text: &str) -> Option<u16> {
        if self.places.is_empty() {
            return None;
        }
        let digest = self.digest(text);
        let (found, name) = self.places[self.find_place(&digest)];
        (found == digest).then_some(name)
    }

    /// Where a digest is, or would be.
    fn find_place(&self, digest: &Digest) -> usize {
        let last = self.places.len() - 1;
        let start = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) as usize;
        let mut places = (start..).map(|place| place & last);
        let is_its_own = |place: &usize| [*digest, NO_DIGEST].contains(&self.places[*place].0);
        places.find(is_its_own).unwrap_or_default()
    }

    fn digest(&self, text: &str) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(&self.salt);
        context.update(text.as_bytes());
        let mut digest = NO_DIGEST;
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

/// Random bytes that differ in each process: what the standard library seeds its own sets with.
fn random_salt() -> [u8; 16] {
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&random());
    salt[8..].copy_from_slice(&random());
    salt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sets_of_the_same_texts_have_other_digests() {
        let set = || {
            let mut set = DigestSet::default();
            assert_eq!(set.insert("first-key-1", NO_NAME), Ok(()));
            assert_eq!(set.insert("second-key-2", 7), Ok(()));
            assert_eq!(set.insert("second-key-2", 8), Err(7));
            set
        };
        let (one, other) = (set(), set());
        assert_eq!((one.find("first-key-1"), one.find("second-key-2")), (Some(NO_NAME), Some(7)));
        assert_eq!((one.find("third-key-3"), DigestSet::default().find("x")), (None, None));
        assert_ne!(one.salt, other.salt);
        let has = |digest| other.places.iter().any(|(it, _)| *it == digest);
        assert!(!one.places.iter().any(|(it, _)| *it != NO_DIGEST && has(*it)));
        assert_eq!((one.count, one.places.len()), (2, 8));
    }
}
