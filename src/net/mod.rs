//! Sockets, threads and the process: everything below HTTP.
//!
//! The acceptor, the announcement of what it accepts, the connection guard, worker pools, cancellation, the system's limits, and [`sys`],
//! the only unsafe code. Never looks into a request's body, and knows no API. Invariant: every wait
//! has a timeout and every collection has a limit.
//!
//! # Limits of the process
//!
//! At the start, workers and connections are reduced to what fits, but never below 8; each
//! reduction is a warning in the log. See [`limits::SystemLimits::fit`].
//!
//! | resource | source | reserved | per worker, per connection |
//! | --- | --- | --- | --- |
//! | descriptors | `RLIMIT_NOFILE`, raised to the hard limit | 32 | 3: 2 client, 1 upstream |
//! | threads | `pids.max` of the control group | 24 | half of the rest for either |
//! | memory | limit of the control group, version 1 or 2 | 10 MiB | 160 KiB, 96 KiB |
//!
//! - **What is held in memory** of requests and answers shares one budget ([`memory_budget`]): three fifths
//!   of the memory limit above 10 MiB, or a quarter of the machine's memory without a limit. It is reserved
//!   before it is held, and returned when it is dropped:
//!
//!   | what | counts |
//!   | --- | --- |
//!   | a body that is held | its bytes while they arrive, until the response begins |
//!   | what is made of it: a tree of JSON, texts in another form, a copy | an upper bound by [`json_cost`], or the copy |
//!   | what zstd unfolds | twice, with the window of the decoder |
//!   | a body that streams through | nothing but its first 64 KiB, as a part of its worker's memory |
//!   | a request in another form, after a refusal | three times while it is sent |
//!   | a whole response of the upstream | four times at most: read, parsed, held and written again |
//!   | an event above 128 KiB | five times |
//!   | a stream that is collected, or whose end repeats it; calls until they are whole | four times |
//!   | lines that wait for the end of a response of HTTP/1.0 | their bytes |
//!   | earlier responses, and what comes with tool calls | their bytes; they give way to requests |
//!
//!   A request that does not fit at the moment gets 503 with `Retry-After`, and one that can never fit gets
//!   413. A response that does not fit gets 502, or ends with an error where it has begun.
//! - **Memory pressure**: while less than an eighth of the memory limit is left (page cache not
//!   counted), new requests get 503 if any other is running; nothing is reserved that would leave less
//!   than a sixteenth. Freed memory is returned to the system before that. Below a limit of 1 GiB no large
//!   pages are used.
//! - **Sizes**: `MAX_BODY_BYTES` (100 MiB) for a request body; 20 MiB, and a window of 32 MiB, for
//!   a decompressed zstd body; 256 MiB for a whole response of the upstream; 64 MiB for one event
//!   of a stream.
//! - **Claimed lengths** of bodies reserve nothing: what is not read of a body of any length costs its
//!   connection, thread and descriptors until the guard closes it (3 s), and nothing afterwards; see
//!   [`crate::http::unread_body`].
//! - **Connections**: beyond `MAX_CONNECTIONS` (1,024) the oldest idle ones are closed; see
//!   [`connection_guard`].
//! - **Remembered state** is bounded everywhere: 1,000 virtual models of at most 1 MiB each and 64
//!   MiB together; 1,024 running models; 1,024 digests of blobs; 1,024 models with up to 32 repairs
//!   each; 1,024 addresses that sent wrong client keys; 1,024 models whose responses begin inside reasoning; 1,024 tool calls of at most 64 KiB;
//!   what 20,000 names of client keys have used;
//!   4 MiB of reasoning that may be the answer; 100 model names and 2,000 series in the metrics;
//!   1 MiB of what the status page shows: the last 100 requests, 60 minutes, 1,000 answers in progress
//!   ([`crate::observe::board`]).
//!
//! Without free descriptors or threads no new connection is served until some are free again; a
//! connection that waits meanwhile gets 503.
//!
//! [`json_cost`]: crate::api::wire::json_cost
//!
//! # Threads
//!
//! | thread | number | task |
//! | --- | --- | --- |
//! | accept, receiver | 2 for each tiny_http server | accept connections, hand requests over |
//! | connection | 1 for each open connection (tiny_http) | reads heads; ends 5 s after it, but for 4 |
//! | `worker` | up to `PROXY_WORKERS`; more while bodies arrive slowly | runs handlers; ends after 20 s without work, but for 4 |
//! | `health`, `probe` | up to 2 each | routes about the state of the proxy and of the upstream |
//! | `refusal` | up to 4 | write responses to refused requests; of these, 1,024 may wait, or one per connection |
//! | `model-list`, `circuit-probe` | up to 1 each for each upstream | fetch a newer list; find out whether it is back |
//! | `start` | 1 for each upstream, once, if started on a terminal | asks for its models |
//! | `health-check` | 1 for each upstream but the first, during `/openai/health` | asks it for its list |
//! | `key-counts` | 1, if a client key has a limit of tokens | writes into the state file what keys used today |
//! | `unread` | up to 16, and 2 | drain bodies that no handler reads; wait for the guard, and for responses |
//! | guard | 1 | scans all connections up to 50 times a second, and rests when nothing happens (Linux) |
//! | acceptor supervisor | 1 | proves after each arrival that no connection waits for a thread |
//! | log writer, signals | 1 each | |
//!
//! A worker serves one response at a time, so `PROXY_WORKERS` is the number of concurrent
//! responses.
//!
//! When nothing is connected, the process wakes up once or twice a second: nothing is polled, because
//! the accept thread itself announces what it accepts (`arrivals`). A minute after a burst its
//! threads have ended, and most of their memory is the system's again.

pub mod acceptor;
pub(crate) mod arrivals;
pub mod cancel;
pub mod connection_guard;
pub mod key_limits;
pub mod limits;
pub(crate) mod listen_address;
pub mod memory_budget;
pub mod memory_pressure;
pub mod processor_load;
pub mod sys;
pub mod worker_pool;
