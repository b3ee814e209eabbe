//! The family of an upstream, as the heads of its responses and its own words name it.
//!
//! A family that a head names holds while its heads come: after an hour without one, another head decides. An
//! upstream that said that it is an Ollama counts as one until it is asked again, after an hour, and says
//! something else. Never reads the clock.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::backends::profiles::Profile;
use crate::observe::lock::lock;

/// How long a server that did not answer is not asked again.
pub(super) const VERSION_RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// What is known of the family of one upstream.
#[derive(Debug)]
pub(super) struct Family {
    state: Mutex<State>,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// The family that heads name, and when the last one did.
    by_head: Option<(&'static Profile, Instant)>,
    version: VersionState,
}

/// What an upstream has said of itself.
#[derive(Clone, Copy, Debug, Default)]
enum VersionState {
    /// Nothing yet.
    #[default]
    Unknown,
    /// Nothing yet; its list is being asked for.
    Begun,
    /// It could not be asked.
    Failed(Instant),
    /// That it is none, at a time.
    Other(Instant),
    /// That it is an Ollama, with this profile; it is asked again at that time.
    Ollama(&'static Profile, Instant),
}

impl Family {
    /// Nothing; what is learnt is known for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { state: Mutex::default(), ttl }
    }

    /// The family, as far as it is known.
    pub(super) fn get(&self, now: Instant) -> Option<&'static Profile> {
        let state = lock(&self.state);
        match state.version {
            VersionState::Ollama(profile, _) => Some(profile),
            _ => state.by_head.filter(|(_, at)| self.is_recent(*at, now)).map(|(it, _)| it),
        }
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        now.duration_since(at) < self.ttl
    }

    /// Notes the family that a head names. Another one stays as long as it is known.
    pub(super) fn record_head(&self, profile: &'static Profile, now: Instant) {
        let mut state = lock(&self.state);
        let other =
            state.by_head.filter(|(known, at)| *known != profile && self.is_recent(*at, now));
        if other.is_none() {
            state.by_head = Some((profile, now));
        }
    }

    /// Whether the upstream may turn out to be an Ollama, if no family is known.
    pub(super) fn is_open(&self) -> bool {
        !matches!(lock(&self.state).version, VersionState::Other(_))
    }

    /// Takes the turn to find out, if it has never been tried.
    pub(super) fn begin_look(&self, now: Instant) -> bool {
        let begins = self.get(now).is_none();
        let mut state = lock(&self.state);
        let begins = begins && matches!(state.version, VersionState::Unknown);
        if begins {
            state.version = VersionState::Begun;
        }
        begins
    }

    /// Whether an upstream of unknown family is to be asked what it is.
    pub(super) fn is_check_due(&self, now: Instant) -> bool {
        if self.get(now).is_some() {
            return false;
        }
        match lock(&self.state).version {
            VersionState::Failed(at) => now.duration_since(at) >= VERSION_RETRY_INTERVAL,
            VersionState::Other(at) => !self.is_recent(at, now),
            _ => true,
        }
    }

    /// Whether an Ollama is to be asked whether it still is one.
    pub(super) fn is_recheck_due(&self, now: Instant) -> bool {
        matches!(lock(&self.state).version, VersionState::Ollama(_, due) if now >= due)
    }

    /// Notes what the upstream said: the profile of an Ollama, none, or nothing. True if this is news of an
    /// Ollama.
    pub(super) fn record_version(
        &self,
        said: Option<Option<&'static Profile>>,
        now: Instant,
    ) -> bool {
        let mut state = lock(&self.state);
        let before = std::mem::take(&mut state.version);
        state.version = match (said, before) {
            (Some(Some(profile)), _) => VersionState::Ollama(profile, now + self.ttl),
            (Some(None), _) => VersionState::Other(now),
            // An Ollama that is busy or away still is one.
            (None, VersionState::Ollama(profile, _)) => {
                VersionState::Ollama(profile, now + VERSION_RETRY_INTERVAL.min(self.ttl))
            }
            (None, _) => VersionState::Failed(now),
        };
        let is_ollama = |version| matches!(version, VersionState::Ollama(..));
        is_ollama(state.version) != is_ollama(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::profiles;

    const TTL: Duration = Duration::from_secs(3600);

    fn profile(name: &str) -> &'static Profile {
        profiles::find_by_name(name).expect("a known family")
    }

    fn name(family: &Family, now: Instant) -> Option<&'static str> {
        family.get(now).map(|profile| profile.name)
    }

    #[test]
    fn a_family_holds_while_heads_name_it() {
        let (family, now) = (Family::new(TTL), Instant::now());
        family.record_head(profile("vllm"), now);
        family.record_head(profile("openai"), now + TTL / 2);
        assert_eq!(name(&family, now + TTL / 2), Some("vllm"), "the first one stays");
        assert_eq!(name(&family, now + TTL), None);
        family.record_head(profile("vllm"), now + TTL / 2);
        assert_eq!(name(&family, now + TTL), Some("vllm"));
        family.record_head(profile("openai"), now + TTL * 2);
        assert_eq!(name(&family, now + TTL * 2), Some("openai"));
    }

    #[test]
    fn an_ollama_is_asked_again_after_an_hour_and_stays_one_until_it_answers() {
        let (family, now) = (Family::new(TTL), Instant::now());
        assert!(family.is_open() && family.is_check_due(now));
        assert!(family.record_version(Some(Some(profile("ollama"))), now));
        assert!(!family.is_check_due(now) && !family.is_recheck_due(now + TTL / 2));
        assert!(family.is_recheck_due(now + TTL) && !family.is_check_due(now + TTL));
        assert_eq!(name(&family, now + TTL * 9), Some("ollama"));
        assert!(!family.record_version(None, now + TTL), "no answer is no news");
        assert!(!family.is_recheck_due(now + TTL));
        assert!(family.is_recheck_due(now + TTL + VERSION_RETRY_INTERVAL));
        assert!(family.record_version(Some(None), now + TTL), "another server is there");
        assert_eq!(name(&family, now + TTL), None);
    }

    #[test]
    fn another_server_is_asked_again_after_an_hour_and_one_that_fails_after_ten_minutes() {
        let (family, now) = (Family::new(TTL), Instant::now());
        assert!(family.begin_look(now) && !family.begin_look(now));
        assert!(!family.record_version(None, now));
        assert!(!family.is_check_due(now) && family.is_check_due(now + VERSION_RETRY_INTERVAL));
        assert!(!family.record_version(Some(None), now) && !family.is_open());
        assert!(!family.is_check_due(now + TTL / 2) && family.is_check_due(now + TTL));
    }
}
