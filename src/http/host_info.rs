//! What is to be known of this machine: its name and its addresses, for the check of the host
//! (`gate`), and its time zone.
//!
//! Asks the system and nobody else: nothing is resolved and nothing is sent. Without a library for
//! it, the name is read where Linux tells it and in the variables of other systems; a machine whose
//! name stays unknown is reached by `localhost` and by its addresses all the same.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use socket2::{Domain, Protocol, Socket, Type};
use time::{OffsetDateTime, UtcOffset};

use crate::http::access::HostInfo;

/// This machine.
#[must_use]
pub fn detect() -> HostInfo {
    HostInfo { hostname: read_hostname(), has_address }
}

/// How far the local zone is ahead of UTC at a time, in seconds; 0 where nobody knows.
#[must_use]
pub fn utc_offset(time: SystemTime) -> i32 {
    UtcOffset::local_offset_at(OffsetDateTime::from(time)).map_or(0, UtcOffset::whole_seconds)
}

fn read_hostname() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = |name: &str| std::env::var(name).ok();
    let name = told.or_else(|| variable("HOSTNAME")).or_else(|| variable("COMPUTERNAME"));
    name.unwrap_or_default().trim().to_owned()
}

/// Whether an interface of this machine has the address: only then can a socket be bound to it. It
/// is closed again at once and never listens. Broadcast addresses count, too: nobody is reached there.
fn has_address(address: IpAddr) -> bool {
    let address = SocketAddr::new(address, 0);
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&address.into()))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_its_own_are_told_from_others() {
        assert!(has_address([127, 0, 0, 1].into()));
        for other in ["203.0.113.77", "2001:db8::77"] {
            assert!(!has_address(other.parse().expect("an address")), "{other}");
        }
    }

    #[test]
    fn a_name_has_no_blanks_around_it() {
        let machine = detect();
        assert_eq!(machine.hostname, machine.hostname.trim());
    }
}
