//! What the words of an error mean. No two servers agree on codes, so this is a set of tables of
//! phrases, each compared in lower case (openai-wire.md 5.2 to 5.4, 6.2, 7.2 and 8.3).
//! Invariant: the answers depend on the words alone, and never on which backend is configured.

use super::ErrorDetails;

/// Codes and types of requests that will fail again, without the signs between their words.
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

/// Texts of requests that will fail again, whatever their status: spent money, sizes, and what
/// llama.cpp reports with a 500.
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

/// Statuses that no hint of the upstream turns into a retry: no money, too large, not implemented.
const PERMANENT_STATUSES: [u16; 3] = [402, 413, 501];

const OVERFLOW_CODES: [&str; 3] =
    ["contextlengthexceeded", "exceedcontextsize", "contextwindowexceeded"];

const OVERFLOW_TEXTS: [&str; 13] = [
    "context length",
    "context window",
    "context size",
    "input tokens exceed",
    "is longer than the model's context",
    "exceeds the maximum number of tokens",
    "prompt is too long",
    "prompt too long",
    "maximum prompt length",
    "maximum input length",
    "reduce the length of the messages",
    "too many tokens",
    "`inputs` tokens + `max_new_tokens` must be",
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

/// Texts that say nothing but "there is no such route".
const ROUTE_ONLY_TEXTS: [&str; 6] =
    ["not found", "404 not found", "file not found", "page not found", "resource not found", "404"];

/// Parts of texts that name a route.
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

/// What is said of an unknown model.
const UNKNOWN_MODEL_TEXTS: [&str; 7] = [
    "not exist",
    "doesn't exist",
    "not found",
    "not a valid model",
    "no such model",
    "unknown model",
    "could not find",
];

/// What is said of a model that exists and is used at the wrong place.
const MISUSED_MODEL_TEXTS: [&str; 3] =
    ["not a chat model", "only supported in", "did you mean to use"];

/// Statuses by code or type, in the order of precedence: OpenAI sends its unknown models and its
/// refused keys as an `invalid_request_error` with a code.
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

/// The words of one error, ready to be compared.
#[derive(Debug)]
pub(super) struct ErrorClassifier {
    /// Type and code in lower case, without the signs between their words.
    codes: String,
    /// The message in lower case.
    text: String,
    /// Whether the request field to blame is `model`.
    blames_model: bool,
}

impl ErrorClassifier {
    pub(super) fn new(details: &ErrorDetails) -> Self {
        let ErrorDetails { message, code, kind, param, .. } = details;
        let mut codes =
            format!("{} {}", kind.as_deref().unwrap_or(""), code.as_deref().unwrap_or(""));
        codes.make_ascii_lowercase();
        codes.retain(|c| !matches!(c, '_' | '-' | '.'));
        let blames_model = param.as_deref() == Some("model");
        Self { codes, text: message.to_ascii_lowercase(), blames_model }
    }

    /// The prompt did not fit into the context.
    pub(super) fn is_context_overflow(&self) -> bool {
        self.has_code(&OVERFLOW_CODES)
            || (self.contains_any(&OVERFLOW_TEXTS)
                && !self.contains_any(&["rate limit", "per min"]))
    }

    /// The same request will fail again, however often it is sent.
    pub(super) fn is_permanent(&self, status: u16) -> bool {
        PERMANENT_STATUSES.contains(&status)
            || self.has_code(&PERMANENT_CODES)
            || self.contains_any(&PERMANENT_TEXTS)
            || self.is_context_overflow()
    }

    /// The model, or this server's set-up for it, cannot call tools.
    pub(super) fn is_tools_refusal(&self) -> bool {
        self.contains_any(&TOOLS_TEXTS)
    }

    /// The model sees no images.
    pub(super) fn is_image_refusal(&self) -> bool {
        self.contains_any(&IMAGE_TEXTS)
    }

    /// The server is up, and its model will be.
    pub(super) fn is_loading(&self, status: u16) -> bool {
        status == 503 && self.contains_any(&LOADING_TEXTS)
    }

    /// The path is unknown, not a thing behind it.
    pub(super) fn is_route_error(&self) -> bool {
        let text = self.text.trim_end_matches('.');
        ROUTE_ONLY_TEXTS.contains(&text) || self.contains_any(&ROUTE_TEXTS)
    }

    /// The model is unknown to the upstream. Only 404 means that by itself; among the many reasons
    /// for a 400 it must be said outright.
    pub(super) fn is_unknown_model(&self, status: u16) -> bool {
        let by_code = self.has_code(&["modelnotfound", "deploymentnotfound"]);
        let by_text = self.contains_any(&UNKNOWN_MODEL_TEXTS);
        match status {
            404 => {
                let by_field = self.blames_model && self.has_code(&["notfound"]);
                // Of a parameter this would be said with a 400.
                let by_text = by_text || self.contains_any(&["not supported"]);
                let by_text =
                    by_text && self.mentions_model() && !self.contains_any(&MISUSED_MODEL_TEXTS);
                by_code || by_field || by_text
            }
            400 => {
                let begins_so = ["model ", "the model "].iter().any(|m| self.text.starts_with(m));
                by_code || self.contains_any(&["not a valid model"]) || (by_text && begins_so)
            }
            _ => false,
        }
    }

    /// A status for an error that came without one.
    pub(super) fn infer_status(&self) -> u16 {
        if self.is_route_error() {
            return 502;
        }
        if self.is_context_overflow() {
            return 400;
        }
        // As strict as with a 400: here, too, anything may be the matter.
        if self.is_unknown_model(400) {
            return 404;
        }
        STATUS_BY_CODE.iter().find(|(code, _)| self.codes.contains(code)).map_or(500, |(_, s)| *s)
    }

    /// Whether the text has the word "model" or "deployment", or Gemini's `models/x`: not as a part
    /// of a path, which would be a route.
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

    fn has_code(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.codes.contains(code))
    }

    fn contains_any(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.text.contains(phrase))
    }
}
