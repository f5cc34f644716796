//! Any conversation through the session.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| turnstile::fuzzing::session(bytes));
