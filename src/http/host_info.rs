//! The name, addresses and time zone of this machine, for the check of `Host` and for logs.
//!
//! Never resolves a name and never sends anything. The name comes from `/proc` on Linux, and from
//! `HOSTNAME` or `COMPUTERNAME` elsewhere. Invariant: an unknown name is empty, and the machine is
//! still reached as `localhost` and by its addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use socket2::{Domain, Protocol, Socket, Type};
use time::{OffsetDateTime, UtcOffset};

use crate::http::access::HostInfo;

/// The facts about this machine.
pub fn detect() -> HostInfo {
    HostInfo { hostname: read_hostname(), has_address }
}

/// The offset of the local time zone from UTC at a time, in seconds east; 0 if unknown.
pub fn utc_offset(time: SystemTime) -> i32 {
    UtcOffset::local_offset_at(OffsetDateTime::from(time)).map_or(0, UtcOffset::whole_seconds)
}

fn read_hostname() -> String {
    let from_proc = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = |name: &str| std::env::var(name).ok();
    let name = from_proc.or_else(|| variable("HOSTNAME")).or_else(|| variable("COMPUTERNAME"));
    name.unwrap_or_default().trim().to_owned()
}

/// True if an interface of this machine has the address: only then can a socket be bound to it. The
/// socket never listens. Broadcast addresses count too, which does no harm.
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
    fn own_addresses_differ_from_others() {
        assert!(has_address([127, 0, 0, 1].into()));
        for other in ["203.0.113.77", "2001:db8::77"] {
            assert!(!has_address(other.parse().expect("an address")), "{other}");
        }
    }

    #[test]
    fn a_name_has_no_blanks_around_it() {
        let hostname = detect().hostname;
        assert_eq!(hostname, hostname.trim());
    }
}
