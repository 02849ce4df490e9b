//! Any bytes as an envelope.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_lattice_fuzz::envelope(bytes));
