//! libFuzzer's way to the body `context`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("context").expect("a target").body)(data));
