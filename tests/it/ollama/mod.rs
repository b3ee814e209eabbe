//! Ollama's own routes, as its clients ask and read them.

mod account;
mod bad_input;
mod chat;
mod embed;
mod embed_batches;
mod errors;
mod fill_in;
mod images;
mod manage;
mod manage_lines;
mod messages;
mod models;
mod options;
mod show_tags_ps;
mod streaming;
mod streaming_rules;
mod tools;
