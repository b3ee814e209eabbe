//! Request sequences of known clients.

mod agents;
mod ollama;
mod ollama_cli;
mod replay;
