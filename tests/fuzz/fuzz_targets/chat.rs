//! libFuzzer's way to the body `chat`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("chat").expect("a target").body)(data));
