//! Answers Ollama's HTTP API and does the work through any OpenAI-compatible servers.
//!
//! ```text
//! client --HTTP--> net -> app -> http -> handlers -> upstream --HTTP--> OpenAI-compatible server
//!                                          |  ^
//!                                          v  |
//!                            models, translate, backends, api (pure)
//! ```
//!
//! # Rooms
//!
//! Each room may import those below it in this table, and none above; a folder's `mod.rs` says what
//! it owns, what it never does and its one invariant. `tests/it/house/rooms.rs` checks the arrows,
//! who names ureq and tiny_http, which rooms are pure, and the functions named below.
//!
//! | room | owns |
//! | --- | --- |
//! | [`app`] | putting it together: server, dispatcher, shutdown, `--check`, `--healthcheck` |
//! | [`config`] | options, environment, files |
//! | [`handlers`] | the route table, and one short function for each route |
//! | [`http`] | one downstream exchange: routes, heads, framing, access, error formats |
//! | [`upstream`] | the servers behind us: router, transport, retry, breaker, repair |
//! | [`models`] | the model list, running and virtual models, what is shown of them |
//! | [`translate`] | pure: one API to another, both ways |
//! | [`backends`] | pure: families of upstreams, their errors, names and well-known models |
//! | [`api`] | pure: wire types and formats of Ollama, OpenAI and Anthropic |
//! | [`net`] | acceptor, connection guard, worker pool, cancellation, limits, system calls |
//! | [`observe`] | log, log of bodies, metrics, what the status page shows of requests, redaction, clock |
//! | [`error`] | the one error, which every room returns, with its text and status |
//!
//! # A streaming `/api/chat`
//!
//! 1. `net/acceptor/generation.rs`, `receive_loop`: takes a request from tiny_http.
//! 2. `app/dispatcher.rs`, `dispatch`: resolves the route once (`http/routes.rs`, `resolve`), checks
//!    the head (`http/framing.rs`, `check_head`) and CORS, host and key (`http/access.rs`, `decide`), and
//!    counts the request for its key, if that has a name (`net/key_limits/mod.rs`, `begin`).
//! 3. `app/dispatcher.rs`, `submit`: reserves a worker or a place in the queue (`net/worker_pool.rs`,
//!    `try_reserve`). A full queue is [`error::Error::Busy`]; its text is in `error.rs`, `message`.
//! 4. `app/dispatcher.rs`, `serve`: on a worker, calls `handlers/route_table.rs`, `handle`, which reads
//!    the body (`http/exchange/request_body.rs`, `read_body`) and calls the row's handler.
//! 5. `handlers/chat_generate.rs`, `chat`: parses the body (`api/ollama/decode.rs`, `parse`).
//! 6. `handlers/model_request.rs`, `routing`: finds the upstreams that the request may go to
//!    (`upstream/router/candidates.rs`, `candidates`). `handlers/failover.rs`, `run`, asks one after the other
//!    until one answers; for each, `handlers/model_lookup.rs`, `resolve_at`, finds its model and its family
//!    (`backends/profiles/table.rs`), and `handlers/model_request.rs`, `begin`, marks it as running.
//!    For a model of a real Ollama `handlers/native.rs`, `send`, sends the request as it is instead, and
//!    `relay` passes the lines on.
//! 7. `translate/chat.rs`, `to_openai`: the request for the upstream. The options are translated by
//!    `translate/options.rs`, `for_chat`, under the names in the family's row of the table.
//! 8. `upstream/client.rs`, `call`: applies the repairs that the model needed before.
//! 9. `upstream/retry.rs`, `retry` and `attempt`: attempts, backoff (`upstream/backoff.rs`) and the
//!    circuit breaker (`upstream/breaker/mod.rs`), which fails calls to a dead upstream for a pause.
//! 10. `upstream/transport/agent.rs`, `send`: one HTTP request through ureq, up to the head. A success that
//!     begins with an error counts as a failure (`upstream/in_band.rs`, `find_error`).
//! 11. `handlers/relay.rs`, `pump`: for each wait, the events that arrived (`upstream/response.rs`,
//!     `wait_until` and `try_next`; `api/wire/sse/mod.rs` decodes them).
//! 12. `translate/stream/mod.rs`, `on_chunk`: an event becomes a delta.
//! 13. `handlers/client_stream.rs`, `write_line`: the delta becomes a line (`translate/chat.rs`,
//!     `encode_delta`), held back by `http/exchange/mod.rs`, `push_line`, and written by `flush`, which
//!     sends the head (`http/exchange/head.rs`) with the first line.
//! 14. `translate/chat.rs`, `encode_final`: the last line; `http/exchange/mod.rs`, `end`.
//! 15. `app/outcome.rs`, `finish`: an error becomes a response (`http/error_format.rs`); metrics, one log
//!     line and an entry for the status page (`observe/board/mod.rs`, `record`) follow.
//!
//! # A passed-on `/v1/chat/completions`
//!
//! 1. Steps 1 to 4 above; the row's handler reads the body itself.
//! 2. `handlers/pass_through.rs`, `pass`: buffers the body, or streams one above 1 MiB
//!    (`handlers/upload.rs`, `pass_streaming`).
//! 3. `translate/pass_through/mod.rs`, `parse`: finds the few members that may change, and leaves the
//!    text of all others alone (`api/openai/raw_object.rs`).
//! 4. `handlers/model_lookup.rs`, `resolve_at`; `translate/pass_through/mod.rs`, `set_model`; a virtual
//!    model adds its defaults (`models/virtual_model/pass_defaults.rs`, `apply_to_body`), and calls of
//!    earlier answers get back what came with them (`upstream/tool_call_extras/passed.rs`).
//! 5. `upstream/pass_through.rs`, `pass`: steps 8 to 10 above; an upstream's error is a response, too.
//! 6. `handlers/passed_on.rs`, `relay_unchanged`: the upstream's head (`api/openai/pass_head.rs`), then
//!    each piece as it arrives (`upstream/pass_stream.rs`, `next_piece`), with comments in silence.
//! 7. Step 15 above.
//!
//! # Invariants
//!
//! - The pure rooms and files name no socket, thread, clock, environment or random source.
//! - The head is written with the first line, so that any failure before it gets a real status.
//! - Nothing is sent again once a byte of an upstream's response was passed on.
//! - Every exchange ends exactly once: answered, ended, failed, or the client is gone.
//! - No key is logged, and no prompt and no response unless the operator asks for bodies.
//!
//! Who can reach what, what each can cost, and what bounds it: [`http::threat_model`].

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
