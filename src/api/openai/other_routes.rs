//! Routes below `/v1` that the upstream may have and this program has not.
//!
//! Such a route is passed on if it only runs a model. With the operator's key, a route that manages the
//! operator's account (files, fine-tuning, batches, stored objects, keys: OpenAI API reference, and
//! the references of the servers named below) would be open to every client, so those are not passed
//! on. Invariant: a path that is passed on means the same to every server, whether it decodes it once,
//! twice or not at all.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The root of the routes.
const ROOT: &str = "/v1/";

/// Segments of paths that manage an account or a server, in lower case.
const MANAGING_SEGMENTS: &[&str] = &[
    // OpenAI: stored objects.
    "assistants",
    "batches",
    "chatkit",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "messages",
    "runs",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
    "voice_consents",
    "voices",
    // OpenAI: administration, and keys for browsers.
    "admin",
    "organization",
    "organizations",
    "projects",
    "realtime",
    "webhooks",
    // Azure, Together, Fireworks, Mistral, Groq and xAI: the same under other names, and rented
    // machines.
    "accounts",
    "agents",
    "batch",
    "collections",
    "datasets",
    "deployments",
    "endpoints",
    "fine-tunes",
    "fine-tuning",
    "fine_tunes",
    "jobs",
    "libraries",
    // OpenRouter, LiteLLM and xAI: keys, users and money.
    "api-key",
    "api-keys",
    "api_keys",
    "auth",
    "budget",
    "config",
    "credentials",
    "credits",
    "customer",
    "key",
    "keys",
    "model",
    "team",
    "user",
    "users",
    // vLLM, llama.cpp and LM Studio: loading and unloading.
    "load_lora_adapter",
    "models",
    "unload_lora_adapter",
];

/// Paths below which objects are stored, with the ones that only run a model.
const STORES: &[(&str, &[&str])] =
    &[("responses", &["compact", "input_tokens"]), ("chat/completions", &[])];

/// A route of the upstream that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherRoute<'a> {
    /// The path below `/v1/`, as the client wrote it.
    pub path: &'a str,
    /// The query with its question mark, or nothing.
    pub query: &'a str,
}

impl<'a> OtherRoute<'a> {
    /// The route of a request's target; `None` for one that is not passed on.
    pub fn parse(target: &'a str) -> Option<Self> {
        let rest = target.strip_prefix(ROOT).filter(|rest| rest.chars().all(is_target_char))?;
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let decoded = decode_path(path)?.to_ascii_lowercase();
        let mut segments = decoded.split('/');
        let is_passed = segments.all(is_plain_segment) && !is_stored(&decoded);
        is_passed.then_some(Self { path, query })
    }
}

/// What may stand in a target without a fragment (RFC 3986).
fn is_target_char(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '#' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
}

/// The path decoded; `None` if decoding it once more could give another one.
fn decode_path(path: &str) -> Option<Cow<'_, str>> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    // Some servers cut a segment at `;`, and some take a backslash for a slash.
    let is_ambiguous = |c: char| c.is_control() || matches!(c, '%' | '\\' | ';' | '?' | '#');
    let has_escaped_slash = decoded.matches('/').count() > path.matches('/').count();
    (!decoded.contains(is_ambiguous) && !has_escaped_slash).then_some(decoded)
}

/// True for a segment that neither changes the path nor manages anything.
fn is_plain_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && !MANAGING_SEGMENTS.contains(&segment)
}

fn is_stored(path: &str) -> bool {
    STORES.iter().any(|(store, exceptions)| {
        let below = path.strip_prefix(store).filter(|it| it.is_empty() || it.starts_with('/'));
        below.is_some_and(|below| !exceptions.contains(&below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_a_model_is_passed_on_as_it_is() {
        for (target, path, query) in [
            ("/v1/rerank", "rerank", ""),
            ("/v1/audio/speech?a=1&b=%2e", "audio/speech", "?a=1&b=%2e"),
            ("/v1/responses/compact", "responses/compact", ""),
            ("/v1/responses/input_tokens?", "responses/input_tokens", "?"),
            ("/v1/engines/a%20b/x..y", "engines/a%20b/x..y", ""),
            ("/v1/rerank?path=/../files//", "rerank", "?path=/../files//"),
            ("/v1/chat/compact", "chat/compact", ""),
        ] {
            assert_eq!(OtherRoute::parse(target), Some(OtherRoute { path, query }), "{target}");
        }
    }

    #[test]
    fn what_manages_an_account_is_not_passed_on() {
        for path in [
            "files",
            "Files",
            "%66iles",
            "files/f/content",
            "x/files",
            "fine_tuning/jobs",
            "batches",
            "uploads/u/parts",
            "vector_stores",
            "assistants",
            "threads/t/runs",
            "containers",
            "evals",
            "organization/admin_api_keys",
            "responses/resp_1",
            "responses/resp_1/cancel",
            "responses/compact/x",
            "responses",
            "chat/completions/c",
            "chat/%63ompletions",
            "messages/batches",
            "%6dodels/load",
            "realtime/client_secrets",
            "endpoints",
            "agents",
            "load_lora_adapter",
            "keys",
            "audio/voices",
            "videos",
        ] {
            assert_eq!(OtherRoute::parse(&format!("/v1/{path}")), None, "{path}");
        }
    }

    #[test]
    fn a_path_with_two_meanings_is_not_passed_on() {
        for target in [
            "/v1/../api/chat",
            "/v1/a/../files",
            "/v1/a/..",
            "/v1/./a",
            "/v1/%2e%2e/files",
            "/v1/a/.%2E/files",
            "/v1/a%2f..%2ffiles",
            "/v1/%252e%252e/files",
            "/v1/a%5c..",
            "/v1/a\\b",
            "/v1//files",
            "/v1/a//b",
            "/v1/a/",
            "/v1/",
            "/v1",
            "//v1/rerank",
            "/v1/a;x=1",
            "/v1/..;/files",
            "/v1/a%00",
            "/v1/a%0d%0ab",
            "/v1/a%ff",
            "/v1/a%3fb",
            "/v1/a#b",
            "/v1/é",
            "/v1/http://h/x",
            "http://h/v1/rerank",
            "/V1/rerank",
            "/v2/rerank",
            "/api/rerank",
            "",
        ] {
            assert_eq!(OtherRoute::parse(target), None, "{target}");
        }
    }
}
