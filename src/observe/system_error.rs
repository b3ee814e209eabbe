//! Errors of the operating system and of name resolution, in words for log lines and messages.
//!
//! Never repeats the text of any other error, which may hold an address or a part of a file.
//! Invariant: a text is on one line, begins in lower case, and holds no number of an error.

use std::io::{self, ErrorKind};

/// How the standard library begins the text of a failed name lookup, which has no error kind.
const LOOKUP_PREFIX: &str = "failed to lookup address information";

/// How the words for a failed name lookup begin.
const LOOKUP_FAILURE: &str = "cannot resolve the host name";

/// What libraries of C say of a failed name lookup (glibc, musl, macOS), and what is said here.
const LOOKUPS: &[(&str, &str)] = &[
    ("Name or service not known", "no such name"),
    ("Name does not resolve", "no such name"),
    ("nodename nor servname provided, or not known", "no such name"),
    ("Temporary failure in name resolution", "the name server does not answer"),
    ("Try again", "the name server does not answer"),
    ("No address associated with hostname", "the name has no address"),
    ("Name has no usable address", "the name has no address"),
    ("Address family for hostname not supported", "the name has no address"),
    ("Non-recoverable failure in name resolution", "the name server failed"),
    ("Non-recoverable error", "the name server failed"),
];

/// The most open files of a process and of a machine, on all kinds of Unix.
#[cfg(unix)]
const EMFILE: i32 = 24;
#[cfg(unix)]
const ENFILE: i32 = 23;

/// What went wrong.
pub fn describe(error: &io::Error) -> String {
    if let Some(why) = lookup_failure(error) {
        return format!("{LOOKUP_FAILURE}: {why}");
    }
    if let Some(text) = describe_kind(error) {
        return text.to_owned();
    }
    match error.raw_os_error() {
        // The standard library appends the error's number to the system's text.
        Some(_) => {
            let text = error.to_string();
            lower_first(text.split(" (os error ").next().unwrap_or_default())
        }
        None => "unknown error".to_owned(),
    }
}

/// The words for an error of a connection, with the host's name where it could not be resolved: for operators,
/// who know it, and not for clients.
pub fn name_host(text: String, host: &str) -> String {
    match text.strip_prefix(LOOKUP_FAILURE) {
        Some(why) => format!("{LOOKUP_FAILURE} {host}{why}"),
        None => text,
    }
}

/// Why a file cannot be read.
pub fn describe_read(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::InvalidData => "not UTF-8 text".to_owned(),
        _ => format!("cannot read the file: {}", describe(error)),
    }
}

/// Why a thread cannot be started.
pub fn describe_spawn(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => "the limit of threads is reached (ulimit -u, pids.max)".to_owned(),
        _ => describe(error),
    }
}

/// The system's text in the form of Go, as Ollama prints it: in lower case and without the number.
pub fn system_text(error: &io::Error) -> Option<String> {
    error.raw_os_error()?;
    let text = error.to_string();
    Some(lower_first(text.split(" (os error ").next()?))
}

/// Why a name was not resolved.
fn lookup_failure(error: &io::Error) -> Option<String> {
    let text = error.to_string();
    let why = text.strip_prefix(LOOKUP_PREFIX)?.trim_start_matches(": ");
    let known = LOOKUPS.iter().find(|(system, _)| *system == why);
    Some(known.map_or_else(|| lower_first(why), |(_, words)| (*words).to_owned()))
}

/// The words for an error whose kind says all.
fn describe_kind(error: &io::Error) -> Option<&'static str> {
    #[cfg(unix)]
    match error.raw_os_error() {
        Some(EMFILE) => return Some("too many open files in this process (ulimit -n)"),
        Some(ENFILE) => return Some("too many open files on this machine"),
        _ => {}
    }
    Some(match error.kind() {
        ErrorKind::NotFound => "no such file or folder",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::IsADirectory => "it is a folder",
        ErrorKind::NotADirectory => "a part of the path is not a folder",
        ErrorKind::AlreadyExists => "it exists already",
        ErrorKind::StorageFull => "the disk is full",
        ErrorKind::QuotaExceeded => "the disk quota is used up",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        ErrorKind::FileTooLarge => "the file is too large",
        ErrorKind::InvalidFilename => "the name of the file is too long or not valid",
        ErrorKind::ResourceBusy => "it is in use",
        ErrorKind::InvalidData => "not valid data",
        ErrorKind::OutOfMemory => "out of memory",
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::ConnectionReset => "connection reset",
        ErrorKind::ConnectionAborted => "connection aborted",
        ErrorKind::BrokenPipe | ErrorKind::NotConnected | ErrorKind::UnexpectedEof => {
            "connection closed"
        }
        ErrorKind::NetworkUnreachable => "network unreachable",
        ErrorKind::HostUnreachable => "host unreachable",
        ErrorKind::NetworkDown => "the network is down",
        ErrorKind::AddrInUse => "address already in use",
        ErrorKind::AddrNotAvailable => "this machine does not have the address",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out",
        _ => return None,
    })
}

fn lower_first(text: &str) -> String {
    let (first, rest) = text.split_at_checked(1).unwrap_or(("", text));
    format!("{}{rest}", first.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(why: &str) -> io::Error {
        io::Error::other(format!("{LOOKUP_PREFIX}: {why}"))
    }

    #[test]
    fn errors_of_the_system_have_words_and_no_numbers() {
        for (code, expected) in [
            (libc::ENOENT, "no such file or folder"),
            (libc::EACCES, "permission denied"),
            (libc::EPERM, "permission denied"),
            (libc::EISDIR, "it is a folder"),
            (libc::ENOTDIR, "a part of the path is not a folder"),
            (libc::ENOSPC, "the disk is full"),
            (libc::EDQUOT, "the disk quota is used up"),
            (libc::EROFS, "the file system is read-only"),
            (libc::EFBIG, "the file is too large"),
            (libc::ENAMETOOLONG, "the name of the file is too long or not valid"),
            (libc::EBUSY, "it is in use"),
            (libc::EMFILE, "too many open files in this process (ulimit -n)"),
            (libc::ENFILE, "too many open files on this machine"),
            (libc::ECONNREFUSED, "connection refused"),
            (libc::ECONNRESET, "connection reset"),
            (libc::ENETUNREACH, "network unreachable"),
            (libc::EHOSTUNREACH, "host unreachable"),
            (libc::ETIMEDOUT, "timed out"),
            (libc::EADDRINUSE, "address already in use"),
            (libc::EADDRNOTAVAIL, "this machine does not have the address"),
            (libc::EIO, "input/output error"),
            (libc::ELOOP, "too many levels of symbolic links"),
        ] {
            assert_eq!(describe(&io::Error::from_raw_os_error(code)), expected, "{code}");
        }
    }

    #[test]
    fn every_error_that_linux_has_is_a_sentence_for_people() {
        for code in 1..=133 {
            let error = io::Error::from_raw_os_error(code);
            for text in [describe(&error), describe_read(&error), describe_spawn(&error)] {
                let is_plain = !text.contains("os error") && !text.contains("entity");
                let begins = !text.starts_with(char::is_uppercase);
                assert!(is_plain && begins, "{code}: {text}");
            }
        }
    }

    #[test]
    fn failed_lookups_say_whether_the_name_or_the_name_server_is_to_blame() {
        let prefix = "cannot resolve the host name: ";
        for (system, words) in LOOKUPS {
            assert_eq!(describe(&lookup(system)), format!("{prefix}{words}"));
        }
        assert_eq!(describe(&lookup("Bad thing")), format!("{prefix}bad thing"));
        let named = name_host(describe(&lookup("Try again")), "api.test");
        assert_eq!(named, "cannot resolve the host name api.test: the name server does not answer");
        assert_eq!(name_host("connection refused".to_owned(), "api.test"), "connection refused");
    }

    #[test]
    fn texts_of_other_errors_are_not_repeated() {
        let error = io::Error::other("http://user:s3cret@host/");
        assert_eq!(describe(&error), "unknown error");
        let text = io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        assert_eq!(describe_read(&text), "not UTF-8 text");
    }

    #[test]
    fn a_file_and_a_thread_have_words_of_their_own() {
        let error = io::Error::from_raw_os_error;
        assert_eq!(describe_read(&error(libc::ENOENT)), "no such file");
        assert_eq!(describe_read(&error(libc::EISDIR)), "cannot read the file: it is a folder");
        let threads = "the limit of threads is reached (ulimit -u, pids.max)";
        assert_eq!(describe_spawn(&error(libc::EAGAIN)), threads);
    }
}
