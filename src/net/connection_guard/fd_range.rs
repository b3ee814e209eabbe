//! The highest open descriptor of the process.
//!
//! The kernel assigns the lowest free number, so after other files are closed the last connection can
//! lie far behind a gap. Asks the kernel which numbers are open (`poll`), and `/proc`, if mounted, for
//! the size of the descriptor table. Never touches what a number stands for.

use std::os::fd::RawFd;

use crate::net::sys::{self, POLL_BATCH};
use crate::observe::proc_field;

/// Size of the descriptor table that is assumed without `/proc`.
const DEFAULT_TABLE_SIZE: RawFd = 64 * 1024;

/// The highest open descriptor or a number up to [`POLL_BATCH`] above it; `start` if none from
/// `start` on is open. `known` is an open one: a size of the table without room for it is not believed.
pub(super) fn last_open_fd(start: RawFd, known: RawFd) -> RawFd {
    let mut end = end_of_table(fd_table_size(), known);
    while end > start {
        let from = (end - POLL_BATCH as RawFd).max(start);
        if sys::has_open_fd(from..end) {
            return end;
        }
        end = from;
    }
    start
}

fn end_of_table(told: Option<RawFd>, known: RawFd) -> RawFd {
    told.filter(|&size| size > known).unwrap_or(DEFAULT_TABLE_SIZE)
}

/// Size of the kernel's descriptor table for this process.
fn fd_table_size() -> Option<RawFd> {
    let size = proc_field::read("/proc/self/status", "FDSize")?;
    RawFd::try_from(size).ok().filter(|&size| size > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_table_without_room_for_a_known_descriptor_is_not_believed() {
        assert_eq!(end_of_table(Some(256), 255), 256);
        assert_eq!(end_of_table(Some(64), 64), DEFAULT_TABLE_SIZE);
        assert_eq!(end_of_table(None, 3), DEFAULT_TABLE_SIZE);
    }

    #[test]
    fn what_lies_behind_a_gap_is_found() {
        let null = || File::open("/dev/null").expect("it is there");
        let gap: Vec<File> = (0..200).map(|_| null()).collect();
        let far = null().as_raw_fd();
        let behind = null();
        drop(gap);
        assert!(behind.as_raw_fd() >= far);
        assert!(fd_table_size().is_some_and(|room| room > behind.as_raw_fd()));
        let found = last_open_fd(0, 0);
        assert!(found >= behind.as_raw_fd(), "{found}");
        let beyond = fd_table_size().expect("it was told") + 10;
        assert_eq!(last_open_fd(beyond, 0), beyond);
    }
}
