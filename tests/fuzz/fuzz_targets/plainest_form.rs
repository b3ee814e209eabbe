//! libFuzzer's way to the body `plainest_form`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| (fuzz::find("plainest_form").expect("a target").body)(data));
