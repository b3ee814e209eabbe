//! The scripted OpenAI server: what it answers ([`answers`]), what it looks for in a request
//! ([`request`]), one connection ([`connection`]) and the loop ([`server`]).

pub mod answers;
pub mod connection;
pub mod request;
pub mod server;
