//! Any bytes as a stream of messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| turnstile::fuzzing::framing(bytes));
