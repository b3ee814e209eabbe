//! Request sequences of known clients.

mod agents;
mod coding_agents;
mod completions;
mod ollama;
mod ollama_cli;
mod replay;
