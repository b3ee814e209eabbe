//! How far the numbers of descriptors go.
//!
//! The kernel gives the lowest free number, so the last one that is open may lie far behind a gap that
//! others have left. Asks the kernel which numbers are open, and `/proc`, where there is one, how many
//! its table has room for. Never touches what a number stands for.

use std::fs;
use std::os::fd::RawFd;

use crate::net::sys;
use crate::net::sys::POLL_BATCH;

/// How far is searched where nobody tells.
const DEFAULT_TABLE_SIZE: RawFd = 64 * 1024;

/// The last number that is open, or one not far behind it; `start` where none from there on is.
pub(super) fn last_open_fd(start: RawFd) -> RawFd {
    let mut end = fd_table_size().unwrap_or(DEFAULT_TABLE_SIZE);
    while end > start {
        let from = (end - POLL_BATCH as RawFd).max(start);
        if sys::has_open_fd(from..end) {
            return end;
        }
        end = from;
    }
    start
}

/// For how many descriptors the kernel's table has room.
fn fd_table_size() -> Option<RawFd> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"))?;
    size.trim().parse().ok().filter(|&size| size > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_lies_behind_a_gap_is_found() {
        let null = || File::open("/dev/null").expect("it is there");
        let gap: Vec<File> = (0..200).map(|_| null()).collect();
        let far = null().as_raw_fd();
        let behind = null();
        drop(gap);
        assert!(behind.as_raw_fd() >= far);
        assert!(fd_table_size().is_some_and(|room| room > behind.as_raw_fd()));
        let found = last_open_fd(0);
        assert!(found >= behind.as_raw_fd(), "{found}");
        let beyond = fd_table_size().expect("it was told") + 10;
        assert_eq!(last_open_fd(beyond), beyond);
    }
}
