//! libFuzzer's way to the body `embed`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("embed").expect("a target").body)(data));
