//! Any bytes as a message between hosts.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_lattice_fuzz::message(bytes));
