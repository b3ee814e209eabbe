//! SHA-256 digests as text, in the form of model digests.

use ring::digest::{SHA256, digest};

/// The SHA-256 digest of `bytes` in 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
