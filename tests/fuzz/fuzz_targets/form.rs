//! libFuzzer's way to the body `form`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("form").expect("a target").body)(data));
