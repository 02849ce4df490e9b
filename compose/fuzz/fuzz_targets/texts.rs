//! Any text as a name, a pattern, a unit, a key or a record.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| weft_compose_fuzz::texts(text));
