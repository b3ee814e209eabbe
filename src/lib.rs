//! Answers Ollama's HTTP API and does the work through any OpenAI-compatible server.
//!
//! # Rooms
//!
//! Each room may import those below it in this table, and none above; a folder's `mod.rs` says what
//! it owns, what it never does and its one invariant. `tests/it/house/rooms.rs` checks the arrows, who
//! names ureq and tiny_http, and which rooms are pure.
//!
//! | room | owns |
//! | --- | --- |
//! | [`app`] | putting it together: server, dispatcher, shutdown, `--check`, `--healthcheck` |
//! | [`config`] | options, environment, files |
//! | [`handlers`] | one short function for each route |
//! | [`http`] | one downstream exchange: routes, heads, framing, access, error formats |
//! | [`upstream`] | the server behind us: transport, retry, breaker, repair |
//! | [`models`] | the model list, running and virtual models, what is shown of them |
//! | [`translate`] | pure: one API to another, both ways |
//! | [`backends`] | pure: families of upstreams, their errors, names and well-known models |
//! | [`api`] | pure: wire types and formats of Ollama, OpenAI and Anthropic |
//! | [`net`] | acceptor, connection guard, worker pool, cancellation, limits, system calls |
//! | [`observe`] | log, log of bodies, metrics, redaction, clock |
//! | [`error`] | the one error, which every room returns |
//!
//! # Invariants
//!
//! - The pure rooms and files name no socket, thread, clock, environment or random source.
//! - The head is written with the first line, so that any failure before it gets a real status.
//! - Nothing is tried again once a byte of an upstream's answer was handed on.
//! - Every exchange ends exactly once: answered, ended, failed, or the client is gone.
//! - No key is logged, and no prompt and no answer unless the operator asks for bodies.

pub mod api;
pub mod app;
pub mod backends;
pub mod config;
pub mod error;
pub mod handlers;
pub mod http;
pub mod models;
pub mod net;
pub mod observe;
pub mod translate;
pub mod upstream;
