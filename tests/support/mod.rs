//! What the tests share: a scripted upstream, the proxy in front of it, a raw client, the table of all
//! requests, and the shapes of responses.
//!
//! Tests run in parallel: everything that a test starts ends with it, and only one test at a time holds
//! hundreds of connections ([`crowd`]). Servers listen on port 0. Channels define the order of events; a
//! wait has a deadline only so that a hang becomes a failure.

#![allow(dead_code)] // Each test file uses its own part.

pub mod bench;
pub mod fleet;
pub mod forward_proxy;
pub mod golden;
pub mod members;
pub mod ollama;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod reserved;
pub mod restarting;
pub mod shape;
pub mod tls_server;
pub mod upstream;

pub use bench::*;
pub use crossbeam_channel::bounded;
pub use proxy::{KEY, Proxy, asking_once, full_queue, pair, pair_with};
pub use raw::*;
pub use serde_json::{Value, json};
pub use upstream::*;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After this long a test hangs.
pub const HANG: Duration = Duration::from_secs(30);

/// Held by tests with hundreds of connections, so that two crowds together do not take more
/// descriptors than the usual limit of 1,024 allows.
pub fn crowd() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}
