//! libFuzzer's way to the body `models`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("models").expect("a target").body)(data));
