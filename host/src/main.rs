//! The binary `weft`.

use std::process::ExitCode;

/// Instances are made and dropped by the ten thousand a second, from several threads at once; mimalloc takes a tenth
/// off the cost of that against the system's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weft_host::cli::main()
}
