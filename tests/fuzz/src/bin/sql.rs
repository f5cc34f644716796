//! Any text through the analysis.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| turnstile::fuzzing::sql(bytes));
