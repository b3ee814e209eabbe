//! libFuzzer's way to the body `manage`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("manage").expect("a target").body)(data));
