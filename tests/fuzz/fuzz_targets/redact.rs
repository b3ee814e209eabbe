//! libFuzzer's way to the body `redact`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("redact").expect("a target").body)(data));
