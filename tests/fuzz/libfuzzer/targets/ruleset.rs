//! Feeds `fuzz::ruleset`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::ruleset(bytes));
