//! libFuzzer's way to the body `config`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("config").expect("a target").body)(data));
