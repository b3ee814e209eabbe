//! Error bodies in the format of each protocol: Ollama, OpenAI, Anthropic.
//!
//! | path | body | inside a stream |
//! | --- | --- | --- |
//! | `/v1/messages` | `{"type":"error","error":{"type","message"},"request_id"}`, with `details` where clients know a code | `event: error` |
//! | other `/v1...` | `{"error":{"message","type","param","code"}}` | one `data:` event |
//! | all others | `{"error":"text"}` | one line |
//!
//! The path alone decides, so that an error has its format even if no route was found yet. Types and
//! codes are those of Ollama's compatibility layer (openai/openai.go, anthropic/anthropic.go); in OpenAI's
//! format those that an upstream sent come before them.
//! Never writes to a socket; head and framing belong to the exchange. Invariant: the text of an
//! error is the same in all formats, except Go's `EOF` for a missing body.
//!
//! Errors of the upstream that pass through on `/v1` keep their own body, with keys masked.

use crate::api::wire::ndjson;
use crate::error::{Error, KeyLimit};

/// The challenge of a 401 at which no browser asks for a password.
pub const BEARER_CHALLENGE: &[(&str, &str)] = AUTH_CHALLENGES.split_at(1).0;

/// The challenges of a 401 (RFC 9110 section 11.6.1), one header line each, because some clients do
/// not parse a list.
pub const AUTH_CHALLENGES: &[(&str, &str)] = &[
    ("WWW-Authenticate", "Bearer realm=\"ollama-openai-proxy\""),
    ("WWW-Authenticate", "Basic realm=\"ollama-openai-proxy\", charset=\"UTF-8\""),
];

/// OpenAI's code of a prompt that exceeds the context.
const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";

/// Anthropic's status for an overload.
const ANTHROPIC_OVERLOADED: u16 = 529;

/// The error format of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFormat {
    /// All other paths.
    Ollama,
    /// `/v1`.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
}

impl ErrorFormat {
    /// The format of errors on a normalized path.
    pub fn for_path(path: &str) -> Self {
        let below = |root: &str| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if below("/v1/messages") {
            Self::Anthropic
        } else if below("/v1") {
            Self::OpenAi
        } else {
            Self::Ollama
        }
    }

    /// The status of an error response; `None` if the client is gone. Anthropic's API has a status of its
    /// own for an overload, at which its clients wait longer.
    #[must_use]
    pub fn status(self, error: &Error) -> Option<u16> {
        match (self, error.status()?) {
            (Self::Anthropic, 503) if error.is_upstream() => Some(ANTHROPIC_OVERLOADED),
            (_, status) => Some(status),
        }
    }

    /// The body of an error response. `request_id` is `req_` and 8 hex digits.
    #[must_use]
    pub fn body(self, error: &Error, status: u16, request_id: &str) -> Vec<u8> {
        // Anthropic's identifiers have 24 characters.
        let digits = request_id.trim_start_matches("req_");
        let id = format!(r#","request_id":"req_{digits:0>24}""#);
        let mut body = self.json(error, status, &id);
        if self.has_bare_json(error) {
            body.push('\n');
        }
        body.into_bytes()
    }

    /// An error inside a stream, as its last line or event.
    #[must_use]
    pub fn event(self, error: &Error, status: u16) -> Vec<u8> {
        let json = self.json(error, status, "");
        let event = match self {
            Self::Ollama => format!("{json}\n"),
            Self::OpenAi => format!("data: {json}\n\n"),
            Self::Anthropic => format!("event: error\ndata: {json}\n\n"),
        };
        event.into_bytes()
    }

    /// True if the content type of this error has no charset, as in Ollama's compatibility layer.
    #[must_use]
    pub fn has_bare_json(self, error: &Error) -> bool {
        let is_early =
            matches!(error, Error::MissingBody | Error::InvalidRequest(_) | Error::Coded(..));
        self != Self::Ollama && !is_early
    }

    /// The error as a JSON object; `anthropic_id` is the end of Anthropic's.
    fn json(self, error: &Error, status: u16, anthropic_id: &str) -> String {
        let message = match (self, error) {
            // The text of Go's JSON decoder.
            (Self::OpenAi | Self::Anthropic, Error::MissingBody) => "EOF".to_owned(),
            _ => error.message(),
        };
        let message = ndjson::to_vec(&message);
        let message = String::from_utf8_lossy(&message);
        match self {
            Self::Ollama => format!(r#"{{"error":{message}}}"#),
            Self::OpenAi => {
                let (kind, param, code) = openai_members(error, status);
                format!(
                    r#"{{"error":{{"message":{message},"type":{kind},"param":{param},"code":{code}}}}}"#
                )
            }
            Self::Anthropic => {
                let kind = anthropic_type(status);
                // By this code, clients send a conversation again as a whole.
                let code = if let Error::Coded(own, _) = error { Some(own.code) } else { None };
                let details = code
                    .map(|code| format!(r#","details":{{"error_code":"{code}"}}"#))
                    .unwrap_or_default();
                format!(
                    r#"{{"type":"error","error":{{"type":"{kind}","message":{message}{details}}}{anthropic_id}}}"#
                )
            }
        }
    }
}

/// `type`, `param` and `code` as JSON: the upstream's own where it has some. Clients know a context
/// overflow by its code (OpenAI API reference, errors).
fn openai_members(error: &Error, status: u16) -> (String, String, String) {
    let own = if let Error::Coded(own, _) = error { Some(*own) } else { None };
    let (kind, code) = match (error, status) {
        (Error::Coded(own, _), 400..500) => ("invalid_request_error", Some(own.code)),
        (Error::Coded(own, _), _) => ("api_error", Some(own.code)),
        // As OpenAI does for a wrong key.
        (Error::Unauthorized | Error::TooManyWrongKeys(_), _) => {
            ("invalid_request_error", Some("invalid_api_key"))
        }
        // As OpenAI tells of its own limits.
        (Error::KeyLimitReached(reached), _) => {
            let kind = if reached.limit == KeyLimit::TokensPerDay { "tokens" } else { "requests" };
            (kind, Some("rate_limit_exceeded"))
        }
        (Error::ModelNotAllowed(_), _) => ("invalid_request_error", Some("model_not_allowed")),
        (_, 400 | 426) => ("invalid_request_error", None),
        (_, 404) => ("not_found_error", None),
        _ => ("api_error", None),
    };
    let details = error.details();
    let overflow = error.context_overflow().map(|_| CONTEXT_LENGTH_EXCEEDED);
    // Codex takes these two for final, although the server may soon have room again.
    let is_final = |it: &&str| status == 503 && matches!(*it, "server_is_overloaded" | "slow_down");
    let told = details.and_then(|it| it.code.as_deref()).filter(|it| !is_final(it));
    let code = overflow.or(told).or(code);
    let kind = details.and_then(|it| it.kind.as_deref()).unwrap_or(kind);
    let json = |text: Option<&str>| String::from_utf8_lossy(&ndjson::to_vec(&text)).into_owned();
    let param = details.and_then(|it| it.param.as_deref()).or(own.and_then(|it| it.param));
    (json(Some(kind)), json(param), json(code))
}

/// Types by status (Anthropic API reference, errors).
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        504 => "timeout_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ContextOverflow, ErrorCode, UpstreamDetails};
    use crate::http::routes;

    fn body(format: ErrorFormat, error: &Error, status: u16) -> String {
        String::from_utf8(format.body(error, status, "req_0123abcd")).expect("UTF-8")
    }

    /// The body of an error whose text Go's encoder escapes.
    fn escaped(format: ErrorFormat, status: u16) -> String {
        body(format, &Error::upstream_in_band(status, "a <b>"), status)
    }

    #[test]
    fn the_path_decides_whose_error_it_is() {
        for (target, format) in [
            ("/api/chat", ErrorFormat::Ollama),
            ("/", ErrorFormat::Ollama),
            ("/nothing", ErrorFormat::Ollama),
            ("/v10/models", ErrorFormat::Ollama),
            ("/v1", ErrorFormat::OpenAi),
            ("/v1/chat/completions?x=/v1/messages", ErrorFormat::OpenAi),
            ("//v1//models", ErrorFormat::OpenAi),
            ("/v1/messages_of_mine", ErrorFormat::OpenAi),
            ("/v1/messages", ErrorFormat::Anthropic),
            ("http://localhost/v1/messages?beta=true", ErrorFormat::Anthropic),
            ("/v1/messages/count_tokens", ErrorFormat::Anthropic),
        ] {
            let route = routes::resolve::<()>(&[], "GET", target);
            assert_eq!(route.error_format, format, "{target}");
        }
    }

    #[test]
    fn openai_s_errors_have_a_type_by_status_and_neither_param_nor_code() {
        for status in [400, 401, 403, 404, 413, 422, 429, 500, 502, 503] {
            let kind = match status {
                400 => "invalid_request_error",
                404 => "not_found_error",
                _ => "api_error",
            };
            let expected = format!(
                "{{\"error\":{{\"message\":\"a \\u003cb\\u003e\",\"type\":\"{kind}\",\
                 \"param\":null,\"code\":null}}}}\n"
            );
            assert_eq!(escaped(ErrorFormat::OpenAi, status), expected);
        }
    }

    #[test]
    fn openai_s_errors_keep_the_upstream_s_type_param_and_code() {
        let check = |status, details: UpstreamDetails, expected: &str| {
            let (message, details) = ("no".to_owned(), Some(Box::new(details)));
            let retry = crate::error::Retry::Never;
            let error = Error::UpstreamStatus { status, message, retry, details };
            let expected = format!("{{\"error\":{{\"message\":\"no\",{expected}}}}}\n");
            assert_eq!(body(ErrorFormat::OpenAi, &error, status), expected);
        };
        let text = |text: &str| Some(text.to_owned());
        let quota = text("insufficient_quota");
        let details = UpstreamDetails { code: quota.clone(), kind: quota, ..Default::default() };
        let expected = r#""type":"insufficient_quota","param":null,"code":"insufficient_quota""#;
        check(429, details, expected);
        let param = UpstreamDetails { param: text("messages"), ..UpstreamDetails::default() };
        check(400, param, r#""type":"invalid_request_error","param":"messages","code":null"#);
        let full = || UpstreamDetails { code: text("slow_down"), ..UpstreamDetails::default() };
        check(503, full(), r#""type":"api_error","param":null,"code":null"#);
        check(429, full(), r#""type":"api_error","param":null,"code":"slow_down""#);
        let overflow = UpstreamDetails {
            kind: text("exceed_context_size_error"),
            overflow: Some(ContextOverflow::default()),
            ..UpstreamDetails::default()
        };
        let code = r#""param":null,"code":"context_length_exceeded""#;
        check(400, overflow, &format!(r#""type":"exceed_context_size_error",{code}"#));
    }

    #[test]
    fn anthropic_s_errors_have_a_type_by_status_and_an_id() {
        for (statuses, kind) in [
            (&[400, 408, 422][..], "invalid_request_error"),
            (&[401], "authentication_error"),
            (&[403], "permission_error"),
            (&[404], "not_found_error"),
            (&[429], "rate_limit_error"),
            (&[503, 529], "overloaded_error"),
            (&[402], "billing_error"),
            (&[413], "request_too_large"),
            (&[504], "timeout_error"),
            (&[500, 502], "api_error"),
        ] {
            for status in statuses {
                let expected = format!(
                    "{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\
                     \"message\":\"a \\u003cb\\u003e\"}},\
                     \"request_id\":\"req_00000000000000000123abcd\"}}\n"
                );
                assert_eq!(escaped(ErrorFormat::Anthropic, *status), expected);
            }
        }
    }

    #[test]
    fn a_missing_key_has_each_protocol_s_type() {
        let message = "unauthorized: send one of this proxy's keys as \\\"Authorization: Bearer \
                       KEY\\\" or \\\"x-api-key: KEY\\\"";
        let body = |format| body(format, &Error::Unauthorized, 401);
        assert_eq!(body(ErrorFormat::Ollama), format!("{{\"error\":\"{message}\"}}"));
        let expected = format!(
            "{{\"error\":{{\"message\":\"{message}\",\"type\":\"invalid_request_error\",\
             \"param\":null,\"code\":\"invalid_api_key\"}}}}\n"
        );
        assert_eq!(body(ErrorFormat::OpenAi), expected);
        let error = format!("{{\"type\":\"authentication_error\",\"message\":\"{message}\"}}");
        assert!(body(ErrorFormat::Anthropic).contains(&error));
    }

    #[test]
    fn errors_that_clients_know_by_their_code_have_it() {
        let body =
            |code| body(ErrorFormat::OpenAi, &Error::Coded(code, "text".into()), code.status);
        let error = |kind: &str, rest: &str| {
            format!(r#"{{"error":{{"message":"text","type":"{kind}",{rest}}}}}"#)
        };
        let missing = r#""param":"previous_response_id","code":"previous_response_not_found""#;
        let expected = error("invalid_request_error", missing);
        assert_eq!(body(ErrorCode::PREVIOUS_RESPONSE_NOT_FOUND), expected);
        let expected =
            error("invalid_request_error", r#""param":null,"code":"invalid_request_error""#);
        assert_eq!(body(ErrorCode::INVALID_COMPACTION), expected);
        let expected = error("api_error", r#""param":null,"code":"compaction_failed""#);
        assert_eq!(body(ErrorCode::COMPACTION_FAILED), expected);
    }

    #[test]
    fn an_empty_body_has_each_protocol_s_text() {
        let body = |format| body(format, &Error::MissingBody, 400);
        assert_eq!(body(ErrorFormat::Ollama), r#"{"error":"missing request body"}"#);
        let expected = r#"{"error":{"message":"EOF","type":"invalid_request_error","param":null,"code":null}}"#;
        assert_eq!(body(ErrorFormat::OpenAi), expected);
        let start = r#"{"type":"error","error":{"type":"invalid_request_error","message":"EOF"},"#;
        assert!(body(ErrorFormat::Anthropic).starts_with(start));
        for (format, error, expected) in [
            (ErrorFormat::OpenAi, Error::MissingBody, false),
            (ErrorFormat::OpenAi, Error::Busy, true),
            (ErrorFormat::Ollama, Error::Busy, false),
        ] {
            assert_eq!(format.has_bare_json(&error), expected, "{format:?} {error}");
        }
    }

    #[test]
    fn an_error_in_a_stream_is_its_last_line_or_event() {
        let message = "the upstream closed the connection before its response was complete";
        let openai = r#""type":"api_error","param":null,"code":null"#;
        for (format, expected) in [
            (ErrorFormat::Ollama, format!("{{\"error\":\"{message}\"}}\n")),
            (
                ErrorFormat::OpenAi,
                format!("data: {{\"error\":{{\"message\":\"{message}\",{openai}}}}}\n\n"),
            ),
            (
                ErrorFormat::Anthropic,
                format!(
                    "event: error\ndata: {{\"type\":\"error\",\"error\":\
                     {{\"type\":\"api_error\",\"message\":\"{message}\"}}}}\n\n"
                ),
            ),
        ] {
            let event = format.event(&Error::IncompleteStream, 502);
            assert_eq!(String::from_utf8(event).expect("UTF-8"), expected);
        }
    }
}
