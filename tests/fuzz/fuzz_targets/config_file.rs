//! libFuzzer's way to the body `config_file`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("config_file").expect("a target").body)(data));
