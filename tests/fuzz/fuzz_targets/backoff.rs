//! libFuzzer's way to the body `backoff`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("backoff").expect("a target").body)(data));
