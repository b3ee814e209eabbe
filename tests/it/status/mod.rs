//! The status page: its files, who may read what it shows, and each part of that.

mod live;
mod page;
mod parts;
mod secrecy;

use std::time::Instant;

use crate::support::*;

/// What the page shows, once it is as expected: a request ends a moment after its response.
fn await_status(proxy: &Proxy, is_there: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = proxy.get("/status.json");
        if is_there(&status) {
            return status;
        }
        assert!(began.elapsed() < HANG, "{status:#}");
    }
}

/// The same, once so many requests have ended.
fn await_recent(proxy: &Proxy, count: usize) -> Value {
    await_status(proxy, |it| it["recent"].as_array().is_some_and(|list| list.len() == count))
}
