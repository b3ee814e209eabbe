//! libFuzzer's way to the body `key_file`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("key_file").expect("a target").body)(data));
