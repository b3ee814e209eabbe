//! `OLLAMA_HOST`: the address to listen on, parsed as Ollama does (envconfig/config.go, `Host`).
//!
//! Pure. The scheme only sets the default port, and a path is ignored. Names such as `localhost` stay
//! names, to be resolved when the socket is bound. An invalid port is replaced with a warning, as in
//! Ollama; an invalid host is an error.
//! Invariant: `host` is empty (all interfaces), an IP address without brackets, or a host name.

use std::net::{IpAddr, Ipv6Addr};

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 11434;

/// The address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// A host name or an IP address without brackets; empty for all interfaces.
    pub host: String,
    /// The port; 0 for any free one.
    pub port: u16,
    /// Why the configured port was replaced.
    pub warning: Option<String>,
}

/// Parses a value of `OLLAMA_HOST`.
///
/// # Errors
/// If the host is neither a name nor an address; the text says what is allowed.
pub fn parse(text: &str) -> Result<ListenAddress, String> {
    let text = text.trim();
    let (default_port, rest) = match text.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        Some((_, rest)) => (DEFAULT_PORT, rest),
        // Ollama gives the name of its own service another default port.
        None if text == "ollama.com" => (443, text),
        None => (DEFAULT_PORT, text),
    };
    let address = rest.split('/').next().unwrap_or_default();
    let (host, port) = split_port(address);

    let host = match host {
        // An empty host means all interfaces only with a port.
        "" if port.is_none() => DEFAULT_HOST.to_owned(),
        host => validate_host(host)?,
    };
    let port = port.map_or(Ok(default_port), str::parse);
    let warning = format!("invalid port (0 to 65535); using {default_port}");
    let warning = port.is_err().then_some(warning);
    Ok(ListenAddress { host, port: port.unwrap_or(default_port), warning })
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address. Other text is a host
/// as a whole. What the brackets hold is not checked.
pub(crate) fn split_port(address: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        if rest.is_empty() {
            return (host, None);
        }
        if let Some(port) = rest.strip_prefix(':') {
            return (host, Some(port));
        }
    }
    match address.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (address, None),
    }
}

/// Checks a host and normalizes IP addresses; empty stays empty.
fn validate_host(host: &str) -> Result<String, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let (address, zone) = host.split_once('%').unwrap_or((host, ""));
    let zoned = !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok();
    let name = if zoned { zone } else { host };
    if name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return Ok(host.to_owned());
    }
    Err("expected an address or name with an optional port, such as 127.0.0.1:11434, [::1]:11434 or \
         :11434 for all interfaces"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16) {
        let listen = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((listen.host.as_str(), listen.port), (host, port), "{text}");
        assert_eq!(listen.warning, None, "{text}");
    }

    #[track_caller]
    fn check_replaced(text: &str, host: &str, port: u16) {
        let listen = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((listen.host.as_str(), listen.port), (host, port), "{text}");
        let warning = listen.warning.expect("a replaced port is reported");
        assert!(warning.contains(&port.to_string()), "{text}: {warning}");
    }

    #[test]
    fn every_row_of_the_reference_holds() {
        check("", "127.0.0.1", 11434);
        check("1.2.3.4", "1.2.3.4", 11434);
        check("1.2.3.4:1234", "1.2.3.4", 1234);
        check("example.com", "example.com", 11434);
        check("example.com:1234", "example.com", 1234);
        check(":1234", "", 1234);
        check(":0", "", 0);
        check_replaced(":66000", "", 11434);
        check_replaced(":-1", "", 11434);
        check("[::1]", "::1", 11434);
        check("::1", "::1", 11434);
        check("[::1]:1337", "::1", 1337);
        check("http://1.2.3.4", "1.2.3.4", 80);
        check("https://1.2.3.4", "1.2.3.4", 443);
        check("https://1.2.3.4:4321", "1.2.3.4", 4321);
        check("https://example.com/ollama", "example.com", 443);
        check("ollama.com", "ollama.com", 443);
        check(" 1.2.3.4 ", "1.2.3.4", 11434);
    }

    #[test]
    fn other_spellings_follow_the_same_rules() {
        check("localhost", "localhost", 11434);
        check("0.0.0.0", "0.0.0.0", 11434);
        check("[::]:80", "::", 80);
        check("[0:0:0::1]", "::1", 11434);
        check("[1.2.3.4]:5", "1.2.3.4", 5);
        check("fe80::1%eth0", "fe80::1%eth0", 11434);
        check("http://", "127.0.0.1", 80);
        check("http://:8080/x:y", "", 8080);
        check("tcp://1.2.3.4", "1.2.3.4", 11434);
        check("ollama.com:1234", "ollama.com", 1234);
        check("http://ollama.com", "ollama.com", 80);
        check_replaced("localhost:", "localhost", 11434);
        check_replaced(":", "", 11434);
        check_replaced("http://1.2.3.4:x", "1.2.3.4", 80);
        check_replaced("[::1]:65536", "::1", 11434);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in ["a b", "1.2.3.4:1:2", "me@host", "[::1", "[::1]2", "h%z", "ü", "::1%a b"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("127.0.0.1:11434"), "{text}: {error}");
        }
    }
}
