//! All integration tests in one program, so that the library is linked once.
//!
//! `tests/README.md` says which file holds which behaviour.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod anthropic;
mod clients;
mod fuzz_replay;
mod generated_histories;
mod golden;
mod house;
mod net;
mod ollama;
mod openai;
mod program;
mod router;
mod status;
mod upstream;
