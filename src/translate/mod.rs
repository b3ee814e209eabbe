//! Translates Ollama's, OpenAI's and Anthropic's requests for an OpenAI-compatible upstream, and its
//! responses back.
//!
//! Pure: no I/O, clock or random source; values in, values out. Invariant: every member of a request
//! is translated, ignored for a documented reason, or refused by name. The state of a stream lives in
//! [`stream::ResponseTranslator`], which writes nothing.

pub mod anthropic;
pub mod chat;
pub mod context_codec;
pub mod embed;
pub mod format;
pub mod generate;
pub mod history;
pub mod infill;
pub mod logprobs;
pub mod media;
pub mod options;
pub mod pass_through;
mod quirks;
pub mod response_metrics;
pub mod responses;
pub mod stop_filter;
pub mod stream;
pub mod template;
pub mod think;
pub mod think_tags;
pub mod tool_calls;
pub mod tools;
pub mod truncate;
