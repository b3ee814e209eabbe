//! libFuzzer's way to the body `base_url`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("base_url").expect("a target").body)(data));
