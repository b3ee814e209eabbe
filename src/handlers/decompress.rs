//! Request bodies that clients compress.
//!
//! Codex sends zstd; no other encoding is decoded. The decompressed size has a limit of its own,
//! because a small body may decompress to any size.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use super::Context;
use crate::error::{Error, Result};
use crate::net::memory_budget::STEP_BYTES;

/// The largest decompressed body, in bytes.
const MAX_DECOMPRESSED_BYTES: usize = 20 * 1024 * 1024;

/// Bytes that are decompressed at once.
const PART_BYTES: usize = 64 * 1024;

/// The largest window of a frame, in bytes. It is allocated before anything is decompressed, so a body
/// of some bytes could otherwise claim 128 MiB.
const MAX_WINDOW_BYTES: u64 = 32 * 1024 * 1024;

/// True if the body is compressed with zstd.
pub(super) fn is_compressed(context: &Context<'_>) -> bool {
    let encoding = context.exchange.header("Content-Encoding").unwrap_or_default();
    encoding.trim().eq_ignore_ascii_case("zstd")
}

/// Reads a body and decompresses it.
///
/// # Errors
/// Those of reading it, and [`Error::InvalidRequest`] for a body that is not valid zstd.
pub(super) fn read_body(context: &mut Context<'_>) -> Result<Vec<u8>> {
    let packed = is_compressed(context);
    let body = context.exchange.read_body(context.app.max_body_bytes())?;
    let body = if packed {
        // The output, and the window of it that the decoder holds.
        decompress(&body, &mut |bytes| context.exchange.charge(2 * bytes + STEP_BYTES))?
    } else {
        body
    };
    context.log_body(&body);
    Ok(body)
}

/// Decompresses a body.
///
/// # Errors
/// [`Error::InvalidRequest`] for a body that is not valid zstd, [`Error::BodyTooLarge`] above the
/// limit.
pub fn decompress_zstd(body: &[u8]) -> Result<Vec<u8>> {
    decompress(body, &mut |_| Ok(()))
}

/// The same; `charge` is called before each part of the output is made.
fn decompress(body: &[u8], charge: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<u8>> {
    let wrong = || Error::invalid_request("failed to decompress request body");
    let mut rest = body;
    let mut out = Vec::new();
    // A body may consist of several frames.
    while !rest.is_empty() {
        let decoder = StreamingDecoder::new_with_max_window_size(&mut rest, MAX_WINDOW_BYTES);
        let mut decoder = decoder.map_err(|_| wrong())?;
        loop {
            charge(PART_BYTES)?;
            let part = decoder.by_ref().take(PART_BYTES as u64);
            match { part }.read_to_end(&mut out).map_err(|_| wrong())? {
                _ if out.len() > MAX_DECOMPRESSED_BYTES => {
                    return Err(Error::BodyTooLarge(MAX_DECOMPRESSED_BYTES));
                }
                PART_BYTES => {}
                _ => break,
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    #[test]
    fn frames_are_unfolded_one_after_the_other() {
        let both = [packed(b"{\"a\":"), packed(b"1}")].concat();
        assert_eq!(decompress_zstd(&both).expect("good frames"), b"{\"a\":1}");
        assert_eq!(decompress_zstd(b"").expect("nothing"), b"");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let cut = packed(&[b'x'; 4096]);
        for wrong in [b"{\"a\":1}".as_slice(), &cut[..cut.len() - 2], &[0x28, 0xb5, 0x2f, 0xfd]] {
            let error = decompress_zstd(wrong).expect_err("no frame");
            assert_eq!(error.message(), "failed to decompress request body");
            assert_eq!(error.status(), Some(400));
        }
    }

    #[test]
    fn a_frame_cannot_have_much_memory_set_aside() {
        // An empty frame whose second byte behind the magic number is the size of its window.
        let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
        assert_eq!(decompress_zstd(&frame(15 << 3)).expect("32 MiB"), b"");
        assert_eq!(decompress_zstd(&frame(17 << 3)).expect_err("128 MiB").status(), Some(400));
    }

    #[test]
    fn a_body_that_unfolds_without_end_is_refused() {
        let at_the_limit = packed(&vec![0; MAX_DECOMPRESSED_BYTES]);
        assert_eq!(decompress_zstd(&at_the_limit).expect("just so").len(), MAX_DECOMPRESSED_BYTES);
        let above = [at_the_limit, packed(b"x")].concat();
        assert_eq!(decompress_zstd(&above).expect_err("too much").status(), Some(413));
    }
}
