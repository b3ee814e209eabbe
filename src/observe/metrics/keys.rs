//! The metrics of client keys that have names. Without such keys there are none.

use super::openmetrics::Encoder;

/// What a key has used.
#[derive(Clone, Copy, Debug)]
pub struct KeyMetrics<'a> {
    /// Its name.
    pub name: &'a str,
    /// Requests that asked a model.
    pub requests: u64,
    /// Refused requests by the reason.
    pub refused: [(&'static str, u64); 4],
    /// Tokens of prompts and of responses.
    pub tokens: (u64, u64),
    /// Requests that have not ended.
    pub in_flight: u64,
    /// Tokens of the day, if they have a limit.
    pub tokens_today: Option<u64>,
}

/// Writes the families of all keys.
pub(super) fn write(out: &mut Encoder, keys: &[KeyMetrics<'_>]) {
    if keys.is_empty() {
        return;
    }
    let help = "Requests that asked a model, by the name of the client key.";
    out.begin_family("ollama_proxy_key_requests", "counter", "", help);
    for key in keys {
        out.write_sample("_total", &[("key", key.name)], key.requests);
    }
    let help = "Requests that were refused because of a limit of their key.";
    out.begin_family("ollama_proxy_key_refused", "counter", "", help);
    for key in keys {
        for (reason, count) in key.refused {
            out.write_sample("_total", &[("key", key.name), ("reason", reason)], count);
        }
    }
    let help = "Tokens that requests of the key used.";
    out.begin_family("ollama_proxy_key_tokens", "counter", "", help);
    for key in keys {
        for (kind, count) in [("prompt", key.tokens.0), ("completion", key.tokens.1)] {
            out.write_sample("_total", &[("key", key.name), ("kind", kind)], count);
        }
    }
    let help = "Requests of the key that have not ended.";
    out.begin_family("ollama_proxy_key_requests_in_flight", "gauge", "", help);
    for key in keys {
        out.write_sample("", &[("key", key.name)], key.in_flight);
    }
    let help = "Tokens that the key used since midnight UTC, if it has a limit of them.";
    out.begin_family("ollama_proxy_key_tokens_today", "gauge", "", help);
    for key in keys {
        if let Some(tokens) = key.tokens_today {
            out.write_sample("", &[("key", key.name)], tokens);
        }
    }
}
