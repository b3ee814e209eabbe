//! The proxy that leads to the upstream: which one the environment names, and whether it applies.
//!
//! Pure. As in curl (manual page, ENVIRONMENT): `https_proxy` or `http_proxy` by the scheme of the base
//! URL, then `all_proxy`; lower case before upper case; `no_proxy` makes exceptions. It differs where
//! that surprises: `HTTP_PROXY` counts in upper case, too, because a header of a CGI request cannot set it
//! here; no proxy leads to a server on this machine; and exceptions may have a port, begin with `*.`, and
//! stand beside a `*`.
//! Invariant: a proxy that is named and cannot be used is an error, never a direct connection; neither
//! `Debug` nor `Display` nor an error shows a user name or a password.

use std::fmt;
use std::net::IpAddr;

use crate::net::listen_address::split_port;
use crate::upstream::base_url::{BaseUrl, UNESCAPED_PASSWORD, split_auth, split_authority};
use crate::upstream::basic_auth::BasicAuth;

/// What a value should look like.
const EXPECTED: &str = "expected http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT, with an \
                        optional USER:PASSWORD@ before the host";

const HTTPS_VARIABLES: &[&str] = &["https_proxy", "HTTPS_PROXY"];
const HTTP_VARIABLES: &[&str] = &["http_proxy", "HTTP_PROXY"];
const ALL_VARIABLES: &[&str] = &["all_proxy", "ALL_PROXY"];
const NO_PROXY_VARIABLES: &[&str] = &["no_proxy", "NO_PROXY"];

/// The key of a configuration that names a proxy.
const CONFIGURED: &str = "proxy";

/// How a proxy is asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Absolute URLs for plain HTTP, `CONNECT` for HTTPS (RFC 9110 section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928); the upstream's name is resolved here.
    Socks5,
    /// SOCKS 5; the proxy resolves the upstream's name.
    Socks5h,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// How it is asked.
    pub protocol: Protocol,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it gets to know the user by.
    pub auth: Option<BasicAuth>,
    /// The variable that names it, for messages.
    pub variable: &'static str,
}

/// What the `Server` header of proxies begins with that answer in their own name.
const PROXY_SERVERS: [&str; 4] = ["squid", "tinyproxy", "privoxy", "mitmproxy"];

/// Finds the value of the first of some variables that is set and not empty.
pub type FindVariable<'a> = dyn Fn(&[&'static str]) -> Option<(&'static str, String)> + 'a;

impl Proxy {
    /// The proxy for an upstream, if there is to be one.
    ///
    /// # Errors
    /// If the proxy that applies cannot be used; names the variable.
    pub fn select(base_url: &BaseUrl, find: &FindVariable<'_>) -> Result<Option<Self>, String> {
        let own = if base_url.is_https() { HTTPS_VARIABLES } else { HTTP_VARIABLES };
        let Some((variable, value)) = find(own).or_else(|| find(ALL_VARIABLES)) else {
            return Ok(None);
        };
        let exceptions = find(NO_PROXY_VARIABLES).map(|(_, list)| list).unwrap_or_default();
        if base_url.is_loopback() || is_exempt(base_url, &exceptions) {
            return Ok(None);
        }
        match Self::parse(&value, variable) {
            Ok(proxy) => Ok(Some(proxy)),
            Err(reason) => Err(format!("{variable}: {reason}")),
        }
    }

    /// The proxy that a configuration names, whatever the environment says.
    ///
    /// # Errors
    /// What is expected; repeats no part of `text`.
    pub fn configured(text: &str) -> Result<Self, String> {
        Self::parse(text, CONFIGURED)
    }

    /// A URL of a proxy. Without a scheme it is HTTP; a path is ignored.
    fn parse(text: &str, variable: &'static str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Protocol::Http, 80),
            "socks5" | "socks" => (Protocol::Socks5, 1080),
            "socks5h" => (Protocol::Socks5h, 1080),
            "https" => return Err(format!("TLS to a proxy is not supported: {EXPECTED}")),
            "socks4" | "socks4a" => return Err(format!("SOCKS 4 is not supported: {EXPECTED}")),
            _ => return Err(EXPECTED.to_owned()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if rest[end..].contains('@') {
            return Err(UNESCAPED_PASSWORD.to_owned());
        }
        let (auth, authority) = split_auth(&rest[..end])?;
        let (host, port) = split_authority(authority).map_err(|_| EXPECTED)?;
        let port = port.unwrap_or(default_port);
        Ok(Self { protocol, host, port, auth, variable })
    }

    /// Whether an error comes from the proxy itself, not from a server behind it. Its status does not tell,
    /// except for 407: tinyproxy answers 401 to a wrong password, and 500 where it cannot connect.
    /// `Proxy-Status` is that of RFC 9209.
    pub fn is_own_error<'a>(
        status: u16,
        mut headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> bool {
        status == 407
            || status >= 400
                && headers.any(|(name, value)| match name {
                    "x-squid-error" => true,
                    "proxy-status" => value.contains("error="),
                    "server" => {
                        let value = value.to_ascii_lowercase();
                        PROXY_SERVERS.iter().any(|name| value.starts_with(name))
                    }
                    _ => false,
                })
    }

    /// Why the proxy refused, by its status.
    pub fn describe_refusal(&self, status: u16) -> String {
        let name = format!("the proxy ({})", self.variable);
        match status {
            401 | 407 if self.auth.is_some() => {
                format!("{name} refused its user name or password ({status})")
            }
            401 | 407 => {
                format!("{name} wants a user name and a password: http://USER:PASSWORD@HOST:PORT")
            }
            403 => format!("{name} does not allow this connection (403)"),
            500..=504 => format!("{name} cannot reach the upstream ({status})"),
            _ => format!("{name} refused the connection ({status})"),
        }
    }

    /// Whether requests to this upstream are sent to the proxy with the whole URL. Otherwise a tunnel
    /// leads through the proxy.
    pub fn takes_absolute_urls(&self, base_url: &BaseUrl) -> bool {
        self.protocol == Protocol::Http && !base_url.is_https()
    }
}

/// Host and port.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({:?} {self})", self.protocol)
    }
}

/// Whether a list of exceptions, separated by commas or blanks, holds the upstream.
fn is_exempt(base_url: &BaseUrl, list: &str) -> bool {
    let host = base_url.host().trim_end_matches('.');
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).any(|entry| matches(entry, host, base_url.port()))
}

/// Whether an exception holds a host: `*`, a network, an address or a domain, with or without a port.
fn matches(entry: &str, host: &str, port: u16) -> bool {
    if let Some((network, bits)) = entry.split_once('/') {
        return is_in_network(host, network, bits).unwrap_or(false);
    }
    let (name, own_port) = split_port(entry);
    if own_port.is_some_and(|own| own.parse() != Ok(port)) {
        return false;
    }
    match (parse_address(host), parse_address(name)) {
        _ if name == "*" => true,
        (Some(host), Some(address)) => host == address,
        // Parts of an address are no domain.
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => is_in_domain(host, name),
    }
}

/// Whether a host is a domain, or below it. `host` is in lower case.
fn is_in_domain(host: &str, domain: &str) -> bool {
    let domain = domain.strip_prefix('*').unwrap_or(domain);
    let domain = domain.trim_matches('.').to_ascii_lowercase();
    match host.strip_suffix(&domain) {
        _ if domain.is_empty() => false,
        Some(before) => before.is_empty() || before.ends_with('.'),
        None => false,
    }
}

/// Whether an address is in a network; `None` if one of them is malformed.
fn is_in_network(host: &str, network: &str, bits: &str) -> Option<bool> {
    let (host, network, bits) = (parse_address(host)?, parse_address(network)?, bits.parse().ok()?);
    let (host, network, length) = match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            (u128::from(host.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => (host.to_bits(), network.to_bits(), 128),
        _ => return Some(false),
    };
    let rest: u32 = u32::checked_sub(length, bits)?;
    // A shift by all 128 bits leaves nothing to compare.
    Some((host ^ network).checked_shr(rest).unwrap_or(0) == 0)
}

/// An address, with or without brackets; IPv4 in IPv6 as IPv4.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn select(base: &str, env: Pairs<'_>) -> Result<Option<Proxy>, String> {
        let base = BaseUrl::parse(base).expect("a base URL");
        let value = |name: &str| env.iter().find(|(known, _)| *known == name);
        Proxy::select(&base, &|names| {
            names.iter().find_map(|name| value(name).map(|(_, text)| (*name, (*text).to_owned())))
        })
    }

    #[track_caller]
    fn check(base: &str, env: Pairs<'_>, expected: Option<&str>) {
        let proxy = select(base, env).unwrap_or_else(|error| panic!("{base} {env:?}: {error}"));
        let shown = proxy.map(|proxy| format!("{proxy} {}", proxy.variable));
        assert_eq!(shown.as_deref(), expected, "{base} {env:?}");
    }

    /// Whether a list of exceptions holds a base URL.
    #[track_caller]
    fn check_exempt(list: &str, base: &str, expected: bool) {
        let env = [("ALL_PROXY", "http://p:1"), ("NO_PROXY", list)];
        let direct = select(base, &env).expect("a proxy's URL").is_none();
        assert_eq!(direct, expected, "{list:?} {base}");
    }

    const HTTP: &str = "http://h/v1";
    const HTTPS: &str = "https://h/v1";

    #[test]
    fn the_scheme_of_the_base_url_decides_and_all_proxy_comes_last() {
        check(HTTP, &[], None);
        check(HTTP, &[("HTTPS_PROXY", "http://p:1")], None);
        check(HTTP, &[("https_proxy", "http://p:1")], None);
        check(HTTPS, &[("HTTP_PROXY", "http://p:1")], None);
        check(HTTPS, &[("http_proxy", "http://p:1")], None);
        check(HTTP, &[("HTTP_PROXY", "http://p:1")], Some("p:1 HTTP_PROXY"));
        check(HTTPS, &[("HTTPS_PROXY", "http://p:1")], Some("p:1 HTTPS_PROXY"));
        for base in [HTTP, HTTPS] {
            check(base, &[("ALL_PROXY", "http://p:1")], Some("p:1 ALL_PROXY"));
            check(base, &[("all_proxy", "http://p:1")], Some("p:1 all_proxy"));
            let both = [("ALL_PROXY", "http://a:1"), ("HTTPS_PROXY", "s:1"), ("HTTP_PROXY", "h:1")];
            let own = if base == HTTP { "h:1 HTTP_PROXY" } else { "s:1 HTTPS_PROXY" };
            check(base, &both, Some(own));
        }
    }

    #[test]
    fn lower_case_comes_before_upper_case() {
        check(HTTP, &[("HTTP_PROXY", "u:1"), ("http_proxy", "l:1")], Some("l:1 http_proxy"));
        check(HTTPS, &[("HTTPS_PROXY", "u:1"), ("https_proxy", "l:1")], Some("l:1 https_proxy"));
        check(HTTPS, &[("ALL_PROXY", "u:1"), ("all_proxy", "l:1")], Some("l:1 all_proxy"));
        let proxy = ("http_proxy", "p:1");
        check(HTTP, &[proxy, ("NO_PROXY", "h"), ("no_proxy", "i")], Some("p:1 http_proxy"));
        check(HTTP, &[proxy, ("NO_PROXY", "i"), ("no_proxy", "h")], None);
    }

    #[test]
    fn the_url_of_a_proxy_is_read() {
        let check = |text: &str, protocol: Protocol, shown: &str, auth: Option<(&str, &str)>| {
            let proxy =
                Proxy::parse(text, "ALL_PROXY").unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((proxy.protocol, proxy.to_string().as_str()), (protocol, shown), "{text}");
            let read = proxy.auth.as_ref().map(|it| (it.user().expose(), it.password().expose()));
            assert_eq!(read, auth, "{text}");
        };
        use Protocol::{Http, Socks5, Socks5h};
        check("http://p:3128", Http, "p:3128", None);
        check("http://p:3128/", Http, "p:3128", None);
        check("HTTP://P.Example", Http, "p.example:80", None);
        check("p:3128", Http, "p:3128", None);
        check("p", Http, "p:80", None);
        check("http://[::1]:3128", Http, "[::1]:3128", None);
        check("http://me:pass@p:1", Http, "p:1", Some(("me", "pass")));
        check("me:pass@p:1", Http, "p:1", Some(("me", "pass")));
        check("http://d%5Cme:p%40%3A%2F@p:1", Http, "p:1", Some(("d\\me", "p@:/")));
        check("http://me:a@b@p:1", Http, "p:1", Some(("me", "a@b")));
        check("socks5://p", Socks5, "p:1080", None);
        check("socks://p:9", Socks5, "p:9", None);
        check("socks5h://me:pass@p:9/", Socks5h, "p:9", Some(("me", "pass")));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_that_shows_no_secret() {
        for (value, word) in [
            ("https://me:s3cret@p:1", "TLS to a proxy"),
            ("socks4://me:s3cret@p:1", "SOCKS 4"),
            ("socks4a://p:1", "SOCKS 4"),
            ("ftp://me:s3cret@p:1", "expected http://"),
            ("://p:1", "expected http://"),
            ("http://", "expected http://"),
            ("http://:3128", "expected http://"),
            ("http://me:s3cret@", "expected http://"),
            ("http://p:0", "expected http://"),
            ("http://p:s3cret", "expected http://"),
            ("http://p:70000", "expected http://"),
            ("http://::1:80", "expected http://"),
            ("http://p q:1", "expected http://"),
            ("http://me:s3/cret@p:1", "percent-encoded"),
            ("http://me:s3#cret@p:1", "percent-encoded"),
            ("http://me:s3cret%ff@p:1", "UTF-8"),
        ] {
            for (base, variable) in [(HTTP, "HTTP_PROXY"), (HTTPS, "https_proxy")] {
                let error = select(base, &[(variable, value)]).expect_err(value);
                assert!(error.starts_with(&format!("{variable}: ")), "{value}: {error}");
                assert!(error.contains(word), "{value}: {error}");
                assert!(!error.contains("s3") && !error.contains("cret"), "{value}: {error}");
                // It is no error where it does not apply.
                check(base, &[(variable, value), ("NO_PROXY", "h")], None);
            }
            check(HTTP, &[("HTTPS_PROXY", value)], None);
        }
        let shown = select(HTTP, &[("HTTP_PROXY", "us3r:s3cret@p:1")]).expect("a proxy");
        assert_eq!(format!("{shown:?}"), "Some(Proxy(Http p:1))");
    }

    #[test]
    fn an_error_of_the_proxy_is_told_from_one_of_a_server_behind_it() {
        let is_own =
            |status, headers: Pairs<'_>| Proxy::is_own_error(status, headers.iter().copied());
        assert!(is_own(407, &[]));
        assert!(is_own(503, &[("server", "squid/5.7"), ("x-squid-error", "ERR_CONNECT_FAIL 111")]));
        assert!(is_own(401, &[("server", "tinyproxy/1.11.1")]));
        assert!(is_own(502, &[("proxy-status", "p; error=connection_refused")]));
        for (status, headers) in [
            (401, &[("server", "nginx"), ("via", "1.1 p (squid/5.7)")][..]),
            (502, &[("server", "my-squid")]),
            (502, &[("proxy-status", "p; received-status=502")]),
            (500, &[]),
            (200, &[("server", "tinyproxy/1.11.1")]),
        ] {
            assert!(!is_own(status, headers), "{status} {headers:?}");
        }
    }

    #[test]
    fn no_proxy_leads_to_this_machine() {
        for base in
            ["http://localhost:1", "http://127.0.0.1", "https://[::1]", "http://a.localhost"]
        {
            check(base, &[("ALL_PROXY", "http://p:1")], None);
        }
    }

    #[test]
    fn exceptions_are_domains_at_a_label_boundary() {
        for list in ["example.com", ".example.com", "*.example.com", "EXAMPLE.com", "example.com."]
        {
            check_exempt(list, "http://example.com", true);
            check_exempt(list, "http://a.example.com", true);
            check_exempt(list, "http://a.b.Example.COM", true);
            check_exempt(list, "http://a.example.com.", true);
            check_exempt(list, "http://notexample.com", false);
            check_exempt(list, "http://example.com.evil.org", false);
            check_exempt(list, "http://com", false);
        }
        check_exempt("com", "http://example.com", true);
        check_exempt("a.example.com", "http://example.com", false);
        for list in ["", ",", " , ", ".", "*.", "/", "/8", ":80", "[]"] {
            check_exempt(list, "http://example.com", false);
            check_exempt(list, "http://10.0.0.1", false);
        }
    }

    #[test]
    fn exceptions_are_separated_by_commas_and_blanks() {
        for list in
            ["a.test,h.test", "a.test, h.test", " h.test ,a.test", "a.test h.test", "a,,h.test,"]
        {
            check_exempt(list, "http://h.test", true);
            check_exempt(list, "http://i.test", false);
        }
        for list in ["*", " * ", "a, *"] {
            check_exempt(list, "http://h.test", true);
            check_exempt(list, "https://10.0.0.1", true);
            check_exempt(list, "https://[2001:db8::1]", true);
        }
    }

    #[test]
    fn an_exception_with_a_port_is_for_that_port() {
        check_exempt("h.test:8080", "http://h.test:8080", true);
        check_exempt("h.test:8080", "http://a.h.test:8080", true);
        check_exempt("h.test:8080", "http://h.test:8081", false);
        check_exempt("h.test:80", "http://h.test", true);
        check_exempt("h.test:443", "https://h.test", true);
        check_exempt("h.test:80", "https://h.test", false);
        check_exempt("h.test:", "http://h.test", false);
        check_exempt("10.0.0.1:80", "http://10.0.0.1", true);
        check_exempt("10.0.0.1:80", "http://10.0.0.1:81", false);
        check_exempt("[2001:db8::1]:80", "http://[2001:db8::1]", true);
        check_exempt("[2001:db8::1]:81", "http://[2001:db8::1]", false);
        check_exempt("*:80", "http://h.test", true);
        check_exempt("*:80", "https://h.test", false);
    }

    #[test]
    fn exceptions_are_addresses_and_networks() {
        for (list, inside, outside) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.10"),
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("10.9.9.9/8", "10.1.1.1", "9.255.255.255"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
            ("2001:db8::1", "[2001:DB8:0::1]", "[2001:db8::2]"),
            ("[2001:db8::1]", "[2001:db8::1]", "[2001:db8::2]"),
            ("2001:db8::/32", "[2001:db8:ffff::1]", "[2001:db9::1]"),
            ("[2001:db8::]/33", "[2001:db8:7fff::1]", "[2001:db8:8000::1]"),
            ("2001:db8::1/128", "[2001:db8::1]", "[2001:db8::3]"),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]", "[::ffff:11.1.2.3]"),
            ("fe80::/10, 172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
        ] {
            check_exempt(list, &format!("http://{inside}"), true);
            check_exempt(list, &format!("http://{outside}"), false);
        }
        check_exempt("0.0.0.0/0", "http://10.0.0.1", true);
        check_exempt("::/0", "http://[2001:db8::1]", true);
        check_exempt("::/0", "http://10.0.0.1", false);
        check_exempt("0.0.0.0/0", "http://[2001:db8::1]", false);
        // Networks hold addresses, not names, and a part of an address is no domain.
        check_exempt("0.0.0.0/0", "http://h.test", false);
        check_exempt("0.1", "http://10.0.0.1", false);
        for list in ["10.0.0.0/33", "10.0.0.0/x", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8"] {
            check_exempt(list, "http://10.0.0.1", false);
        }
    }
}
