//! libFuzzer's way to the body `sse`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("sse").expect("a target").body)(data));
