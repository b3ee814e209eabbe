//! Ollama requests to OpenAI requests, and OpenAI answers to Ollama answers.
//!
//! Pure: no I/O, no clock, no randomness; values in, values out. Every member of a request is
//! translated, knowingly ignored, or refused by name. State that a stream needs lives in
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
