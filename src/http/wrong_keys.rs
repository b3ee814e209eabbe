//! Wrong keys by address: who sends too many is told to wait.
//!
//! | wrong keys of one address, with less than a minute between two | response |
//! | --- | --- |
//! | the first 10 | 401 |
//! | each one after that, when the wait is over | 429, which begins a wait twice as long, of 1 to 60 s |
//! | while the wait lasts | 429 with the rest of it |
//!
//! A right key is served at any time, also during a wait, and ends it: behind a reverse proxy or a shared
//! address, clients with a wrong key cannot lock out those with a right one. So the wait bounds noise and
//! tells a misconfigured client to stop; what protects against guessing is the length of the keys. A request
//! without a key does not count, as clients ask without one first.
//!
//! An IPv6 address stands for its /64, of which one machine has all. Pure: the time is an argument.
//! Invariant: at most `MAX_ADDRESSES` are kept; for another one, the one that was seen longest ago goes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most addresses that are kept, about 64 KiB.
const MAX_ADDRESSES: usize = 1024;

/// Wrong keys without a wait.
const FREE_ATTEMPTS: u32 = 10;

/// After this long without a wrong key, an address starts over. Also the longest wait.
const MEMORY: Duration = Duration::from_secs(60);

/// The first wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The addresses that sent wrong keys.
#[derive(Debug, Default)]
pub struct WrongKeys {
    /// By network.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    network: u128,
    /// Wrong keys, but for those during a wait.
    attempts: u32,
    last_at: Instant,
    wait_until: Instant,
}

impl WrongKeys {
    /// Counts a wrong key; the time that the client has to wait, if it sent too many.
    pub fn record(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let entry = self.entry(network(address), now);
        if now.saturating_duration_since(entry.last_at) >= MEMORY {
            entry.attempts = 0;
        }
        entry.last_at = now;
        let left = entry.wait_until.saturating_duration_since(now);
        if !left.is_zero() && entry.attempts > 0 {
            return Some(left);
        }
        entry.attempts = entry.attempts.saturating_add(1);
        let doublings = entry.attempts.checked_sub(FREE_ATTEMPTS + 1)?;
        let wait = FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(MEMORY);
        entry.wait_until = now + wait;
        Some(wait)
    }

    /// Forgets an address that has sent a right key.
    pub fn clear(&mut self, address: IpAddr) {
        if let Ok(place) = self.find(network(address)) {
            self.entries.remove(place);
        }
    }

    fn find(&self, network: u128) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&network, |entry| entry.network)
    }

    fn entry(&mut self, network: u128, now: Instant) -> &mut Entry {
        let place = self.find(network).unwrap_or_else(|_| {
            if self.entries.len() >= MAX_ADDRESSES {
                let ages = self.entries.iter().enumerate();
                let oldest = ages.min_by_key(|(_, entry)| entry.last_at).map_or(0, |(at, _)| at);
                self.entries.remove(oldest);
            }
            let place = self.find(network).unwrap_or_else(|place| place);
            let entry = Entry { network, attempts: 0, last_at: now, wait_until: now };
            self.entries.insert(place, entry);
            place
        });
        &mut self.entries[place]
    }
}

/// An address as it is counted: an IPv4 address, or the first half of an IPv6 address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "192.0.2.7";

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Records wrong keys of [`ADDRESS`] at these seconds; the waits in seconds, 0 for none.
    #[track_caller]
    fn check(keys: &mut WrongKeys, start: Instant, table: &[(u64, u64)]) {
        for (at, expected) in table {
            let wait = keys.record(address(ADDRESS), start + Duration::from_secs(*at));
            assert_eq!(wait.unwrap_or_default().as_secs(), *expected, "at {at} s");
        }
    }

    #[test]
    fn after_ten_wrong_keys_each_one_makes_the_wait_twice_as_long() {
        let (mut keys, start) = (WrongKeys::default(), Instant::now());
        check(&mut keys, start, &[(0, 0); 10]);
        // One during a wait gets the rest of it.
        check(&mut keys, start, &[(0, 1), (0, 1), (1, 2), (2, 1), (3, 4), (7, 8), (15, 16)]);
        check(&mut keys, start, &[(31, 32), (63, 60), (64, 59), (123, 60)]);
        // Nobody who goes on begins anew.
        check(&mut keys, start, &[(182, 1), (183, 60), (243, 0)]);
    }

    #[test]
    fn a_minute_without_a_wrong_key_or_a_right_one_begins_anew() {
        let (mut keys, start) = (WrongKeys::default(), Instant::now());
        check(&mut keys, start, &[(0, 0); 10]);
        check(&mut keys, start, &[(0, 1), (60, 0), (60, 0)]);
        keys.clear(address(ADDRESS));
        check(&mut keys, start, &[(60, 0); 10]);
        check(&mut keys, start, &[(60, 1)]);
        keys.clear(address("192.0.2.8"));
        check(&mut keys, start, &[(60, 1)]);
        keys.clear(address(ADDRESS));
        check(&mut keys, start, &[(60, 0)]);
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one_client() {
        for (one, other, is_same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("::1", "0.0.0.1", false),
        ] {
            let (mut keys, now) = (WrongKeys::default(), Instant::now());
            (0..10).for_each(|_| assert_eq!(keys.record(address(one), now), None));
            assert_eq!(keys.record(address(other), now).is_some(), is_same, "{one} {other}");
        }
    }

    #[test]
    fn the_address_that_was_seen_longest_ago_makes_room() {
        let (mut keys, start) = (WrongKeys::default(), Instant::now());
        check(&mut keys, start, &[(0, 0); 10]);
        let other = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        for number in 0..1023 {
            keys.record(other(number), start + Duration::from_secs(1));
        }
        // Still known, and now the youngest.
        check(&mut keys, start, &[(2, 1)]);
        for number in 1023..2046 {
            keys.record(other(number), start + Duration::from_secs(3));
        }
        assert_eq!(keys.entries.len(), MAX_ADDRESSES);
        assert!(keys.entries.is_sorted_by_key(|entry| entry.network));
        check(&mut keys, start, &[(3, 2)]);
        keys.record(other(5000), start + Duration::from_secs(4));
        keys.record(other(5001), start + Duration::from_secs(4));
        assert_eq!(keys.entries.len(), MAX_ADDRESSES);
    }
}
