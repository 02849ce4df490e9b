//! What recording costs a request, beside the same numbers recorded with the OpenTelemetry SDK:
//! `cargo run --release -p weft-observability --example record_cost`.
//!
//! To be run on an idle machine: two threads that take turns on one processor do not meet.
//!
//! CPU time and not wall time, as other work on the machine would count otherwise. The tight loop is the
//! worst case of two threads that record at once; the loop with work between looks like requests do, at some
//! 2 us of work each.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use weft_observability::{HostMetrics, InvocationRecord, Outcome};

const ROUNDS: u64 = 300_000;
/// Of so many runs the fastest counts: the others were disturbed.
const RUNS: usize = 9;
const BOUNDS: [f64; 17] = [
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Histograms that a request records into: HTTP, queue, duration, start, CPU and memory.
const PER_REQUEST: usize = 6;

fn main() {
    let actor = HostMetrics::noop().actor("default/hello/hello");
    let record = |round: u64| {
        let time = Duration::from_nanos(round % 1_000 * 1_000);
        let (outcome, peak_memory) = (Outcome::Ok, Some(1 << 20));
        actor.record(&InvocationRecord {
            outcome,
            queue: time,
            start: Some(time),
            cpu: time,
            total: time,
            peak_memory,
        });
        actor.record_http(&http::Method::GET, 200, time);
    };

    let provider = SdkMeterProvider::builder()
        .with_reader(ManualReader::builder().build())
        .build();
    let meter = provider.meter("yardstick");
    let attributes = [
        KeyValue::new("weft.actor", "default/hello/hello"),
        KeyValue::new("http.request.method", "GET"),
        KeyValue::new("http.response.status_code", 200),
    ];
    let histograms: Vec<_> = (0..PER_REQUEST)
        .map(|n| {
            meter
                .f64_histogram(format!("h{n}"))
                .with_boundaries(BOUNDS.to_vec())
                .build()
        })
        .collect();
    let bound: Vec<_> = histograms
        .iter()
        .map(|histogram| histogram.bind(&attributes))
        .collect();
    let seconds = |round: u64| (round % 1_000) as f64 * 1e-6;

    println!("CPU ns a request of {PER_REQUEST} histograms; divide by {PER_REQUEST} for one record");
    println!(
        "{:34} {:>10} {:>10} {:>22}",
        "", "1 thread", "2 threads", "2 threads, with work"
    );
    line("weft", &record);
    line("SDK, bound", &|round| {
        bound
            .iter()
            .for_each(|histogram| histogram.record(seconds(round)))
    });
    line("SDK, attributes looked up", &|round| {
        histograms
            .iter()
            .for_each(|histogram| histogram.record(seconds(round), &attributes));
    });
}

fn line(name: &str, record: &(dyn Fn(u64) + Sync)) {
    let fastest = |threads, with_work| {
        (0..RUNS)
            .map(|_| nanos(threads, record, with_work))
            .fold(f64::INFINITY, f64::min)
    };
    let (alone, together) = (fastest(1, false), fastest(2, false));
    // By turns, so that both loops meet the same moods of the machine.
    let (mut worked, mut recorded) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        worked = worked.min(nanos(2, &|_| (), true));
        recorded = recorded.min(nanos(2, record, true));
    }
    println!(
        "{name:34} {alone:>10.0} {together:>10.0} {:>22.0}",
        recorded - worked
    );
}

/// The mean CPU time of a round on each of `threads` threads at once.
fn nanos(threads: usize, record: &(dyn Fn(u64) + Sync), with_work: bool) -> f64 {
    let start = Barrier::new(threads);
    let one = || {
        let mut memory = vec![0u64; 1 << 15];
        let mut state = 1u64;
        start.wait();
        let before = thread_cpu_nanos();
        for round in 0..ROUNDS {
            if with_work {
                work(&mut memory, &mut state);
            }
            record(black_box(round));
        }
        black_box(&memory);
        thread_cpu_nanos() - before
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let all: u64 = running
            .into_iter()
            .map(|thread| thread.join().expect("the loop does not panic"))
            .sum();
        all as f64 / (threads as u64 * ROUNDS) as f64
    })
}

/// Touches 256 KiB here and there, so that the instruments have to come back into the cache as they do in a
/// host.
fn work(memory: &mut [u64], state: &mut u64) {
    for _ in 0..1_000 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let place = (*state >> 40) as usize & (memory.len() - 1);
        memory[place] ^= *state;
    }
}

fn thread_cpu_nanos() -> u64 {
    // Time on the processor in nanoseconds is the first number.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts it");
    text.split(' ')
        .next()
        .and_then(|nanos| nanos.parse().ok())
        .expect("schedstat starts with a number")
}
