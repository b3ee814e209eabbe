//! Puts the program together: sockets, threads, settings, start and stop.
//!
//! [`server`] starts everything, `dispatcher` takes a request and hands it to a worker, and
//! [`shutdown`] ends it; `--check` and `--healthcheck` are here, too. The only room that knows all
//! others, and the only room that reads [`crate::config`]. Never translates or calls upstream
//! itself. Invariant: every request that was accepted gets exactly one response, also while the
//! program stops.
//!
//! # Lanes
//!
//! | lane | routes | workers | queue |
//! | --- | --- | --- | --- |
//! | main | all others | `PROXY_WORKERS` (256) | `OLLAMA_MAX_QUEUE` (512) |
//! | health | `/`, `/api/version`, `/health`, `/ready`, `/metrics`, `/status` and its files | 2 | 1,024 |
//! | probe | `/openai/health` | 2 | 1,024 |
//!
//! Responses to refused requests are written by up to 4 threads of their own; preflights are answered in the
//! health lane. A request that finds workers and queue full gets 503 at once, with `Retry-After`. The same
//! response goes to a request above `MAX_PER_CLIENT` requests of its address, and to a request in
//! the main lane while memory is short and other work is running. A handler that panics costs only
//! its own response.
//!
//! # Start
//!
//! All options are read and checked first; the exit code is 1 after any wrong value, an unreadable
//! key file or a damaged state file. Workers and connections are fitted to the limits of the
//! process ([`crate::net`]). On an address that is not loopback, without client keys, a warning
//! says so.
//!
//! On a terminal the start shows five lines (`start_lines`); elsewhere it is one line of the log.
//!
//! `--check` reads the state file and fetches the model lists of all upstreams once, at the same time; the
//! exit code is 1 if one of them fails. It prints a table, then the details and the configuration without
//! keys, or with `--json` one object. `--healthcheck` requests `/health` from the address of the same
//! configuration and ends within 3 s.
//!
//! # Shutdown
//!
//! SIGTERM or SIGINT starts a graceful shutdown within `SHUTDOWN_GRACE` (30 s):
//!
//! 1. New connections are refused; those that the kernel has accepted already are served.
//! 2. `/ready` returns 503. Running responses complete, and each open connection is served once
//!    more, with `Connection: close`. Requests that wait for a retry get 503.
//! 3. The process ends when no request was active for 50 ms, confirmed by two scans of the guard.
//!
//! A second signal ends the process at once with exit code 128 plus the signal's number.
//!
//! # Reload
//!
//! SIGHUP reads file, `.env`, key files and client keys anew. A mistake changes nothing and is logged.
//! Otherwise requests from then on use the new configuration, and those that run keep theirs:
//!
//! - An upstream whose settings and files stay the same keeps its connections, its circuit and what was
//!   learnt of it; any other one begins anew. What was removed ends with its last request.
//! - Client keys, origins, log level and form, and the options of requests apply at once. A warning names the options
//!   that only a restart changes.
//! - Signals that arrive during a reload cause one more. Before the server listens a signal has the same
//!   effect as just after; during the shutdown it has none. If the terminal is gone that the program was
//!   started in, SIGHUP ends it.
//!
//! # Health
//!
//! | route | result |
//! | --- | --- |
//! | `/health` | 200 while the process runs; needs no key |
//! | `/ready` | 200 if a request would be served now; 503 on shutdown, full queue or if all circuits are open |
//! | `/openai/health` | 200 or 503 after one request for the model list of each upstream, of at most 10 s |
//!
//! Only `/openai/health` calls the upstreams, also while their circuits are open. It reports their states,
//! and how many attempts were made and failed; one upstream that answers is enough for a 200.
//!
//! # Status page
//!
//! `/status` is a page for people, `/status.json` has what it shows ([`crate::handlers`], `status`): what is
//! known already, and what [`crate::observe::board`] keeps of requests. Looking fetches the list of an upstream
//! at most once a minute, and waits for nothing.
//!
//! # Limits of the design
//!
//! - The connection guard works on Linux only. On other systems put a reverse proxy in front.
//! - There is no TLS for clients: a reverse proxy does that.

pub mod check;
pub(crate) mod dispatcher;
pub mod healthcheck;
mod key_counts;
mod outcome;
mod reload;
pub mod server;
pub mod shutdown;
pub mod start_lines;
