//! `src/fuzzing.rs` states the property that this target checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portlease::fuzzing::proc_net(bytes));
