//! The name, addresses and time zone of this machine, for the check of `Host` and for logs.
//!
//! Never resolves a name and never sends anything. The name comes from `/proc` on Linux, and from
//! `HOSTNAME` or `COMPUTERNAME` elsewhere. Invariant: an unknown name is empty, and the machine is
//! still reached as `localhost` and by its addresses.

#[cfg(unix)]
use std::env;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::sync::LazyLock;
use std::time::SystemTime;

use socket2::{Domain, Protocol, Socket, Type};
use time::OffsetDateTime;
#[cfg(unix)]
use tz::TimeZone;

use crate::http::access::HostInfo;

/// The facts about this machine.
pub fn detect() -> HostInfo {
    HostInfo { hostname: read_hostname(), has_address }
}

/// The offset of the local time zone from UTC at a time, in seconds east; 0 if unknown. The zone is
/// that of `TZ`, else of the machine; it is read once.
#[cfg(unix)]
pub fn utc_offset(time: SystemTime) -> i32 {
    static ZONE: LazyLock<Option<TimeZone>> = LazyLock::new(|| read_zone(env::var("TZ").ok()));
    ZONE.as_ref().map_or(0, |zone| offset_in(zone, time))
}

/// The zone that a value of `TZ` means: a name, a file, or a rule as in POSIX.
#[cfg(unix)]
fn read_zone(name: Option<String>) -> Option<TimeZone> {
    name.map_or_else(TimeZone::local, |name| TimeZone::from_posix_tz(&name)).ok()
}

#[cfg(unix)]
fn offset_in(zone: &TimeZone, time: SystemTime) -> i32 {
    let seconds = OffsetDateTime::from(time).unix_timestamp();
    zone.find_local_time_type(seconds).map_or(0, |found| found.ut_offset())
}

/// The offset of the local time zone from UTC at a time, in seconds east; 0 if unknown.
#[cfg(not(unix))]
pub fn utc_offset(time: SystemTime) -> i32 {
    time::UtcOffset::local_offset_at(OffsetDateTime::from(time))
        .map_or(0, time::UtcOffset::whole_seconds)
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

    #[cfg(unix)]
    #[test]
    fn the_zone_is_that_of_the_variable() {
        let summer = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_750_000_000);
        let winter = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_735_000_000);
        let offsets = |name: &str| {
            let zone = read_zone(Some(name.to_owned()))?;
            Some((offset_in(&zone, winter), offset_in(&zone, summer)))
        };
        assert_eq!(offsets("CET-1CEST,M3.5.0,M10.5.0/3"), Some((3600, 7200)));
        assert_eq!(offsets("<-0330>3:30"), Some((-12600, -12600)));
        assert_eq!(offsets("UTC0"), Some((0, 0)));
        for unknown in ["", "no such zone", ":/no/such/file"] {
            assert_eq!(offsets(unknown), None, "{unknown:?} is UTC");
        }
    }

    #[test]
    fn a_name_has_no_blanks_around_it() {
        let hostname = detect().hostname;
        assert_eq!(hostname, hostname.trim());
    }
}
