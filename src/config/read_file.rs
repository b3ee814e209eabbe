//! Reads small files that the configuration names.
//!
//! Never changes a file. Invariant: no message holds anything of a file, nor its path, because a user may
//! have put a key in its place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::observe::system_error::describe_read;

/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The bytes of a file.
///
/// # Errors
/// Why it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| describe_read(&error))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| describe_read(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("the file is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}
