//! libFuzzer's way to the body `repair`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("repair").expect("a target").body)(data));
