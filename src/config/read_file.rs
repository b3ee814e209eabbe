//! Reads small files that the configuration names.
//!
//! Never changes a file. Invariant: no message holds anything of a file, nor its path, because a user may
//! have put a key in its place.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The bytes of a file.
///
/// # Errors
/// Why it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| describe(&error))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| describe(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("file larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// Why a file cannot be read.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        kind => format!("cannot read the file: {kind}"),
    }
}
