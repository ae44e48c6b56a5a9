//! Feeds `fuzz::registrations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::registrations(bytes));
