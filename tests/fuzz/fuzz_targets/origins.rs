//! libFuzzer's way to the body `origins`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("origins").expect("a target").body)(data));
