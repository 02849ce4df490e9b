//! Lattices under faults, by seed. `WEFT_SIM_SEEDS` is how many seeds each test runs, `WEFT_SIM_SEED` is one to repeat.

use weft_lattice::testing::scenario::{artifacts, calls, members, replay, streams};

/// Runs `scenario` for some seeds: the one that is to be repeated, or as many as are wanted.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    match number("WEFT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WEFT_SIM_SEEDS").unwrap_or(usual),
    }
}

#[test]
fn calls_keep_their_promise_whatever_happens_to_hosts_and_messages() {
    let name = "calls_keep_their_promise";
    let reports: Vec<_> = seeds(200)
        .map(|seed| replay(name, seed, |seed| calls::run(seed, None)))
        .collect();
    let sum = |of: fn(&calls::Report) -> u64| reports.iter().map(of).sum::<u64>();
    // A run in which nothing went wrong would check nothing.
    assert!(sum(|report| report.answered) > 0);
    if reports.len() >= 100 {
        assert!(sum(|report| report.repeats) > 0 && sum(|report| report.late) > 0);
        assert!(sum(|report| report.not_started) > 0);
    }
    eprintln!(
        "{} runs: {} calls, {} answered, {} not started, {} repeats, {} late, {} messages",
        reports.len(),
        sum(|report| report.calls),
        sum(|report| report.answered),
        sum(|report| report.not_started),
        sum(|report| report.repeats),
        sum(|report| report.late),
        sum(|report| report.messages),
    );
}

#[test]
fn fifty_hosts_keep_the_promise_too() {
    // Each takes as long as some ten of the others.
    let all = seeds(2);
    let each = if all.end - all.start > 2 { 20 } else { 1 };
    for seed in all.step_by(each) {
        replay("fifty_hosts", seed, |seed| calls::run(seed, Some(50)));
    }
}

#[test]
fn streams_bring_exactly_what_was_written_or_a_reset() {
    let name = "streams_bring_exactly";
    let reports: Vec<_> = seeds(100).map(|seed| replay(name, seed, streams::run)).collect();
    let whole: u64 = reports.iter().map(|report| report.whole).sum();
    let reset: u64 = reports.iter().map(|report| report.reset).sum();
    if reports.len() >= 100 {
        assert!(whole > 100 && reset > 10);
    }
    eprintln!("{} runs: {whole} directions whole, {reset} reset", reports.len());
}

#[test]
fn artifacts_come_as_their_digest_says_or_not_at_all() {
    let name = "artifacts_come_as";
    let reports: Vec<_> = seeds(100)
        .map(|seed| replay(name, seed, artifacts::run))
        .collect();
    let sum = |of: fn(&artifacts::Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (brought, failed) = (sum(|report| report.brought), sum(|report| report.failed));
    let refused = sum(|report| report.refused);
    if reports.len() >= 100 {
        assert!(
            brought > 100 && failed > 10 && refused > 10,
            "{brought}, {failed}, {refused}"
        );
    }
    eprintln!(
        "{} runs: {brought} brought, {failed} failed, {refused} copies refused",
        reports.len()
    );
}

#[test]
fn all_hosts_come_to_see_the_same_and_who_is_cut_off_judges_nobody() {
    for seed in seeds(100) {
        replay("all_hosts_come_to_see", seed, members::run);
    }
}

#[test]
fn what_a_host_sends_and_hears_when_idle_does_not_grow_with_the_lattice() {
    for size in [10, 50, 200] {
        let (messages, bytes) = replay("what_a_host_sends", size, members::idle);
        assert!(
            messages <= 4.0 && bytes <= 2_000.0,
            "{size} hosts: {messages} messages, {bytes} bytes a second"
        );
        eprintln!("{size} hosts: {messages:.2} messages and {bytes:.0} bytes a second each");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || replay("the_same_seed", 7, |seed| calls::run(seed, None));
    assert_eq!(run(), run());
    let run = || replay("the_same_seed", 7, streams::run);
    assert_eq!(run(), run());
    let run = || replay("the_same_seed", 7, artifacts::run);
    assert_eq!(run(), run());
    let run = || replay("the_same_seed", 7, members::run);
    assert_eq!(run(), run());
}
