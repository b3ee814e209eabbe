//! Error bodies in the format of each protocol: Ollama, OpenAI, Anthropic.
//!
//! The path alone decides the format, so an unknown path below `/v1` has one, too. Types and codes
//! are those of Ollama's compatibility layer (openai/openai.go, anthropic/anthropic.go). Never
//! writes to a socket; head and framing belong to the exchange.

use serde::Serialize;

use crate::api::ollama::response::ErrorResponse;
use crate::api::wire::ndjson;
use crate::error::Error;

/// The challenges of a 401 (RFC 9110 section 11.6.1), one header line each, because some clients do
/// not parse a list.
pub const AUTH_CHALLENGES: &[(&str, &str)] = &[
    ("WWW-Authenticate", "Bearer realm=\"ollama-openai-proxy\""),
    ("WWW-Authenticate", "Basic realm=\"ollama-openai-proxy\", charset=\"UTF-8\""),
];

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

#[derive(Serialize)]
struct OpenAiErrorResponse<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct AnthropicErrorResponse<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

impl ErrorFormat {
    /// The format of errors on a normalized path.
    #[must_use]
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

    /// The body of an error response. `request_id` is `req_` and 8 hex digits.
    #[must_use]
    pub fn body(self, error: &Error, status: u16, request_id: &str) -> Vec<u8> {
        let message = self.message(error);
        let mut body = match self {
            Self::Ollama => return ndjson::to_vec(&ErrorResponse { error: &message }),
            Self::OpenAi => ndjson::to_vec(&openai_error(error, status, &message)),
            Self::Anthropic => {
                let digits = request_id.trim_start_matches("req_");
                let request_id = Some(format!("req_{digits:0>24}"));
                ndjson::to_vec(&anthropic_error(status, &message, request_id))
            }
        };
        if !is_request_error(error) {
            body.push(b'\n');
        }
        body
    }

    /// An error inside a stream, as its last line or event.
    #[must_use]
    pub fn event(self, error: &Error, status: u16) -> Vec<u8> {
        let message = self.message(error);
        let (mut out, end): (_, &[u8]) = match self {
            Self::Ollama => (Vec::new(), b"\n"),
            Self::OpenAi => (b"data: ".to_vec(), b"\n\n"),
            Self::Anthropic => (b"event: error\ndata: ".to_vec(), b"\n\n"),
        };
        match self {
            Self::Ollama => ndjson::append(&mut out, &ErrorResponse { error: &message }),
            Self::OpenAi => ndjson::append(&mut out, &openai_error(error, status, &message)),
            Self::Anthropic => ndjson::append(&mut out, &anthropic_error(status, &message, None)),
        }
        out.extend_from_slice(end);
        out
    }

    /// True if the content type of this error has no charset, as in Ollama's compatibility layer.
    #[must_use]
    pub fn has_bare_json(self, error: &Error) -> bool {
        self != Self::Ollama && !is_request_error(error)
    }

    fn message(self, error: &Error) -> String {
        match (self, error) {
            // The text of Go's JSON decoder.
            (Self::OpenAi | Self::Anthropic, Error::MissingBody) => "EOF".to_owned(),
            _ => error.message(),
        }
    }
}

/// An error that Ollama's compatibility layer raises itself.
fn is_request_error(error: &Error) -> bool {
    matches!(error, Error::MissingBody | Error::InvalidRequest { .. })
}

fn openai_error<'a>(error: &Error, status: u16, message: &'a str) -> OpenAiErrorResponse<'a> {
    let (r#type, code) = match (error, status) {
        // As OpenAI does for a wrong key.
        (Error::Unauthorized, _) => ("invalid_request_error", Some("invalid_api_key")),
        (_, 400) => ("invalid_request_error", None),
        (_, 404) => ("not_found_error", None),
        _ => ("api_error", None),
    };
    OpenAiErrorResponse { error: OpenAiError { message, r#type, param: None, code } }
}

fn anthropic_error(
    status: u16,
    message: &str,
    request_id: Option<String>,
) -> AnthropicErrorResponse<'_> {
    let r#type = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    };
    AnthropicErrorResponse {
        r#type: "error",
        error: AnthropicError { r#type, message },
        request_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes;

    fn told(shape: ErrorFormat, status: u16) -> String {
        let error = Error::UpstreamInBand { status, message: "a <b>".into() };
        String::from_utf8(shape.body(&error, status, "req_0123abcd")).expect("UTF-8")
    }

    #[test]
    fn the_path_decides_whose_error_it_is() {
        for (target, shape) in [
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
            assert_eq!(route.error_format, shape, "{target}");
        }
    }

    #[test]
    fn openai_s_errors_have_a_type_by_status_and_neither_param_nor_code() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (404, "not_found_error"),
            (401, "api_error"),
            (403, "api_error"),
            (413, "api_error"),
            (422, "api_error"),
            (429, "api_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "api_error"),
        ] {
            let message = r"a \u003cb\u003e";
            let expected = format!(
                "{{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\
                 \"param\":null,\"code\":null}}}}\n"
            );
            assert_eq!(told(ErrorFormat::OpenAi, status), expected);
        }
    }

    #[test]
    fn anthropic_s_errors_have_a_type_by_status_and_an_id() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "api_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "api_error"),
            (529, "overloaded_error"),
        ] {
            let message = r"a \u003cb\u003e";
            let expected = format!(
                "{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"{message}\"}},\
                 \"request_id\":\"req_00000000000000000123abcd\"}}\n"
            );
            assert_eq!(told(ErrorFormat::Anthropic, status), expected);
        }
    }

    #[test]
    fn a_missing_key_is_told_in_each_protocol_s_words() {
        let told = |shape: ErrorFormat| {
            String::from_utf8(shape.body(&Error::Unauthorized, 401, "req_0")).expect("UTF-8")
        };
        let message = "unauthorized: send one of this proxy's keys as \\\"Authorization: Bearer \
                       KEY\\\" or \\\"x-api-key: KEY\\\"";
        assert_eq!(told(ErrorFormat::Ollama), format!("{{\"error\":\"{message}\"}}"));
        let expected = format!(
            "{{\"error\":{{\"message\":\"{message}\",\"type\":\"invalid_request_error\",\
             \"param\":null,\"code\":\"invalid_api_key\"}}}}\n"
        );
        assert_eq!(told(ErrorFormat::OpenAi), expected);
        let error = format!("{{\"type\":\"authentication_error\",\"message\":\"{message}\"}}");
        assert!(told(ErrorFormat::Anthropic).contains(&error));
    }

    #[test]
    fn an_empty_body_is_told_in_each_protocol_s_words() {
        let told = |shape: ErrorFormat| {
            String::from_utf8(shape.body(&Error::MissingBody, 400, "req_0")).expect("UTF-8")
        };
        assert_eq!(told(ErrorFormat::Ollama), r#"{"error":"missing request body"}"#);
        let expected = r#"{"error":{"message":"EOF","type":"invalid_request_error","param":null,"code":null}}"#;
        assert_eq!(told(ErrorFormat::OpenAi), expected);
        let begins = r#"{"type":"error","error":{"type":"invalid_request_error","message":"EOF"},"#;
        assert!(told(ErrorFormat::Anthropic).starts_with(begins));
        assert!(!ErrorFormat::OpenAi.has_bare_json(&Error::MissingBody));
        assert!(ErrorFormat::OpenAi.has_bare_json(&Error::Busy));
        assert!(!ErrorFormat::Ollama.has_bare_json(&Error::Busy));
    }

    #[test]
    fn an_error_in_a_stream_is_its_last_line_or_event() {
        let told = |shape: ErrorFormat| {
            let error = Error::IncompleteStream;
            String::from_utf8(shape.event(&error, 502)).expect("UTF-8")
        };
        let message = "the upstream closed the connection before its response was complete";
        assert_eq!(told(ErrorFormat::Ollama), format!("{{\"error\":\"{message}\"}}\n"));
        let error = format!(
            "{{\"message\":\"{message}\",\"type\":\"api_error\",\"param\":null,\"code\":null}}"
        );
        assert_eq!(told(ErrorFormat::OpenAi), format!("data: {{\"error\":{error}}}\n\n"));
        let error = format!("{{\"type\":\"api_error\",\"message\":\"{message}\"}}");
        let data = format!("{{\"type\":\"error\",\"error\":{error}}}");
        assert_eq!(told(ErrorFormat::Anthropic), format!("event: error\ndata: {data}\n\n"));
    }
}
