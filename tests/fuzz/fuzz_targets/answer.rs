//! libFuzzer's way to the body `answer`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("answer").expect("a target").body)(data));
