//! A move is driven through every interleaving that chance finds: hosts that write, crash, are cut off and come back, and a
//! mover that is killed. What was acknowledged is where the provider is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use weft_compose::moving::{MoveRecord, Next, Place, Seen, Step, next};
use weft_compose::record::{VERSION, decode, encode};
use weft_compose::{HostName, ProviderName};

const HOSTS: usize = 3;
const KEYS: u8 = 4;

fn place(backend: &str) -> Place {
    Place {
        backend: backend.to_owned(),
        config: BTreeMap::new(),
    }
}

fn record() -> MoveRecord {
    MoveRecord {
        v: VERSION,
        provider: "default/shop/carts".parse::<ProviderName>().unwrap(),
        from: place("old"),
        to: place("new"),
        step: Step::Checking,
        pass: 0,
        hosts: BTreeSet::new(),
        replace: false,
        force: false,
        reason: None,
        by: "someone".to_owned(),
        at: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn name(host: usize) -> HostName {
    format!("h{host}").parse().unwrap()
}

type Store = BTreeMap<u8, u64>;

/// A host as the guard of a provider behaves on it.
#[derive(Default, Clone)]
struct Host {
    run: u64,
    cut_off: bool,
    /// What it has of the control store, which it keeps over a restart: the move, and whether the provider is the new one.
    known: (Option<MoveRecord>, bool),
    applied: u64,
    /// The pass for which it notes keys.
    noting: Option<u64>,
    notes: BTreeSet<u8>,
    held: bool,
    /// Writes that run, and whether they go to the new backend.
    running: VecDeque<(u8, bool)>,
}

impl Host {
    /// Takes over what it knows; `false` if writes that run have to end first.
    fn take(&mut self, old: &Store, new: &mut Store, tables: bool) -> bool {
        let Some(record) = self.known.0.clone() else {
            (self.held, self.noting) = (false, None);
            return true;
        };
        match record.step {
            Step::Checking | Step::Failed => (self.held, self.noting) = (false, None),
            Step::Copying => {
                if self.noting != Some(record.pass) {
                    if !self.running.is_empty() {
                        return false;
                    }
                    self.notes.clear();
                    self.noting = Some(record.pass);
                }
                self.held = false;
            }
            Step::Holding | Step::Draining | Step::Switched => {
                self.held = true;
                if !self.running.is_empty() {
                    return false;
                }
                if record.step == Step::Draining && self.noting == Some(record.pass) && !tables {
                    for key in &self.notes {
                        new.insert(*key, old[key]);
                    }
                }
            }
        }
        true
    }
}

#[derive(Default)]
struct Mover {
    runs: Option<(u64, Vec<(usize, u64)>)>,
    /// What is left to copy.
    left: Option<Vec<u8>>,
    /// What is left to compare while nothing is written.
    undrained: Option<Vec<u8>>,
}

struct World {
    /// Nobody can note what is written; the mover compares all in the hold.
    tables: bool,
    old: Store,
    new: Store,
    acknowledged: Store,
    values: u64,
    hosts: Vec<Host>,
    record: Option<MoveRecord>,
    is_new: bool,
    index: u64,
    mover: Mover,
    held_too_long: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Write(usize, u8),
    Finish(usize),
    Apply(usize),
    Crash(usize),
    CutOff(usize),
    Heal(usize),
    Drive,
    KillMover,
    Impatient,
}

impl World {
    fn new(tables: bool) -> Self {
        let mut world = Self {
            tables,
            old: Store::new(),
            new: Store::new(),
            acknowledged: Store::new(),
            values: 0,
            hosts: vec![Host::default(); HOSTS],
            record: Some(record()),
            is_new: false,
            index: 1,
            mover: Mover::default(),
            held_too_long: false,
        };
        // Who is cut off before the move begins is nobody that a lattice knows of.
        while world.record.as_ref().unwrap().step == Step::Checking {
            world.drive();
        }
        world
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Write(at, key) => {
                let host = &mut self.hosts[at];
                if !host.held {
                    if host.noting.is_some() {
                        host.notes.insert(key);
                    }
                    let is_new = host.known.1;
                    host.running.push_back((key, is_new));
                }
            }
            Event::Finish(at) => {
                if let Some((key, is_new)) = self.hosts[at].running.pop_front() {
                    self.values += 1;
                    let store = if is_new { &mut self.new } else { &mut self.old };
                    store.insert(key, self.values);
                    self.acknowledged.insert(key, self.values);
                }
            }
            Event::Apply(at) => self.apply(at),
            Event::Crash(at) => {
                let host = &mut self.hosts[at];
                *host = Host {
                    run: host.run + 1,
                    cut_off: host.cut_off,
                    known: host.known.clone(),
                    ..Host::default()
                };
                host.take(&self.old, &mut self.new, self.tables);
            }
            Event::CutOff(at) => self.hosts[at].cut_off = true,
            Event::Heal(at) => {
                self.hosts[at].cut_off = false;
                self.apply(at);
            }
            Event::Drive => self.drive(),
            Event::KillMover => self.mover = Mover::default(),
            Event::Impatient => self.held_too_long = true,
        }
    }

    fn apply(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.cut_off {
            return;
        }
        host.known.0 = self.record.clone();
        if host.take(&self.old, &mut self.new, self.tables) {
            host.known.1 = self.is_new;
            host.applied = self.index;
        }
    }

    fn drive(&mut self) {
        let Some(record) = self.record.clone() else {
            return;
        };
        let there = self.hosts.iter().enumerate().filter(|(_, host)| !host.cut_off);
        let runs: Vec<_> = there.clone().map(|(at, host)| (at, host.run)).collect();
        let is_there = |host: &HostName| runs.iter().any(|(at, _)| name(*at) == *host);
        let mover = &mut self.mover;
        let seen = Seen {
            provider: Some(if self.is_new {
                record.to.clone()
            } else {
                record.from.clone()
            }),
            same_runs: mover.runs == Some((record.pass, runs.clone())),
            missing: record
                .hosts
                .iter()
                .filter(|host| !is_there(host))
                .cloned()
                .collect(),
            applied: there.clone().all(|(_, host)| host.applied == self.index),
            checked: Some(Ok(())),
            copied: mover.left.as_ref().is_some_and(Vec::is_empty),
            drained: !self.tables || mover.undrained.as_ref().is_some_and(Vec::is_empty),
            refused: None,
            held_too_long: std::mem::take(&mut self.held_too_long),
        };
        let put = match next(&record, &seen) {
            Next::Wait(_) | Next::Check => return,
            Next::Copy => {
                let left = mover.left.get_or_insert_with(|| (0..KEYS).collect());
                if let Some(key) = left.pop()
                    && let Some(value) = self.old.get(&key)
                {
                    self.new.insert(key, *value);
                }
                return;
            }
            Next::Drain => {
                let left = mover.undrained.get_or_insert_with(|| (0..KEYS).collect());
                if let Some(key) = left.pop() {
                    match self.old.get(&key) {
                        Some(value) => self.new.insert(key, *value),
                        None => self.new.remove(&key),
                    };
                }
                return;
            }
            Next::Put(mut put) => {
                if put.pass != record.pass {
                    put.hosts.extend(runs.iter().map(|(at, _)| name(*at)));
                    *mover = Mover {
                        runs: Some((put.pass, runs)),
                        left: None,
                        undrained: None,
                    };
                }
                Some(put)
            }
            Next::Switch(put) => {
                self.is_new = true;
                Some(put)
            }
            Next::End => None,
        };
        self.record = put;
        self.index += 1;
    }

    /// What was acknowledged is where the provider is.
    fn check(&self) {
        let store = if self.is_new { &self.new } else { &self.old };
        for (key, value) in &self.acknowledged {
            assert_eq!(store.get(key), Some(value), "{key} at {:?}", self.record);
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let host = 0..HOSTS;
    prop_oneof![
        6 => (host.clone(), 0..KEYS).prop_map(|(at, key)| Event::Write(at, key)),
        6 => host.clone().prop_map(Event::Finish),
        8 => host.clone().prop_map(Event::Apply),
        1 => host.clone().prop_map(Event::Crash),
        1 => host.clone().prop_map(Event::CutOff),
        2 => host.prop_map(Event::Heal),
        8 => Just(Event::Drive),
        1 => Just(Event::KillMover),
        1 => Just(Event::Impatient),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_acknowledged_write_is_lost_whoever_is_killed_or_cut_off(
        events in proptest::collection::vec(event(), 0..250),
        tables in any::<bool>(),
    ) {
        let mut world = World::new(tables);
        for event in &events {
            world.happen(event);
            world.check();
        }
        // Once all are there and nobody crashes, it comes to its end.
        for _ in 0..200 {
            for at in 0..HOSTS {
                world.happen(&Event::Finish(at));
                world.happen(&Event::Heal(at));
            }
            world.happen(&Event::Drive);
            world.check();
        }
        prop_assert!(world.record.is_none() && world.is_new, "{:?}", world.record);
        prop_assert!(world.hosts.iter().all(|host| !host.held && host.known.1));
    }
}

#[test]
fn a_host_that_is_missing_blocks_the_move_and_force_says_what_is_lost() {
    let mut record = MoveRecord {
        step: Step::Copying,
        pass: 1,
        hosts: [name(1), name(2)].into(),
        ..record()
    };
    let seen = Seen {
        provider: Some(record.from.clone()),
        same_runs: true,
        missing: vec![name(2)],
        applied: true,
        copied: true,
        ..Seen::default()
    };
    let Next::Wait(why) = next(&record, &seen) else {
        panic!("it went on without h2");
    };
    assert!(why.contains("h2") && why.contains("--force"), "{why}");
    record.force = true;
    assert!(matches!(next(&record, &seen), Next::Put(put) if put.step == Step::Holding));
}

#[test]
fn a_provider_that_someone_else_changes_ends_its_move() {
    for step in [Step::Checking, Step::Copying, Step::Holding, Step::Draining] {
        let record = MoveRecord { step, ..record() };
        for provider in [None, Some(place("another"))] {
            let seen = Seen {
                provider,
                same_runs: true,
                applied: true,
                ..Seen::default()
            };
            assert_eq!(next(&record, &seen), Next::End, "{step}");
        }
    }
}

#[test]
fn a_backend_that_may_not_be_filled_is_left_alone() {
    let seen = Seen {
        provider: Some(place("old")),
        checked: Some(Err("it holds keys of the app already".to_owned())),
        ..Seen::default()
    };
    let Next::Put(put) = next(&record(), &seen) else {
        panic!("it was filled");
    };
    assert_eq!(put.step, Step::Failed);
    assert!(!put.is_on());
    assert_eq!(put.reason.as_deref(), Some("it holds keys of the app already"));
}

#[test]
fn data_that_the_new_backend_does_not_take_ends_its_move_before_the_switch() {
    for step in [Step::Copying, Step::Holding, Step::Draining] {
        let record = MoveRecord { step, ..record() };
        let seen = Seen {
            provider: Some(record.from.clone()),
            same_runs: true,
            applied: true,
            copied: true,
            refused: Some("a text is no number".to_owned()),
            ..Seen::default()
        };
        let Next::Put(put) = next(&record, &seen) else {
            panic!("it went on at {step}");
        };
        assert_eq!(
            (put.step, put.reason.as_deref()),
            (Step::Failed, Some("a text is no number"))
        );
    }
}

#[test]
fn a_move_is_stored_as_ever() {
    let record = MoveRecord {
        step: Step::Copying,
        pass: 2,
        hosts: [name(1)].into(),
        ..record()
    };
    let stored = include_str!("golden/move.json");
    let written = String::from_utf8(encode(&record)).unwrap();
    assert_eq!(
        written,
        stored.trim_end(),
        "this is what other hosts hold: make a new version"
    );
    assert_eq!(decode::<MoveRecord>("move", stored.as_bytes()).unwrap(), record);
    let newer = stored.replacen('{', "{\"of_a_later_version\":[1],", 1);
    assert_eq!(decode::<MoveRecord>("move", newer.as_bytes()).unwrap(), record);
    let other = stored.replace("\"v\":1", "\"v\":2");
    assert!(decode::<MoveRecord>("move", other.as_bytes()).is_err());
}

#[test]
fn settings_that_only_say_how_a_backend_works_move_no_data() {
    let with = |config: &[(&str, &str)]| Place {
        config: config
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..place("redis")
    };
    let plain = with(&[("url", "redis://a")]);
    assert!(plain.holds_the_data_of(&with(&[("url", "redis://a"), ("timeoutMs", "50")])));
    assert!(!plain.holds_the_data_of(&with(&[("url", "redis://b")])));
}
