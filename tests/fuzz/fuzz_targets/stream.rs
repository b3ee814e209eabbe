//! libFuzzer's way to the body `stream`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("stream").expect("a target").body)(data));
