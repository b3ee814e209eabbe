//! libFuzzer's way to the body `template`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("template").expect("a target").body)(data));
