//! The two programs of `scripts/bench`: a scripted OpenAI server (`bench-upstream`) and a load
//! generator (`bench-load`) that speaks to Ollama's API or to OpenAI's.
//!
//! Each is one thread over one epoll, because neither may ever be the limit of what is measured.
//! Answers and requests are bytes prepared once; what comes in is searched for the few words that
//! matter and never parsed as JSON; no token costs an allocation. Invariant: what is counted does
//! not depend on where the bytes were cut on their way.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`system`], [`poll`] | the clocks, the limit of open files, epoll: all that asks the kernel |
//! | [`http`] | where a message ends: heads, `Content-Length`, chunked framing (pure) |
//! | [`tokens`] | lines, and the content tokens in them, in both shapes (pure) |
//! | [`model`] | what the name of a model asks for (pure) |
//! | [`histogram`], [`pacing`] | percentiles in bounded memory; when each token is due (pure) |
//! | [`upstream`] | the server: answers, connections, loop |
//! | [`load`] | the generator: options, requests, checks, connections, loop, report |

pub mod histogram;
pub mod http;
pub mod load;
pub mod model;
pub mod pacing;
pub mod poll;
pub mod system;
pub mod tokens;
pub mod upstream;
