//! What it asks is said in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portlease::fuzzing::sock_diag(bytes));
