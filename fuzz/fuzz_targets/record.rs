//! `src/fuzzing.rs` documents the properties.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portlease::fuzzing::record(bytes));
