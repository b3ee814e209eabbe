//! Request sequences of known clients.

mod agents;
mod ollama;
