//! libFuzzer's way to the body `vectors`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("vectors").expect("a target").body)(data));
