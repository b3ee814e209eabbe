//! libFuzzer's way to the body `durations`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("durations").expect("a target").body)(data));
