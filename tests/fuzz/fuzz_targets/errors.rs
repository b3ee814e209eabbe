//! libFuzzer's way to the body `errors`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("errors").expect("a target").body)(data));
