//! Faults that no answer follows: a trap, or a use of something without end.

use std::hint::black_box;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::Fields;

/// Traps. A test looks for this function's name in the backtrace.
#[inline(never)]
pub fn deep_in_the_guest() -> ! {
    trap()
}

/// `process::abort` is one `unreachable` instruction on this target, without a message before it.
fn trap() -> ! {
    std::process::abort()
}

pub fn spin() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

pub fn recurse() {
    black_box(depth(0));
}

#[expect(unconditional_recursion, reason = "the stack has to run out")]
#[inline(never)]
fn depth(level: u64) -> u64 {
    // The frame is in use after the call, so that the call can't become a jump.
    let frame = black_box([level; 32]);
    depth(level + 1) + frame[31]
}

/// Takes and touches a MiB at a time, and traps when it gets no more.
pub fn fill_memory() {
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

pub fn keep_fields() {
    keep(Fields::new);
}

pub fn keep_pollables() {
    keep(|| monotonic_clock::subscribe_duration(u64::MAX));
}

fn keep<T>(mut make: impl FnMut() -> T) {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(make()));
    }
}
