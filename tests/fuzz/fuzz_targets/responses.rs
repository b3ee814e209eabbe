//! libFuzzer's way to the body `responses`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("responses").expect("a target").body)(data));
