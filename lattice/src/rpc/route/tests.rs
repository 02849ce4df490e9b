use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::membership::Standing;
use crate::subject::Subjects;

const NOW: u64 = 1_000_000;

fn row(at: u64, revision: u64, ring: Ring) -> Row {
    let subjects = Subjects::new("test").unwrap();
    let address = Address::new("h", at).unwrap();
    let control = subjects.control(address.as_str()).unwrap();
    Row {
        subject: subjects.call(address.as_str(), "default").unwrap(),
        peer: Arc::new(Peer::new(address, Some(control))),
        revision,
        ring,
    }
}

fn targets(rings: &[Ring]) -> Targets {
    Targets {
        rows: (0..).zip(rings).map(|(at, ring)| row(at, 1, *ring)).collect(),
        weights: vec![(1, 100)],
    }
}

/// How often each row is chosen in 10,000 calls.
fn chosen(targets: &Targets, tried: &[usize]) -> BTreeMap<usize, u32> {
    let mut random = 7_u64;
    let mut counts = BTreeMap::new();
    for _ in 0..10_000 {
        random = super::super::client::mix(random);
        if let Some(at) = targets.choose(tried, NOW, random) {
            *counts.entry(at).or_default() += 1;
        }
    }
    counts
}

#[test]
fn the_nearest_ring_is_called_and_the_next_when_it_is_full() {
    let targets = targets(&[Ring::Far, Ring::Zone, Ring::Host, Ring::Zone, Ring::Region]);
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [2]);
    targets.rows[2].peer.heard(1_000, false, NOW);
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [1, 3]);
    targets.rows[1].peer.heard(1_500, false, NOW);
    targets.rows[3].peer.eject();
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [4]);
    targets.rows[4].peer.set_standing(Standing::Suspect);
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [0]);
    targets.rows[0].peer.heard(0, true, NOW);
    // All that are left are full or worse: the nearest of those that answer.
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [2]);
    assert_eq!(chosen(&targets, &[2, 1, 4]).into_keys().collect::<Vec<_>>(), [3]);
    assert_eq!(
        chosen(&targets, &[2, 1, 4, 3]).into_keys().collect::<Vec<_>>(),
        [0]
    );
    assert!(chosen(&targets, &[0, 1, 2, 3, 4]).is_empty());
}

#[test]
fn equals_share_and_a_busy_one_gets_less() {
    let targets = targets(&[Ring::Zone; 4]);
    for count in chosen(&targets, &[]).into_values() {
        assert!(
            (2_200..2_800).contains(&count),
            "{count} of 10,000 for one of four"
        );
    }
    let busy = &targets.rows[1].peer;
    let _calls: Vec<_> = (0..10).map(|_| busy.begin(NOW, false)).collect();
    let counts = chosen(&targets, &[]);
    // Only when both of the two would be it, which they can't.
    assert_eq!(counts.get(&1), None);
    assert_eq!(counts.len(), 3);
}

#[test]
fn what_was_heard_of_a_load_fades() {
    let targets = targets(&[Ring::Host, Ring::Zone]);
    targets.rows[0].peer.heard(1_999, false, NOW - 150);
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [0]);
    targets.rows[0].peer.heard(1_999, false, NOW - 50);
    assert_eq!(chosen(&targets, &[]).into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_canary_gets_its_share_before_nearness_and_the_rest_when_it_is_alone() {
    let mut targets = targets(&[Ring::Host, Ring::Far]);
    targets.rows[1].revision = 2;
    targets.weights = vec![(1, 95), (2, 5)];
    let counts = chosen(&targets, &[]);
    assert!((350..650).contains(&counts[&1]), "{counts:?}");
    assert_eq!(chosen(&targets, &[0]), BTreeMap::from([(1, 10_000)]));
    targets.rows[0].peer.eject();
    assert_eq!(chosen(&targets, &[]), BTreeMap::from([(1, 10_000)]));
    // A revision without weight is called only if no other can be.
    targets.weights = vec![(1, 100), (2, 0)];
    targets.rows[0].peer.heard(0, false, NOW);
    assert_eq!(chosen(&targets, &[]), BTreeMap::from([(0, 10_000)]));
    assert_eq!(chosen(&targets, &[0]), BTreeMap::from([(1, 10_000)]));
}

#[test]
fn two_unanswered_calls_eject_a_host_until_it_answers() {
    let targets = targets(&[Ring::Zone]);
    let peer = &targets.rows[0].peer;
    assert!(!peer.unanswered(NOW));
    assert!(peer.unanswered(NOW) && peer.is_ejected());
    peer.heard(0, false, NOW);
    assert!(!peer.is_ejected());
    // It answered something after that was sent, so it is not silent.
    assert!(!peer.unanswered(NOW - 1) && !peer.unanswered(NOW - 1));
}

proptest! {
    #[test]
    fn whoever_is_left_is_chosen_and_nobody_twice(
        rings in prop::collection::vec(0..4_usize, 0..12),
        revisions in prop::collection::vec(0..3_u64, 12),
        states in prop::collection::vec(0..5_u8, 12),
        randoms in prop::collection::vec(any::<u64>(), 13),
    ) {
        let mut targets = targets(&rings.iter().map(|ring| Ring::ALL[*ring]).collect::<Vec<_>>());
        targets.weights = vec![(0, 1), (1, 3)];
        for ((row, revision), state) in targets.rows.iter_mut().zip(revisions).zip(states) {
            row.revision = revision;
            match state {
                0 => row.peer.heard(2_000, false, NOW),
                1 => { row.peer.eject(); }
                2 => row.peer.set_standing(Standing::Leaving),
                _ => {}
            }
        }
        let mut tried = Vec::new();
        for random in randoms {
            match targets.choose(&tried, NOW, random) {
                Some(at) => { prop_assert!(!tried.contains(&at)); tried.push(at); }
                None => prop_assert_eq!(tried.len(), rings.len()),
            }
        }
        prop_assert_eq!(tried.len(), rings.len());
    }
}
