//! Feeds `fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::headers(bytes));
