//! libFuzzer's way to the body `responses_items`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("responses_items").expect("a target").body)(data));
