//! Panics, without their messages, and those that are no error of this program.
//!
//! The message of a panic is left out because it can quote a string, which may be a prompt; the place in
//! the source is enough to find the cause. It begins with the crate and not with the folder of the
//! machine that built the program.
//!
//! Clients can make the HTTP server's crate panic as often as they like by resetting connections; the
//! owner of that crate knows the panic ([`count_as_reset`]). It is counted and not told; all others are
//! told as errors.

use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static CONNECTIONS_RESET: AtomicU64 = AtomicU64::new(0);

/// Whether a panic only shows that a client has reset its connection, by the file from its crate on, and
/// by the message.
pub type IsReset = fn(&str, &str) -> bool;

static IS_RESET: OnceLock<IsReset> = OnceLock::new();

/// Counts panics for which this holds as connections that were reset.
pub fn count_as_reset(is_reset: IsReset) {
    IS_RESET.get_or_init(|| is_reset);
}

/// Connections that their clients reset before their request was taken.
pub fn connections_reset() -> u64 {
    CONNECTIONS_RESET.load(Ordering::Relaxed)
}

/// Logs or counts each panic from now on.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let (place, is_reset) = describe(info);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if is_reset {
            CONNECTIONS_RESET.fetch_add(1, Ordering::Relaxed);
            log::debug!("a client reset its connection before its request was taken ({place})");
        } else {
            log::error!("thread {thread:?} panicked at {place}");
        }
    }));
}

/// The place of a panic, and whether it only shows that a client has reset its connection.
fn describe(info: &PanicHookInfo<'_>) -> (String, bool) {
    let Some(location) = info.location() else { return (String::new(), false) };
    let file = without_folders(location.file());
    let message = info.payload().downcast_ref::<String>().map_or("", String::as_str);
    let place = format!("{file}:{}:{}", location.line(), location.column());
    (place, IS_RESET.get().is_some_and(|is_reset| is_reset(file, message)))
}

/// The path of a source file from its crate on.
fn without_folders(path: &str) -> &str {
    let is_absolute = path.starts_with('/') || path.get(1..2) == Some(":");
    let is_standard = path.starts_with("/rustc/") || path.contains("/rustlib/src/");
    if let Some(place) = path.find("/library/").filter(|_| is_standard) {
        return &path[place + 1..];
    }
    if !is_absolute {
        return path;
    }
    let last = |text: &str| text.rfind(['/', '\\']).map_or(0, |slash| slash + 1);
    // The folder that holds the sources is in that of the crate.
    let in_crate = path.rfind("/src/").filter(|&end| !path[..end].ends_with("/registry"));
    &path[last(in_crate.map_or(path, |end| &path[..end]))..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_name_crates_and_not_the_folders_they_were_built_in() {
        for (path, expected) in [
            ("src/app/server.rs", "src/app/server.rs"),
            (
                "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/a_crate-0.12.0/src/client.rs",
                "a_crate-0.12.0/src/client.rs",
            ),
            ("a_crate-0.12.0/src/client.rs", "a_crate-0.12.0/src/client.rs"),
            ("/rustc/59807616e/library/std/src/thread/mod.rs", "library/std/src/thread/mod.rs"),
            ("/home/me/patched/src/src/lib.rs", "src/src/lib.rs"),
            ("/home/me/patched/src/lib.rs", "patched/src/lib.rs"),
            ("/home/me/build.rs", "build.rs"),
            ("/home/me/.cargo/registry/src/index/a_crate-1.0/build.rs", "build.rs"),
            (r"C:\me\x.rs", "x.rs"),
        ] {
            assert_eq!(without_folders(path), expected);
        }
    }
}
