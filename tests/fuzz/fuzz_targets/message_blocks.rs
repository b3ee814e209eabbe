//! libFuzzer's way to the body `message_blocks`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("message_blocks").expect("a target").body)(data));
