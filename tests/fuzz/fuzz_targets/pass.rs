//! libFuzzer's way to the body `pass`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("pass").expect("a target").body)(data));
