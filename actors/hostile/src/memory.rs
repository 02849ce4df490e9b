//! Takes memory: its own, and the host's by way of what it asks for.

use std::hint::black_box;

use crate::trap;

/// Takes and touches a MiB at a time.
pub fn take_all() -> ! {
    const BLOCK_LEN: usize = 1 << 20;
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = Vec::new();
        if block.try_reserve_exact(BLOCK_LEN).is_err() {
            trap();
        }
        block.resize(BLOCK_LEN, 0xa5);
        blocks.push(black_box(block));
    }
}

/// Takes a page at a time and touches none: as many calls of the host as pages.
pub fn grow_by_pages() -> ! {
    #[cfg(target_arch = "wasm32")] // Elsewhere it is only linted.
    while core::arch::wasm32::memory_grow(0, 1) != usize::MAX {}
    trap()
}

pub fn random(len: u64) -> String {
    format!(
        "{} random bytes\n",
        wasip2::random::random::get_random_bytes(len).len()
    )
}
