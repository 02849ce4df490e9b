//! Takes processor time: in turns that can be interrupted, and in single instructions that can't.

use std::hint::black_box;

/// As much as one instruction works on: most of a memory of 64 MiB.
const BLOCK_LEN: usize = 24 << 20;

pub fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// One `memory.fill` after the other. No tick is looked at inside of one.
pub fn fill() -> ! {
    let mut block = vec![0_u8; BLOCK_LEN];
    let mut byte = 0_u8;
    loop {
        byte = black_box(byte.wrapping_add(1));
        block.fill(byte);
        black_box(&mut block);
    }
}

/// The same by `memory.copy`.
pub fn copy() -> ! {
    let mut block = vec![0_u8; 2 * BLOCK_LEN];
    loop {
        block.copy_within(..BLOCK_LEN, BLOCK_LEN);
        black_box(&mut block);
    }
}

pub fn recurse() -> String {
    format!("{}\n", depth(black_box(0)))
}

#[expect(unconditional_recursion, reason = "the stack has to run out")]
#[inline(never)]
fn depth(level: u64) -> u64 {
    // The frame is in use after the call, so that the call can't become a jump.
    let frame = black_box([level; 32]);
    depth(level + 1) + frame[31]
}
