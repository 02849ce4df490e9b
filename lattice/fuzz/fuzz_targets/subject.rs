//! Any names as parts of a subject.

#![no_main]

libfuzzer_sys::fuzz_target!(|names: (&str, &str, &str)| weft_lattice_fuzz::subject(
    names.0, names.1, names.2
));
