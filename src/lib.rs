//! Answers Ollama's HTTP API and does the work through any OpenAI-compatible server.
//!
//! # Bird's-eye view
//!
//! ```text
//! client --HTTP--> acceptor -> pool -> handler -> upstream --HTTP--> OpenAI-compatible server
//!                                        |  ^
//!                                        v  |
//!                                     translate (pure)
//! ```
//!
//! A request is accepted by tiny_http, handed to one of a fixed number of workers, read, translated,
//! sent upstream; the answer is translated event by event and written line by line. Everything that
//! decides is pure and tested with values; everything that waits has a bound.
//!
//! # Code map
//!
//! | module | owns |
//! | --- | --- |
//! | `main.rs` | options to configuration, log, signals, exit code |
//! | [`config`], [`base_url`] | the options, one table row each; the upstream's address |
//! | [`error`] | the one error of an exchange: side, status, message, retry |
//! | [`redact`], [`keys`] | secrets that do not print, and texts cleaned of them; the keys of those who may ask |
//! | [`bodies`] | the log of bodies, for those who ask for it |
//! | [`ollama`], [`openai`], [`anthropic`] | the wire types of the three APIs |
//! | [`translate`] | one API to the other, both ways |
//! | [`sse`], [`ndjson`] | events out of bytes, lines into bytes |
//! | [`shape`] | what an error looks like in each of the three protocols |
//! | [`route`], [`names`], [`profile`], [`keep_alive`], [`clock`], [`base64`], [`lock`], [`order`] | small rules |
//! | [`go_template`] | whether a template is one, in Go's words |
//! | [`backoff`], [`upstream_error`] | when to try again; what an upstream's error means |
//! | [`breaker`] | who may still try an upstream that is not there |
//! | [`adapt`] | what to change in a request that an upstream refuses, and what was learnt of it |
//! | [`upstream`] | the client of the OpenAI server, over ureq |
//! | [`keepsakes`] | what an upstream wants back with a tool call |
//! | [`catalog`], [`loaded`] | the kept model list; the table behind `/api/ps` |
//! | [`store`] | the models that were made here, in memory and in one file |
//! | [`exchange`], [`unread`] | one request and its reply, over tiny_http |
//! | [`gate`], [`origin`], [`machine`] | who may ask: CORS, the check of the host, keys; what it knows of this machine |
//! | [`handler`] | one function for each route |
//! | [`metrics`] | what is counted, and whether the server can serve |
//! | [`guard`], [`framing`], [`cancel`] | connections that have to go, heads that cannot be trusted, the sign that a client has left |
//! | [`system`] | the calls of the system that are unsafe |
//! | [`resources`] | limits of descriptors, threads and memory, and what fits into them |
//! | [`pool`] | workers on a bounded queue |
//! | [`acceptor`] | tiny_http's accept side, kept healthy |
//! | [`server`], [`stop`], [`logging`], [`check`] | putting it together, and ending it |
//! | [`healthcheck`] | the question whether another process of it lives |
//!
//! # Invariants
//!
//! - The pure modules name no socket, thread, clock, environment or random source
//!   (`tests/tidy.rs` reads the sources).
//! - Only [`upstream`] names ureq; only [`exchange`], [`unread`], [`acceptor`] and [`server`] name
//!   tiny_http; neither crate's types appear in [`error`].
//! - The head is written with the first line, so that any failure before it gets a real status.
//! - Nothing is tried again once a byte of an upstream's answer was handed on.
//! - Every exchange ends exactly once: answered, ended, failed, or the client is gone.
//! - No key is logged, and no prompt and no answer unless the operator asks for bodies.

pub mod acceptor;
pub mod adapt;
pub mod anthropic;
pub mod backoff;
pub mod base64;
pub mod base_url;
pub mod bodies;
pub mod breaker;
pub mod cancel;
pub mod catalog;
pub mod check;
pub mod clock;
pub mod config;
pub mod error;
pub mod exchange;
pub mod framing;
pub mod gate;
pub mod go_template;
pub mod guard;
pub mod handler;
pub mod healthcheck;
pub mod keep_alive;
pub mod keepsakes;
pub mod keys;
pub mod loaded;
pub mod lock;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod names;
pub mod ndjson;
pub mod ollama;
pub mod openai;
pub mod order;
pub mod origin;
pub mod pool;
pub mod profile;
pub mod redact;
pub mod resources;
pub mod route;
pub mod server;
pub mod shape;
pub mod sse;
pub mod stop;
pub mod store;
pub mod system;
pub mod translate;
pub mod unread;
pub mod upstream;
pub mod upstream_error;
