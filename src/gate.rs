//! What happens to a request before it is routed: CORS, then the check of its host
//! (ollama-api.md 16).
//!
//! The check of the host keeps web pages from reaching a server on loopback by a name that they make
//! point there (DNS rebinding). A server that listens elsewhere is meant to be reached by other
//! names, so there is no check. Pure: what is known of the machine comes in, the machine itself is
//! never asked here.
//! Invariant: CORS comes first, so that a preflight and a foreign origin are answered whatever the
//! host, and a refused host still carries the headers of its allowed origin.

use std::net::{IpAddr, Ipv6Addr};

use crate::origin::{Headers, Origins, Verdict};

/// Names that end so are of this machine or its network.
const LOCAL_ENDINGS: [&str; 3] = [".localhost", ".local", ".internal"];

/// The rules for one listening socket.
pub struct Gate {
    origins: Origins,
    /// `None` where any host will do.
    machine: Option<Machine>,
}

/// What the check of the host has to know of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name; empty when unknown.
    pub hostname: String,
    /// Whether an address is one of its interfaces'.
    pub has_address: fn(IpAddr) -> bool,
}

/// What is to be done with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The status of an answer without a body; `None` when the request goes on to its route.
    pub status: Option<u16>,
    /// For whatever answer it gets.
    pub headers: Headers,
    /// Why it is refused, for the log.
    pub refusal: Option<&'static str>,
}

impl Gate {
    /// The rules for a socket that is bound to `bound`.
    #[must_use]
    pub fn new(origins: Origins, bound: IpAddr, machine: Machine) -> Self {
        let machine = bound.to_canonical().is_loopback().then_some(machine);
        Self { origins, machine }
    }

    /// Decides about a request: its method, its target as it stands in the request line, and its
    /// headers `Origin` and `Host`.
    #[must_use]
    pub fn decide(
        &self,
        method: &str,
        target: &str,
        origin: Option<&str>,
        host: Option<&str>,
    ) -> Ruling {
        let host = effective_host(target, host);
        let headers = match self.origins.decide(method, origin, host) {
            Verdict::Refused => return refused("its origin is not allowed (OLLAMA_ORIGINS)"),
            Verdict::Preflight(headers) => {
                return Ruling { status: Some(204), headers, refusal: None };
            }
            Verdict::Allowed(headers) => headers,
            Verdict::SameOrigin => Headers::new(),
        };
        let ruling = self.machine.as_ref().map(|machine| machine.decide(method, host));
        Ruling { headers, ..ruling.unwrap_or_default() }
    }
}

impl Machine {
    fn decide(&self, method: &str, host: &str) -> Ruling {
        let host = without_port(host);
        if host.parse().is_ok_and(|address: IpAddr| self.is_near(address)) {
            return Ruling::default();
        }
        if !self.is_own_name(&host.to_ascii_lowercase()) {
            return refused("its host is not this machine (it listens on loopback only)");
        }
        let status = (method == "OPTIONS").then_some(204);
        Ruling { status, ..Ruling::default() }
    }

    fn is_near(&self, address: IpAddr) -> bool {
        let private = match address.to_canonical() {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        let address = address.to_canonical();
        private || address.is_loopback() || address.is_unspecified() || (self.has_address)(address)
    }

    fn is_own_name(&self, host: &str) -> bool {
        host.is_empty()
            || host == "localhost"
            || host == self.hostname.to_ascii_lowercase()
            || LOCAL_ENDINGS.iter().any(|ending| host.ends_with(ending))
    }
}

fn refused(why: &'static str) -> Ruling {
    Ruling { status: Some(403), headers: Headers::new(), refusal: Some(why) }
}

/// The host that a request is for: a whole URL in the request line is stronger than the header
/// (RFC 9112, 3.2.2).
fn effective_host<'a>(target: &'a str, header: Option<&'a str>) -> &'a str {
    let authority = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
        _ => "",
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() { header.unwrap_or_default() } else { host }
}

/// The host without a port and without the brackets of an IPv6 address. What has several colons and
/// no brackets is left as it is.
fn without_port(host: &str) -> &str {
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let bracketed = address.parse::<Ipv6Addr>().is_ok();
        return if bracketed && (rest.is_empty() || rest.starts_with(':')) {
            address
        } else {
            host
        };
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(bound: &str) -> Gate {
        let has_address = |address: IpAddr| address.to_string() == "203.0.113.5";
        let machine = Machine { hostname: "Workshop".into(), has_address };
        Gate::new(Origins::default(), bound.parse().expect("an address"), machine)
    }

    /// The status for a plain GET and a plain OPTIONS; 0 means that it goes on to its route.
    #[track_caller]
    fn check(bound: &str, host: &str, get: u16, options: u16) {
        for (method, expected) in [("GET", get), ("OPTIONS", options)] {
            let ruling = gate(bound).decide(method, "/", None, Some(host));
            assert_eq!(ruling.status.unwrap_or(0), expected, "{bound} {method} {host:?}");
            assert_eq!(ruling.refusal.is_some(), expected == 403, "{bound} {method} {host:?}");
            assert_eq!(ruling.headers, [], "{host:?}");
        }
    }

    #[test]
    fn near_addresses_go_on_to_their_route() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:11434",
            "127.8.9.1:80",
            "10.1.2.3",
            "172.16.0.1:1",
            "172.31.255.255",
            "192.168.1.5:11434",
            "0.0.0.0:11434",
            "203.0.113.5",
            "203.0.113.5:11434",
            "[::1]:11434",
            "[::1]",
            "::1",
            "[::]:1",
            "[fd00::7]:11434",
            "[fcff::]",
            "[::ffff:127.0.0.1]:1",
        ] {
            check("127.0.0.1", host, 0, 0);
            check("::1", host, 0, 0);
        }
    }

    #[test]
    fn own_names_go_on_and_a_plain_options_is_answered() {
        for host in [
            "",
            ":11434",
            "localhost",
            "LocalHost:11434",
            "localhost:",
            "workshop",
            "WORKSHOP:80",
            "app.localhost",
            "printer.local:11434",
            "host.docker.internal:11434",
            "HOST.DOCKER.INTERNAL",
        ] {
            check("127.0.0.1", host, 0, 204);
        }
        let ruling = gate("127.0.0.1").decide("OPTIONS", "/", None, None);
        assert_eq!(ruling.status, Some(204), "no header is an empty one");
    }

    #[test]
    fn all_others_are_refused_on_loopback() {
        for host in [
            "example.com",
            "example.com:11434",
            "localhost.example.com",
            "evil-localhost",
            "local",
            "internal",
            "workshop.example.com",
            "203.0.113.6",
            "8.8.8.8:11434",
            "172.32.0.1",
            "[2001:db8::1]:11434",
            "[fe80::1]",
            "[localhost]",
            "[::1]x",
            "[::1",
            "a:b:c",
            "localhost@example.com",
            "localhost.",
            "127.0.0.1.nip.io",
        ] {
            check("127.0.0.1", host, 403, 403);
            check("127.9.9.9", host, 403, 403);
        }
    }

    #[test]
    fn elsewhere_than_on_loopback_any_host_will_do() {
        for bound in ["0.0.0.0", "::", "192.168.1.5"] {
            for host in ["example.com", "localhost", "8.8.8.8", ""] {
                check(bound, host, 0, 0);
            }
        }
        check("::ffff:127.0.0.1", "example.com", 403, 403);
    }

    #[test]
    fn a_machine_without_a_known_name_lets_nothing_more_in() {
        let machine = Machine { hostname: String::new(), has_address: |_| false };
        let gate = Gate::new(Origins::default(), [127, 0, 0, 1].into(), machine);
        let status = |host| gate.decide("GET", "/", None, Some(host)).status;
        assert_eq!((status("workshop"), status("localhost")), (Some(403), None));
    }

    #[test]
    fn a_whole_url_in_the_request_line_is_stronger_than_the_header() {
        let check = |target: &str, header: &str, expected: Option<u16>| {
            let ruling = gate("127.0.0.1").decide("GET", target, None, Some(header));
            assert_eq!(ruling.status, expected, "{target} {header}");
        };
        check("http://example.com/api/tags", "localhost", Some(403));
        check("https://example.com?x", "localhost", Some(403));
        check("http://localhost@example.com/", "localhost", Some(403));
        check("http://localhost:11434/api/tags", "example.com", None);
        check("http:///api/tags", "example.com", Some(403));
        check("/http://localhost/", "example.com", Some(403));
        check("ftp://localhost/", "example.com", Some(403));
    }

    #[test]
    fn cors_comes_before_the_host() {
        let status = |method: &str, origin: &str, host: &str| {
            let ruling = gate("127.0.0.1").decide(method, "/", Some(origin), Some(host));
            (ruling.status, ruling.headers.len())
        };
        let (near, far) = ("http://localhost:3000", "http://evil.test");
        assert_eq!(status("OPTIONS", near, "example.com"), (Some(204), 7));
        assert_eq!(status("OPTIONS", near, "localhost"), (Some(204), 7));
        assert_eq!(status("OPTIONS", near, "127.0.0.1"), (Some(204), 7));
        assert_eq!(status("GET", near, "example.com"), (Some(403), 2));
        assert_eq!(status("GET", near, "localhost"), (None, 2));
        assert_eq!(status("GET", far, "localhost"), (Some(403), 0));
        assert_eq!(status("OPTIONS", far, "localhost"), (Some(403), 0));
        assert_eq!(status("OPTIONS", "http://localhost", "localhost"), (Some(204), 0));
        assert_eq!(status("GET", "http://evil.test", "evil.test"), (Some(403), 0));
    }
}
