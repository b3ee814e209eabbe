//! libFuzzer's way to the body `names`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("names").expect("a target").body)(data));
