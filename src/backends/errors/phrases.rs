//! Classifies an error by its codes and by phrases in its message, since servers share no set of
//! codes. The phrases are collected from the responses of the supported servers; all are compared in
//! lower case.
//!
//! Never looks at the configured backend. Invariant: the result depends on the error's text, codes
//! and status only.

use super::ErrorDetails;

/// Codes and types of errors that a retry cannot cure. Codes are compared without `_`, `-` and `.`.
const PERMANENT_CODES: [&str; 10] = [
    "insufficientquota",
    "insufficientbalance",
    "insufficientcredits",
    "billing",
    "paymentrequired",
    "notsupported",
    "notimplemented",
    "maxtokensperrequest",
    "contentfilter",
    "contentpolicyviolation",
];

/// How servers reject a request without TLS on a port for TLS: nginx, Go's net/http (Caddy, Traefik),
/// Apache and Tomcat.
const PLAIN_HTTP_TEXTS: [&str; 4] = [
    "the plain http request was sent to https port",
    "client sent an http request to an https server",
    "speaking plain http to an ssl-enabled server port",
    "this combination of host and port requires tls",
];

/// Texts of errors that a retry cannot cure, whatever their status: spent credit, sizes, and missing
/// features that llama.cpp reports with status 500.
const PERMANENT_TEXTS: [&str; 14] = [
    "billing",
    "exceeded your current quota",
    "insufficient balance",
    "insufficient credit",
    "insufficient quota",
    "request too large",
    "too large to process",
    "max tokens per request",
    "--jinja flag",
    "mmproj",
    "does not support",
    "not support embedding",
    "is not supported",
    "are not supported",
];

/// Statuses that are never retried, even if the upstream's headers ask for it: payment required,
/// content too large, not implemented.
const PERMANENT_STATUSES: [u16; 3] = [402, 413, 501];

/// Parts of messages about members of a request that failed the server's validation (pydantic).
const VALIDATION_TEXTS: [&str; 7] = [
    "literal_error",
    "extra_forbidden",
    "validation error for",
    "validation errors for",
    "validation error:",
    "validation errors:",
    "requestvalidationerror",
];

/// Parts of messages about a chat template, a grammar or a schema that could not be processed: the request
/// is at fault, whatever the status (llama.cpp, mlx_lm.server).
const TEMPLATE_TEXTS: [&str; 12] = [
    "jinja",
    "chat template",
    "raise_exception",
    "rendering prompt",
    "while executing callexpression",
    "template error",
    "templateerror",
    "failed to parse grammar",
    "failed to initialize samplers",
    "error parsing grammar",
    "json schema conversion failed",
    "unable to generate parser",
];

/// Codes and types of rejections that no other form of the request would change.
const FINAL_CODES: [&str; 13] = [
    "apikey",
    "authentication",
    "unauthorized",
    "permission",
    "insufficientquota",
    "billing",
    "ratelimit",
    "contentfilter",
    "contentpolicy",
    "modelnotfound",
    "abovemaxvalue",
    "belowminvalue",
    "regionnotsupported",
];

/// The same in messages.
const FINAL_TEXTS: [&str; 20] = [
    "api key",
    "api_key",
    "credit",
    "billing",
    "quota",
    "rate limit",
    "per minute",
    "not authorized",
    "permission",
    "content policy",
    "content_policy",
    "content management policy",
    "content filter",
    "safety system",
    "usage policy",
    "usage policies",
    "your region",
    "your country",
    "request too large",
    "payload too large",
];

/// Parts of messages about an image or a sound that cannot be read.
const MEDIA_TEXTS: [&str; 10] = [
    "invalid image",
    "image url",
    "image_url",
    "could not process image",
    "unable to process image",
    "failed to load image",
    "cannot decode image",
    "unsupported image",
    "invalid base64",
    "invalid audio",
];

const TOOLS_TEXTS: [&str; 10] = [
    "tools param requires --jinja",
    "tool_choice param requires --jinja",
    "--enable-auto-tool-choice",
    "--tool-call-parser",
    "does not support tools",
    "does not support tool use",
    "does not support tool call",
    "does not support function call",
    "endpoints found that support tool use",
    "`tool calling` is not supported",
];

const IMAGE_TEXTS: [&str; 3] = [
    "image input is not supported",
    "does not support image",
    "you may need to provide the mmproj",
];

const LOADING_TEXTS: [&str; 3] = ["loading model", "model is loading", "is currently loading"];

/// Whole messages that mean an unknown route.
const ROUTE_ONLY_TEXTS: [&str; 6] =
    ["not found", "404 not found", "file not found", "page not found", "resource not found", "404"];

/// Parts of messages that mean an unknown route.
const ROUTE_TEXTS: [&str; 13] = [
    "404 page not found",
    "unexpected endpoint or method",
    "invalid url",
    "unknown request url",
    "cannot post ",
    "cannot get ",
    "no route matched",
    "no matching route",
    "route not found",
    "endpoint not found",
    "path not found",
    "unknown path",
    "requested url",
];

/// Parts of messages about an unknown model.
const UNKNOWN_MODEL_TEXTS: [&str; 7] = [
    "not exist",
    "doesn't exist",
    "not found",
    "not a valid model",
    "no such model",
    "unknown model",
    "could not find",
];

/// Parts of messages that can only be about an unknown model, whatever the status and wherever they
/// stand. LiteLLM, GitHub Models, Fireworks, Hugging Face's router, llama-swap, `transformers serve`
/// (which may be pinned to one model) and others.
const CERTAIN_UNKNOWN_MODEL_TEXTS: [&str; 17] = [
    "not a valid model",
    "invalid model name",
    "invalid model id",
    "invalid model:",
    "invalid model '",
    "unknown model",
    "unrecognized model",
    "no such model",
    "no model named",
    "model not found",
    "model does not exist",
    "model doesn't exist",
    "not a known model",
    "not find model",
    "inference handler for",
    "no available channel for model",
    "server is pinned to '",
];

/// Codes and types of an unknown model.
const UNKNOWN_MODEL_CODES: [&str; 6] = [
    "modelnotfound",
    "deploymentnotfound",
    "unknownmodel",
    "invalidmodel",
    "modelnotsupported",
    "nosuchmodel",
];

/// Parts of messages about a model that exists but does not serve this endpoint.
const MISUSED_MODEL_TEXTS: [&str; 3] =
    ["not a chat model", "only supported in", "did you mean to use"];

/// Names of the `responses` route.
const RESPONSES_ROUTE_TEXTS: [&str; 10] = [
    "v1/responses",
    "/responses",
    "`responses`",
    "'responses'",
    "\"responses\"",
    "responses api",
    "responses endpoint",
    "responses route",
    "responses.create",
    "responses-api",
];

/// Names of the `chat/completions` route.
const CHAT_ROUTE_TEXTS: [&str; 5] = [
    "chat/completions",
    "chat completions",
    "chatcompletion",
    "chat completion api",
    "chat-completions",
];

/// Codes of a model that exists and has another route (GitHub Copilot, Azure).
const OTHER_ROUTE_CODES: [&str; 3] =
    ["unsupportedapi", "operationnotsupported", "unsupportedendpoint"];

/// What shows that a sentence about a route is about one feature of it, or about another route.
const OTHER_TOPIC_TEXTS: [&str; 8] = [
    "tool",
    "function",
    "reasoning_effort",
    "reasoning effort",
    "previous_response",
    "embeddings",
    "v1/completions",
    "/v1/messages",
];

/// Words that turn a client away from a route.
const DENIAL_TEXTS: [&str; 7] = ["not ", "n't ", "only", "instead", "unsupported", "must ", "use "];

/// Statuses by code or type, in order of precedence: OpenAI reports unknown models and invalid keys
/// with the type `invalid_request_error` and a more specific code.
const STATUS_BY_CODE: [(&str, u16); 24] = [
    ("ratelimit", 429),
    ("toomanyrequests", 429),
    ("insufficientquota", 429),
    ("resourceexhausted", 429),
    ("notfound", 404),
    ("apikey", 401),
    ("authentication", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
    ("permission", 403),
    ("forbidden", 403),
    ("contextlength", 400),
    ("contextsize", 400),
    ("contextwindow", 400),
    ("invalidrequest", 400),
    ("badrequest", 400),
    ("invalidargument", 400),
    ("invalidvalue", 400),
    ("validation", 400),
    ("contentfilter", 400),
    ("overloaded", 503),
    ("unavailable", 503),
    ("capacity", 503),
    ("timeout", 504),
];

/// True if a body, of any format, says that its server wants TLS.
pub fn says_plain_http_on_tls_port(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    PLAIN_HTTP_TEXTS.iter().any(|phrase| text.contains(phrase))
}

/// The codes and the message of one error, normalized for comparison.
#[derive(Debug)]
pub(super) struct ErrorClassifier {
    /// Type and code in lower case, without `_`, `-` and `.`.
    codes: String,
    /// The message in lower case.
    text: String,
    /// True if the offending request field is `model`.
    blames_model: bool,
    /// True if it is another one.
    blames_other_member: bool,
}

impl ErrorClassifier {
    pub(super) fn new(details: &ErrorDetails) -> Self {
        let ErrorDetails { message, code, kind, param, field_errors, .. } = details;
        let mut codes =
            format!("{} {}", kind.as_deref().unwrap_or(""), code.as_deref().unwrap_or(""));
        codes.make_ascii_lowercase();
        codes.retain(|c| !matches!(c, '_' | '-' | '.'));
        let blames_model = param.as_deref() == Some("model");
        let mut fields = field_errors.iter().map(|field| &field.path).chain(param);
        let blames_other_member = fields.any(|field| !field.is_empty() && field != "model");
        Self { codes, text: message.to_ascii_lowercase(), blames_model, blames_other_member }
    }

    /// A chat template, a grammar or a schema could not be processed.
    pub(super) fn is_template_failure(&self) -> bool {
        self.contains_any(&TEMPLATE_TEXTS) && !self.rejects_tools()
    }

    /// The model is served by the `responses` route, and not by `chat/completions`. What is blamed counts
    /// first: a sentence about a member may name the route as well.
    pub(super) fn names_responses_route(&self) -> bool {
        if self.blames_other_member || self.contains_any(&OTHER_TOPIC_TEXTS) {
            return false;
        }
        let says_chat = self.contains_any(&CHAT_ROUTE_TEXTS);
        let is_denied = self.contains_any(&DENIAL_TEXTS);
        let is_unknown =
            self.has_code(&UNKNOWN_MODEL_CODES) || self.contains_any(&UNKNOWN_MODEL_TEXTS);
        if self.contains_any(&RESPONSES_ROUTE_TEXTS) {
            let is_about_model = self.blames_model || self.mentions_model();
            return is_denied && (says_chat || (is_about_model && !is_unknown));
        }
        let is_blamed = self.blames_model || self.has_code(&OTHER_ROUTE_CODES);
        says_chat && is_denied && is_blamed && !is_unknown
    }

    /// No other form of the request would be accepted.
    pub(super) fn is_final(&self) -> bool {
        self.has_code(&FINAL_CODES)
            || self.contains_any(&FINAL_TEXTS)
            || self.contains_any(&MEDIA_TEXTS)
            || self.rejects_images()
            || self.rejects_tools()
            || self.is_unknown_model(400)
    }

    /// A retry of the same request would fail again.
    pub(super) fn is_permanent(&self, status: u16) -> bool {
        PERMANENT_STATUSES.contains(&status)
            || self.has_code(&PERMANENT_CODES)
            || self.contains_any(&PERMANENT_TEXTS)
            || self.is_validation_error()
            || self.is_context_overflow()
    }

    /// The request failed the server's validation of its members: pydantic's words, which some servers
    /// send with status 500 (llama-cpp-python 0.3, server/errors.py).
    pub(super) fn is_validation_error(&self) -> bool {
        self.has_code(&["literalerror", "extraforbidden", "validationerror"])
            || self.contains_any(&VALIDATION_TEXTS)
    }

    /// The model, or the server's configuration of it, does not support tools.
    pub(super) fn rejects_tools(&self) -> bool {
        self.contains_any(&TOOLS_TEXTS)
    }

    /// The model does not accept images.
    pub(super) fn rejects_images(&self) -> bool {
        self.contains_any(&IMAGE_TEXTS)
    }

    /// The server is still loading the model.
    pub(super) fn is_loading(&self, status: u16) -> bool {
        status == 503 && self.contains_any(&LOADING_TEXTS)
    }

    /// The server does not know the route.
    pub(super) fn is_route_error(&self) -> bool {
        let text = self.text.trim_end_matches('.');
        ROUTE_ONLY_TEXTS.contains(&text) || self.contains_any(&ROUTE_TEXTS)
    }

    /// The upstream does not know the model. A 400 has many other causes, so its message must say so
    /// more explicitly than that of a 404.
    pub(super) fn is_unknown_model(&self, status: u16) -> bool {
        let by_code = self.has_code(&UNKNOWN_MODEL_CODES);
        let is_misused = self.contains_any(&MISUSED_MODEL_TEXTS);
        // llama.cpp's "unknown model architecture" is about a file.
        let is_other = is_misused || self.contains_any(&["model architecture"]);
        let is_certain = by_code || (self.contains_any(&CERTAIN_UNKNOWN_MODEL_TEXTS) && !is_other);
        let by_text = self.contains_any(&UNKNOWN_MODEL_TEXTS);
        match status {
            404 => {
                let by_field = self.blames_model && self.has_code(&["notfound"]);
                // With a 404 this is about the model; servers report a parameter with a 400.
                let by_text = by_text || self.contains_any(&["not supported"]);
                is_certain || by_field || (by_text && self.mentions_model() && !is_misused)
            }
            400 | 422 => {
                let is_about_model = self.blames_model
                    || ["model ", "the model ", "the requested model "]
                        .iter()
                        .any(|start| self.text.starts_with(start));
                // LiteLLM's words for a name without a deployment; with a 5xx, all may be down.
                let has_none = self.contains_any(&["no healthy deployments for"]);
                is_certain || has_none || (by_text && is_about_model)
            }
            // A gateway's own failure, told with the status of a server that is down.
            500 | 502 | 503 => is_certain,
            _ => false,
        }
    }

    /// The status for an error that was sent without one.
    pub(super) fn infer_status(&self) -> u16 {
        if self.is_route_error() {
            return 502;
        }
        if self.is_context_overflow() {
            return 400;
        }
        // The strict rules of a 400, since the error may have any cause.
        if self.is_unknown_model(400) {
            return 404;
        }
        let known = STATUS_BY_CODE.iter().find(|(code, _)| self.codes.contains(code));
        known.map_or(500, |(_, status)| *status)
    }

    /// True if the message has the word "model" or "deployment", or Gemini's `models/x`, outside of a
    /// path: a path would be a route.
    fn mentions_model(&self) -> bool {
        let is_word = |start: &str, end: &str| {
            let joins = |c: char| c.is_ascii_alphanumeric() || c == '/';
            !start.ends_with(joins) && (end.starts_with("s/") || !end.starts_with(joins))
        };
        ["model", "deployment"].iter().any(|word| {
            let mut places = self.text.match_indices(word);
            places.any(|(at, _)| is_word(&self.text[..at], &self.text[at + word.len()..]))
        })
    }

    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.codes.contains(code))
    }

    pub(super) fn contains_any(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.text.contains(phrase))
    }
}
