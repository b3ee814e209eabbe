//! libFuzzer's way to the body `generate`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("generate").expect("a target").body)(data));
