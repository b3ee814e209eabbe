//! SOCKS 5: asks a proxy for a tunnel (RFC 1928), with a user name and a password if it wants them
//! (RFC 1929).
//!
//! Invariant: a name or password that is too long is an error, and is never cut off.

use std::net::IpAddr;

use ureq::Error;

use super::connect_failure::connect_failure;
use super::handshake::Handshake;
use crate::upstream::basic_auth::BasicAuth;
use crate::upstream::proxy::Proxy;

const VERSION: u8 = 5;
/// The version of the exchange of user name and password.
const AUTH_VERSION: u8 = 1;

const NO_AUTH: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;

const CONNECT: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What the codes of an answer mean, from 1 on.
const REFUSALS: [&str; 8] = [
    "cannot connect to the upstream",
    "does not allow this connection",
    "cannot reach the upstream's network",
    "cannot reach the upstream",
    "cannot reach the upstream: connection refused",
    "cannot reach the upstream in time",
    "does not support connections",
    "does not support the upstream's kind of address",
];

/// Asks for a connection to a host, by its address if that is known.
pub(super) fn connect(
    tunnel: &mut Handshake,
    proxy: &Proxy,
    (name, address): (&str, Option<IpAddr>),
    port: u16,
) -> Result<(), Error> {
    let failure = |what: &str| connect_failure(format!("the proxy ({}) {what}", proxy.variable));
    let methods: &[u8] = match &proxy.auth {
        Some(_) => &[VERSION, 2, NO_AUTH, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTH],
    };
    tunnel.send(methods)?;
    match (receive(tunnel, 2)?.as_slice(), &proxy.auth) {
        ([VERSION, NO_AUTH], _) => {}
        ([VERSION, USER_AND_PASSWORD], Some(auth)) => {
            let credentials = encode_credentials(auth);
            tunnel.send(&credentials.ok_or_else(|| failure("takes at most 255 bytes of each"))?)?;
            if receive(tunnel, 2)?[1] != 0 {
                return Err(failure("refused its user name or password"));
            }
        }
        ([VERSION, _], None) => return Err(failure("wants a user name and a password")),
        ([VERSION, _], Some(_)) => return Err(failure("takes no user name and password")),
        _ => return Err(failure("does not answer like a SOCKS 5 proxy")),
    }
    let request = encode_request(name, address, port);
    tunnel.send(&request.ok_or_else(|| failure("takes at most 255 bytes of a host name"))?)?;
    let answer = tunnel.receive(find_answer_end)?;
    match (answer[0], usize::from(answer[1])) {
        (VERSION, 0) => Ok(()),
        (VERSION, code) => {
            Err(failure(REFUSALS.get(code - 1).copied().unwrap_or("refused the connection")))
        }
        _ => Err(failure("does not answer like a SOCKS 5 proxy")),
    }
}

fn receive(tunnel: &mut Handshake, length: usize) -> Result<Vec<u8>, Error> {
    tunnel.receive(|input| (input.len() >= length).then_some(length))
}

/// Where an answer ends, once enough of it has arrived to know. The address in it has no use here.
fn find_answer_end(input: &[u8]) -> Option<usize> {
    let end = match (*input.get(1)?, *input.get(3)?) {
        (0, IPV4) => 4 + 4 + 2,
        (0, IPV6) => 4 + 16 + 2,
        (0, NAME) => 4 + 1 + usize::from(*input.get(4)?) + 2,
        // A refusal, or no answer of SOCKS 5.
        _ => 4,
    };
    (input.len() >= end).then_some(end)
}

/// User name and password; `None` if one of them is too long.
fn encode_credentials(auth: &BasicAuth) -> Option<Vec<u8>> {
    let mut bytes = vec![AUTH_VERSION];
    for part in [auth.user(), auth.password()] {
        bytes.push(u8::try_from(part.expose().len()).ok()?);
        bytes.extend_from_slice(part.expose().as_bytes());
    }
    Some(bytes)
}

/// The request for a connection; `None` if the name is too long.
fn encode_request(name: &str, address: Option<IpAddr>, port: u16) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION, CONNECT, 0];
    match address {
        Some(IpAddr::V4(address)) => {
            bytes.push(IPV4);
            bytes.extend(address.octets());
        }
        Some(IpAddr::V6(address)) => {
            bytes.push(IPV6);
            bytes.extend(address.octets());
        }
        None => {
            bytes.extend([NAME, u8::try_from(name.len()).ok()?]);
            bytes.extend_from_slice(name.as_bytes());
        }
    }
    bytes.extend(port.to_be_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_those_of_rfc_1928() {
        let request = encode_request("h.test", None, 443).expect("short");
        assert_eq!(request, b"\x05\x01\x00\x03\x06h.test\x01\xbb");
        let address = "10.0.0.1".parse().ok();
        assert_eq!(
            encode_request("h", address, 80),
            Some(b"\x05\x01\x00\x01\x0a\0\0\x01\0\x50".to_vec())
        );
        let address = "::1".parse().ok();
        let v6 = encode_request("h", address, 80).expect("an address");
        assert_eq!((v6[3], v6.len()), (IPV6, 22));
        assert_eq!(encode_request(&"h".repeat(256), None, 80), None);
        let auth = BasicAuth::parse("me:s3cret").expect("both parts");
        assert_eq!(encode_credentials(&auth), Some(b"\x01\x02me\x06s3cret".to_vec()));
        let long = BasicAuth::parse(&format!("me:{}", "x".repeat(256))).expect("both parts");
        assert_eq!(encode_credentials(&long), None);
        for (answer, end) in [
            (&b"\x05\0\0\x01\0\0\0\0\0\0rest"[..], Some(10)),
            (b"\x05\0\0\x01\0\0\0\0\0", None),
            (b"\x05\0\0\x03\x02ab\0\0", Some(9)),
            (b"\x05\0\0\x03", None),
            (b"\x05\0\0\x04", None),
            (b"\x05\x05\0\x01", Some(4)),
            (b"\x05", None),
        ] {
            assert_eq!(find_answer_end(answer), end, "{answer:?}");
        }
    }
}
