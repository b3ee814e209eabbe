//! Parses a `.env` file: bytes in, names and values out, and one problem per malformed line.
//!
//! dotenvy knows the grammar (quotes, comments, `export`, `$NAME` from earlier lines or the
//! environment); this module adds line numbers. Never opens a file or changes the environment.
//! Invariant: a problem names the line and never quotes it, because it may hold a key.

use std::cell::Cell;
use std::io::{self, Read};

/// Every assignment in order, and a problem for every malformed line.
pub fn parse(bytes: &[u8]) -> (Vec<(String, String)>, Vec<String>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // Bytes that are not UTF-8 become U+FFFD, which no option accepts.
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    // dotenvy rejects a last line that ends in a space, unless a newline follows.
    text.push('\n');

    let consumed = Cell::new(0);
    let lines = LineReader { rest: text.as_bytes(), lines_read: &consumed };
    let mut pairs = Vec::new();
    let mut problems = Vec::new();
    for item in dotenvy::from_read_iter(lines) {
        match item {
            Ok(pair) => pairs.push(pair),
            Err(dotenvy::Error::LineParse(entry, _)) => {
                let first = consumed.get() + 1 - entry.lines().count().clamp(1, consumed.get());
                problems.push(format!(
                    ".env:{first}: expected NAME=value (quote a value that contains spaces)"
                ));
            }
            Err(_) => problems.push(".env: cannot read the file".to_owned()),
        }
    }
    (pairs, problems)
}

/// Returns one line per read, so that a buffered reader stays at the line that is parsed.
struct LineReader<'a> {
    rest: &'a [u8],
    lines_read: &'a Cell<usize>,
}

impl Read for LineReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |at| at + 1);
        let length = end.min(buffer.len());
        let (line, rest) = self.rest.split_at(length);
        buffer[..length].copy_from_slice(line);
        self.rest = rest;
        if line.ends_with(b"\n") {
            self.lines_read.set(self.lines_read.get() + 1);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)], broken: &[usize]) {
        let (pairs, problems) = parse(text.as_bytes());
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, expected, "{text:?}");
        assert_eq!(problems.len(), broken.len(), "{text:?}: {problems:?}");
        for (problem, line) in problems.iter().zip(broken) {
            assert!(problem.starts_with(&format!(".env:{line}: ")), "{text:?}: {problem}");
            assert!(!problem.contains("s3cret"), "{text:?}: {problem}");
        }
    }

    #[test]
    fn assignments_are_read_with_their_quotes() {
        check("", &[], &[]);
        check(
            "A=1\nexport B='x y'\r\n# no\n\nC=\"z\" # why\n",
            &[("A", "1"), ("B", "x y"), ("C", "z")],
            &[],
        );
        check("\u{feff}A=1", &[("A", "1")], &[]);
        check("A=1 ", &[("A", "1")], &[]);
        check("A=\nB=1", &[("A", ""), ("B", "1")], &[]);
        check("A=1\nB=${A}2", &[("A", "1"), ("B", "12")], &[]);
    }

    #[test]
    fn broken_lines_are_named_by_number_and_the_others_are_read() {
        check("s3cret", &[], &[1]);
        check("A=1\n\n# no\ns3cret key\nB=2\n", &[("A", "1"), ("B", "2")], &[4]);
        check("A=s3cret two\nB=2\n1C=s3cret\n", &[("B", "2")], &[1, 3]);
        check("A=1\nB='s3cret\nC=3\n", &[("A", "1")], &[2]);
        check("A=1\nB='s3\ncret' s3cret\nC=3", &[("A", "1"), ("C", "3")], &[2]);
    }

    #[test]
    fn a_line_longer_than_any_buffer_is_one_line() {
        let long = "x".repeat(100_000);
        check(&format!("A={long}\ns3cret"), &[("A", &long)], &[2]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_marked() {
        let (pairs, problems) = parse(b"A=\xff\nB=1");
        assert_eq!(
            pairs,
            [("A".to_owned(), "\u{fffd}".to_owned()), ("B".to_owned(), "1".to_owned())]
        );
        assert_eq!(problems, [""; 0]);
    }
}
