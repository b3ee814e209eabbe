//! The panic of tiny_http that only shows that a client has reset its connection.
//!
//! tiny_http 0.12 asks for a client's address when it accepts the connection, and panics in one of its
//! pool threads if the client has reset it by then and the head of a request arrived. The panic ends the
//! thread, which closes the connection, and the pool starts another one. No other panic of tiny_http is
//! caused by clients alone: those over descriptors and threads that are exhausted end the accept thread,
//! which the supervisor replaces, and stay errors. Invariant: no other panic is recognised.

/// Whether a panic in this file, named from its crate on, with this message is that one.
pub fn is_reset(file: &str, message: &str) -> bool {
    // `getpeername` fails with ENOTCONN; with EINVAL on systems that derive from BSD.
    let kind = if cfg!(target_vendor = "apple") { "InvalidInput" } else { "NotConnected" };
    let error = message.strip_prefix("called `Result::unwrap()` on an `Err` value: Os { code: ");
    file.starts_with("tiny_http-")
        && file.ends_with("/src/client.rs")
        && error.is_some_and(|error| error.contains(&format!(", kind: {kind}, ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_address_of_a_client_is_a_reset() {
        let file = "tiny_http-0.12.0/src/client.rs";
        let message = |kind: &str| {
            format!(
                "called `Result::unwrap()` on an `Err` value: Os {{ code: 107, kind: {kind}, \
                 message: \"Transport endpoint is not connected\" }}"
            )
        };
        let kind = if cfg!(target_vendor = "apple") { "InvalidInput" } else { "NotConnected" };
        assert!(is_reset(file, &message(kind)));
        for (file, message) in [
            ("tiny_http-0.12.0/src/util/refined_tcp_stream.rs", message(kind)),
            ("src/client.rs", message(kind)),
            (file, message("Uncategorized")),
            (file, "called `Option::unwrap()` on a `None` value".to_owned()),
            (file, String::new()),
        ] {
            assert!(!is_reset(file, &message), "{file}: {message}");
        }
    }
}
