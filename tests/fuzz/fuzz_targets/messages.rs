//! libFuzzer's way to the body `messages`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("messages").expect("a target").body)(data));
