//! libFuzzer's way to the body `unpack`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("unpack").expect("a target").body)(data));
