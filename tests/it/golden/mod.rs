//! Golden pairs: files that go in beside files that must come out.

mod anthropic;
mod ollama;
mod repairs;
mod responses;
mod responses_order;
