//! Requests to upstreams, and how their responses are handled.

mod azure;
mod basic_auth;
mod breaker;
mod cached_tokens;
mod call_arguments;
mod call_extras;
mod cut_answers;
mod errors;
mod faults;
mod in_band;
mod kinds;
mod large_bodies;
mod long_answers;
mod models;
mod only_streams;
mod plainest;
mod proxies;
mod refusing;
mod repair;
mod responses_only;
mod retry;
mod silence;
mod stream_dialects;
mod thinking;
mod tls;
mod values;
