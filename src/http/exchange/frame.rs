//! The chunks of a chunked body (RFC 9112 section 7.1).
//!
//! Never writes the last chunk, which is empty. Invariant: one line, one chunk.

/// Appends a chunk. Hand-written because it runs for each token, and formatting the length with
/// `write!` takes as long as everything else together.
pub(super) fn append_frame(out: &mut Vec<u8>, line: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let length = line.len();
    let nibbles = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..nibbles).rev().map(|place| DIGITS[length >> (place * 4) & 0xf]));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_length_in_hexadecimal() {
        for length in [1, 9, 15, 16, 255, 256, 4095, 4096, 0xF_FFFF, 0x10_0000] {
            let (line, mut out) = (vec![b'x'; length], b"before".to_vec());
            append_frame(&mut out, &line);
            let expected = format!("before{length:x}\r\n{}\r\n", "x".repeat(length));
            assert!(out == expected.as_bytes(), "{length}");
        }
    }
}
