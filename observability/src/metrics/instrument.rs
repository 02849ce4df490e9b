//! The numbers themselves: a counter and a histogram that many threads record into without waiting for each
//! other.
//!
//! Owns the layout in memory. Must not know names or attributes; [`super`] puts those around it.
//!
//! Why not the SDK's instruments: a record there takes a lock per reader, which is 21 ns on one thread and up
//! to 200 ns when two threads meet, and a request records six. These cost 16 to 34 ns either way, and no more
//! when a second reader comes (`examples/record_cost.rs` measures both; README.md has the spread).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One more than the longest list of bounds.
const BUCKETS_MAX: usize = 18;
/// Copies of a histogram, so that threads seldom share a cache line. More cost memory per actor.
const SHARDS_MAX: usize = 8;

/// The inner upper bounds of a histogram's buckets, inclusive and ascending, in the unit that is recorded.
pub(crate) type Bounds = &'static [u64];

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often values fell into each bucket, and their sum. Has no memory behind it until the first record.
pub(crate) struct Histogram {
    bounds: Bounds,
    shards: OnceLock<Box<[Shard]>>,
}

/// Aligned to two cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Shard {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MAX],
}

/// What a histogram held at one moment. Records that come in meanwhile may be in the buckets and not in the
/// sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistogramValue {
    pub(crate) bounds: Bounds,
    /// One more than there are bounds; each value is in one bucket.
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: u64,
}

impl HistogramValue {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Histogram {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        assert!(bounds.len() < BUCKETS_MAX);
        Self {
            bounds,
            shards: OnceLock::new(),
        }
    }

    pub(crate) fn record(&self, value: u64) {
        let shards = self.shards.get_or_init(new_shards);
        // The number of shards is a power of two.
        let shard = &shards[thread_number() & (shards.len() - 1)];
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// `None` before the first record.
    pub(crate) fn value(&self) -> Option<HistogramValue> {
        let shards = self.shards.get()?;
        let mut value = HistogramValue {
            bounds: self.bounds,
            buckets: vec![0; self.bounds.len() + 1],
            sum: 0,
        };
        for shard in shards {
            value.sum = value.sum.wrapping_add(shard.sum.load(Ordering::Relaxed));
            for (total, bucket) in value.buckets.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
        }
        Some(value)
    }
}

fn new_shards() -> Box<[Shard]> {
    static COUNT: OnceLock<usize> = OnceLock::new();
    // Twice the processors: the threads that record are numbered together with some that seldom do.
    let count = *COUNT.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors * 2).next_power_of_two().min(SHARDS_MAX)
    });
    (0..count)
        .map(|_| Shard {
            sum: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS_MAX],
        })
        .collect()
}

fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that ends has lost its number already: any shard will do.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&[10, 20]);
        assert_eq!(histogram.value(), None);
        for value in [0, 10, 11, 20, 21, 1000] {
            histogram.record(value);
        }
        let value = histogram.value().unwrap();
        assert_eq!(value.buckets, [2, 2, 2]);
        assert_eq!(value.sum, 1062);
        assert_eq!(value.count(), 6);
    }

    #[test]
    fn nothing_is_lost_when_many_threads_record() {
        let histogram = Histogram::new(&[10]);
        std::thread::scope(|scope| {
            for _ in 0..SHARDS_MAX * 2 {
                scope.spawn(|| (0..1000).for_each(|value| histogram.record(value)));
            }
        });
        let value = histogram.value().unwrap();
        let threads = SHARDS_MAX as u64 * 2;
        assert_eq!(value.buckets, [11 * threads, 989 * threads]);
        assert_eq!(value.sum, 499_500 * threads);
    }
}
