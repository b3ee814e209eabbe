//! Numbers from files of `/proc` and of control groups that hold one `NAME value` per line.

use std::fs;

/// The number that `name` has in the file; `None` if the file or the name is missing, as on other
/// systems than Linux.
pub fn read(path: &str, name: &str) -> Option<u64> {
    parse(&fs::read_to_string(path).ok()?, name)
}

/// The number that `name` has in the text, written `NAME 1` or `NAME:  1 kB`; a unit is ignored.
pub fn parse(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([':', ' ']))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let check = |text, expected| assert_eq!(parse(text, "VmRSS"), expected, "{text:?}");
        check("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t3\n", Some(2048));
        check("VmRSS 7\n", Some(7));
        check("VmRSSX:\t1\nVmRSS:\t2 kB\n", Some(2));
        check("Name:\tx\n", None);
        check("VmRSS:\tmuch\n", None);
    }
}
