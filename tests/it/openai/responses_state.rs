//! What `/v1/responses` keeps over an upstream without that route: earlier responses by
//! `previous_response_id`, their items by `item_reference`; and attempts to open a WebSocket there.

use crate::support::*;

const PATH: &str = "/v1/responses";

/// The header lines of a WebSocket's handshake (RFC 6455 section 1.3).
const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn an_attempt_to_open_a_websocket_is_told_that_only_http_is_spoken() {
    let (upstream, proxy) = pair();
    for lines in [HANDSHAKE, &HANDSHAKE.replace("websocket", "h2c, WebSocket/13")] {
        let answer = proxy.client().with("GET", PATH, lines, "").answer();
        assert_eq!(answer.status(), 426, "{}", answer.body);
        assert_eq!(answer.head.header("upgrade"), Some("HTTP/1.1"));
        let mut headers = answer.head.headers.iter();
        let is_option = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("connection") && value == "Upgrade"
        };
        assert!(headers.any(is_option), "{:?}", answer.head);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let other = HANDSHAKE.replace("websocket", "h2c");
    for (method, path, lines) in [
        ("GET", PATH, ""),
        ("GET", PATH, other.as_str()),
        ("PUT", PATH, HANDSHAKE),
        ("GET", "/v1/chat/completions", HANDSHAKE),
    ] {
        let answer = proxy.client().with(method, path, lines, "").answer();
        assert_eq!(answer.status(), 405, "{method} {path} {lines}");
        assert_eq!(answer.head.header("allow"), Some("POST"));
        assert_eq!(answer.head.header("upgrade"), None);
    }
    assert!(upstream.is_idle());
}
