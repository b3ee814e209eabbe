//! Requests to upstreams, and how their responses are handled.

mod azure;
mod breaker;
mod cut_answers;
mod errors;
mod faults;
mod large_bodies;
mod models;
mod repair;
mod retry;
mod stream_dialects;
mod values;
