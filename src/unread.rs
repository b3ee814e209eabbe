//! Requests whose body is not read: too large, or broken off.
//!
//! tiny_http 0.12 reads the rest of a body when a request is dropped, in one buffer as large as the
//! length that the client *claimed*: a claim of a petabyte ends the process. So a request with an
//! unread body is never dropped as it is. The answer goes out first (tiny_http offers that only for
//! an interim `100 Continue`, behind which ours follows), then a few threads read the rest away
//! until the client, who was told that the connection closes, leaves. What claims more than can
//! safely be dropped is let go of without being dropped: that leaks one parked thread and one
//! connection, which is the lesser evil, and is logged.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tiny_http::{ReadWrite, Request, Response, StatusCode};

/// The largest claim for which tiny_http may allocate a buffer: virtual memory that is not touched.
const SAFE_CLAIM: usize = 1 << 30;

/// Bodies below this are read by tiny_http itself, before we see the request.
const SMALL: usize = 1024;

/// Threads that read bodies away, at most.
const LINGERERS: usize = 16;

/// Bytes that are read away, at most; then the connection is let go.
const LINGER_BYTES: usize = 256 * 1024 * 1024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Whether nothing of the request's body can be unread.
#[must_use]
pub fn has_none(request: &Request) -> bool {
    let chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
    let expects = request.headers().iter().any(|header| header.field.equiv("Expect"));
    !chunked && !expects && request.body_length().is_none_or(|length| length <= SMALL)
}

/// Sends `answer`, a whole head and body, to a request whose body stays unread.
pub fn refuse(request: Request, answer: &[u8]) {
    let claim = request.body_length();
    let interim = Response::new_empty(StatusCode(100));
    let mut stream = request.upgrade("close", interim);
    // A client that is gone cannot be told.
    let _ = stream.write_all(answer).and_then(|()| stream.flush());
    if claim.is_some_and(|length| length > SAFE_CLAIM) {
        log::warn!("a request claims {} bytes; its connection is let go", claim.unwrap_or(0));
        std::mem::forget(stream);
    } else {
        linger(stream);
    }
}

/// Reads the rest of a body away on a thread of its own, if one is left.
fn linger(stream: Box<dyn ReadWrite + Send>) {
    if LINGERING.fetch_add(1, Ordering::AcqRel) >= LINGERERS {
        LINGERING.fetch_sub(1, Ordering::AcqRel);
        log::warn!("too many unread bodies at once; a connection is let go");
        std::mem::forget(stream);
        return;
    }
    let spawned = thread::Builder::new().name("unread".into()).spawn(move || {
        read_away(stream);
        LINGERING.fetch_sub(1, Ordering::AcqRel);
    });
    if spawned.is_err() {
        LINGERING.fetch_sub(1, Ordering::AcqRel);
    }
}

fn read_away(mut stream: Box<dyn ReadWrite + Send>) {
    let mut buffer = [0; 16 * 1024];
    let mut read = 0;
    while read < LINGER_BYTES {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => read += length,
        }
    }
    std::mem::forget(stream);
}
