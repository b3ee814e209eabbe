//! Ollama requests to OpenAI requests, and OpenAI answers to Ollama answers.
//!
//! Pure: no I/O, no clock, no randomness; values in, values out. Every member of a request is
//! translated, knowingly ignored, or refused by name. State that a stream needs lives in
//! [`stream::AnswerStream`], which writes nothing.

pub mod anthropic;
pub mod calls;
pub mod chat;
pub mod context;
pub mod cut;
pub mod embed;
mod family;
pub mod format;
pub mod generate;
pub mod go_template;
pub mod history;
pub mod infill;
pub mod logprobs;
pub mod media;
pub mod metrics;
pub mod options;
pub mod pass;
pub mod responses;
pub mod stop;
pub mod stream;
pub mod think;
pub mod think_tags;
pub mod tools;
