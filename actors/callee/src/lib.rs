//! What `caller` calls: returns what it is given, in each kind of type, or ends in the way that the function names.

wit_bindgen::generate!({ world: "callee", path: "../call" });

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use exports::test::call::echo::{Everything, Guest, Point, Shape};

const HOARD_STEP_LEN: usize = 1024 * 1024;

static CALLS: AtomicU32 = AtomicU32::new(0);

struct Callee;

export!(Callee);

impl Guest for Callee {
    fn bytes(value: Vec<u8>) -> Vec<u8> {
        value
    }

    fn text(value: String) -> String {
        value
    }

    fn mix(value: Everything) -> Everything {
        value
    }

    fn sum(first: u32, rest: Vec<u64>, more: Option<i32>) -> i64 {
        let rest = rest.into_iter().fold(0, u64::wrapping_add);
        i64::from(first)
            .wrapping_add(rest.cast_signed())
            .wrapping_add(more.unwrap_or_default().into())
    }

    fn nothing() {}

    fn refuse(reason: String) -> Result<Point, Shape> {
        Err(Shape::Named(reason))
    }

    fn trap() {
        panic!("the callee was asked to trap");
    }

    fn burn() {
        let mut turns = 0_u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    fn hoard() {
        let mut hoard = Vec::new();
        loop {
            hoard.push(black_box(vec![1_u8; HOARD_STEP_LEN]));
        }
    }

    fn wait(milliseconds: u32) -> u32 {
        std::thread::sleep(Duration::from_millis(milliseconds.into()));
        milliseconds
    }

    fn deep(n: u32) -> u32 {
        match n.checked_sub(1) {
            Some(rest) => test::call::echo::deep(rest) + 1,
            None => 0,
        }
    }

    fn repeat(n: u32, len: u32) -> Vec<u64> {
        let bytes = vec![7; len as usize];
        let mut times = Vec::with_capacity(n as usize);
        let mut before = Instant::now();
        for _ in 0..n {
            let back = test::call::echo::bytes(&bytes);
            assert_eq!(back.len(), bytes.len(), "a call returned something else");
            let now = Instant::now();
            let nanos = now.duration_since(before).as_nanos();
            times.push(u64::try_from(nanos).unwrap_or(u64::MAX));
            before = now;
        }
        times
    }

    fn calls_before() -> u32 {
        CALLS.fetch_add(1, Ordering::Relaxed)
    }
}
