//! Who is there.
//!
//! Owns the view that every host has of all hosts, as a state machine: time and messages in, messages and changes out.
//! `driver.rs` runs it. Must not know what a host is for: what else it says of itself is bytes.
//!
//! A host beats each second, to its region's digesters: the first two by rank, and controllers rank before others. The
//! first tells all hosts once a second what changed, the second takes over when that stops, and then the next. So what
//! a host sends and hears does not grow with their number.
//!
//! A host hears its own heartbeat. Without the echo it is blind and judges nobody, and when it sees again, or begins to
//! digest, everybody's time begins anew. Absence from one's own sight is not the absence of the others.

mod driver;
mod region;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

pub use self::driver::{Membership, MembershipError, MembershipStats};
use self::region::{Region, Told};
pub use crate::envelope::Standing;
use crate::envelope::{Digest, Heartbeat, Record};
use crate::subject::Address;

/// How often a host beats, and a digest is made.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Without a heartbeat for so long a host is suspect.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// Without a heartbeat for so long it is gone.
pub const GONE_AFTER: Duration = Duration::from_secs(6);

/// Without its own echo for so long a host is blind.
pub const BLIND_AFTER: Duration = Duration::from_secs(2);

/// Who ranks second waits so long for a digest before it makes one itself, and each next a second longer.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(2);

/// The longest that any waits to take over, however it ranks: then so many have gone at once that order matters less.
const TAKE_OVER_RANK_MAX: u32 = 6;

/// Regions that are known; digests of more are dropped.
const REGIONS_MAX: usize = 256;

/// A host that starts waits so long for somebody's digest.
const JOIN_WAIT: Duration = Duration::from_secs(3);

/// What one host knows and does.
pub struct View {
    me: Record,
    region: String,
    number: u64,
    /// When this host's own heartbeat was heard last.
    echo: Duration,
    blind: bool,
    regions: BTreeMap<String, Region>,
    /// Regions that are to be asked for everything.
    asks: BTreeSet<String>,
    listens: bool,
    /// The digests that this host makes; none unless it is its turn.
    term: Option<Term>,
    /// Digests that this host has made.
    digests: u64,
    /// When a digest of somebody came who ranks before this host, or it started.
    led: Duration,
}

/// One turn of a digester.
struct Term {
    /// What was told last.
    told: BTreeMap<Address, (Standing, u64)>,
    tell_all: bool,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish it as the heartbeat of this host in the region that is named.
    Beat(String, Heartbeat),
    /// Publish it as a digest of this host's region.
    Tell(Digest),
    /// Listen to the heartbeats of the region, or no longer.
    Listen(bool),
    /// A host stands differently from now on, or says something else of itself.
    Changed(Member),
}

/// A host in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub address: Address,
    /// Where it is.
    pub region: String,
    /// How it stands.
    pub standing: Standing,
    /// What it says of itself.
    pub details: Bytes,
    /// Whether it is a controller.
    pub controller: bool,
}

impl View {
    /// The view of a host that starts at `now`, which like all times here is that since some moment.
    pub fn new(address: Address, region: &str, controller: bool, details: Bytes, now: Duration) -> Self {
        Self {
            me: Record {
                address,
                standing: Standing::Alive,
                edition: 1,
                details,
                controller,
            },
            region: region.to_owned(),
            number: 0,
            echo: now,
            blind: false,
            regions: BTreeMap::new(),
            asks: BTreeSet::from([region.to_owned()]),
            listens: false,
            term: None,
            digests: 0,
            led: now + JOIN_WAIT.saturating_sub(TAKE_OVER_AFTER),
        }
    }

    /// Says something else of this host from now on.
    pub fn set_details(&mut self, details: Bytes) {
        if self.me.details != details {
            self.me.details = details;
            self.me.edition += 1;
        }
    }

    /// This host leaves, or with [`Standing::Gone`] has left.
    pub fn set_standing(&mut self, standing: Standing) {
        self.me.standing = standing;
    }

    /// Whether this host hears itself.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// Whether it is this host's turn to tell the others.
    pub fn is_digester(&self) -> bool {
        self.term.is_some()
    }

    /// All hosts that are known, this one too, without those that are gone.
    pub fn members(&self) -> Vec<Member> {
        let others = self
            .regions
            .iter()
            .flat_map(|(name, region)| region.members(name));
        let mut members: Vec<_> = others
            .filter(|member| member.address != self.me.address && member.standing != Standing::Gone)
            .collect();
        members.push(member(&self.region, &self.me, self.me.standing));
        members.sort_by(|a, b| a.address.cmp(&b.address));
        members
    }

    /// Each second.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.number += 1;
        effects.push(Effect::Beat(self.region.clone(), self.beat(&self.region)));
        for region in self.asks.iter().filter(|region| **region != self.region) {
            effects.push(Effect::Beat(region.clone(), self.beat(region)));
        }
        self.blind = now.saturating_sub(self.echo) > BLIND_AFTER;
        if self.blind {
            self.term = None;
            return effects;
        }
        for (name, region) in &mut self.regions {
            if *name != self.region {
                region.judge_silence(name, now, &mut effects);
            }
        }
        self.take_turn(now, &mut effects);
        if self.term.is_some() {
            self.judge(now, &mut effects);
            effects.extend(self.tell());
        }
        effects
    }

    fn beat(&self, region: &str) -> Heartbeat {
        Heartbeat {
            address: self.me.address.clone(),
            number: self.number,
            edition: self.me.edition,
            details: self.me.details.clone(),
            controller: self.me.controller,
            region: self.region.clone(),
            standing: self.me.standing,
            wants_all: self.asks.contains(region),
        }
    }

    /// Where this host is among those of its region that may digest, from 0.
    fn rank_of(&self, address: &Address) -> u32 {
        let own = self.regions.get(&self.region);
        let others = own.into_iter().flat_map(Region::ranked);
        let me =
            (self.me.standing == Standing::Alive).then(|| (!self.me.controller, self.me.address.clone()));
        let mut all: Vec<_> = others
            .filter(|(_, other)| *other != self.me.address)
            .chain(me)
            .collect();
        all.sort();
        let at = all.iter().position(|(_, other)| other == address);
        at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
    }

    /// Whether it is this host's turn, and whether it has to listen for that.
    fn take_turn(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let rank = self.rank_of(&self.me.address);
        let waits = HEARTBEAT * rank.saturating_sub(1).min(TAKE_OVER_RANK_MAX);
        let led = now.saturating_sub(self.led);
        let may = self.me.standing != Standing::Gone;
        let its_turn = may && (rank == 0 && self.asks_nothing_at_first(led) || led > TAKE_OVER_AFTER + waits);
        let listens = may && (rank < 2 || its_turn);
        if listens != self.listens {
            self.listens = listens;
            effects.push(Effect::Listen(listens));
            self.own_region().restart(now);
        }
        match (its_turn, self.term.is_some()) {
            (true, false) => {
                self.term = Some(Term {
                    told: BTreeMap::new(),
                    tell_all: true,
                });
            }
            (false, true) => self.term = None,
            _ => {}
        }
    }

    /// Who starts does not know yet who else is there.
    fn asks_nothing_at_first(&self, led: Duration) -> bool {
        !self.asks.contains(&self.region) || led > TAKE_OVER_AFTER
    }

    fn own_region(&mut self) -> &mut Region {
        self.regions.entry(self.region.clone()).or_default()
    }

    /// Judges the hosts of this region by their heartbeats.
    fn judge(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.asks.remove(&self.region);
        let (name, me) = (self.region.clone(), self.me.address.clone());
        self.own_region().judge(&name, &me, now, effects);
    }

    /// What changed since the last digest of this turn.
    fn tell(&mut self) -> Option<Effect> {
        let mut now: Vec<Record> = self
            .regions
            .get(&self.region)
            .map(Region::records)
            .unwrap_or_default();
        now.retain(|record| record.address != self.me.address);
        now.push(self.me.clone());
        let term = self.term.as_mut()?;
        let all = std::mem::take(&mut term.tell_all);
        let told = &term.told;
        let tells = |record: &Record| {
            let new = told.get(&record.address) != Some(&(record.standing, record.edition));
            if all {
                record.standing != Standing::Gone
            } else {
                new
            }
        };
        let hosts: Vec<_> = now.iter().filter(|record| tells(record)).cloned().collect();
        term.told = now
            .into_iter()
            .map(|record| (record.address, (record.standing, record.edition)))
            .collect();
        // Over all its turns, so that one of an earlier turn that comes late is known for that.
        self.digests += 1;
        Some(Effect::Tell(Digest {
            by: self.me.address.clone(),
            region: self.region.clone(),
            number: self.digests,
            all,
            hosts,
        }))
    }

    /// A heartbeat came: the own one, or if this host listens that of another.
    pub fn heard(&mut self, beat: Heartbeat, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        if beat.address == self.me.address {
            if std::mem::take(&mut self.blind) || now.saturating_sub(self.echo) > BLIND_AFTER {
                // What was not heard meanwhile says nothing.
                self.regions.values_mut().for_each(|region| region.restart(now));
                self.led = self.led.max(now);
            }
            self.echo = now;
            return effects;
        }
        if beat.wants_all
            && let Some(term) = &mut self.term
        {
            term.tell_all = true;
        }
        if self.listens && beat.region == self.region {
            let name = self.region.clone();
            // Who listens only to be ready follows the digests: by itself it would not judge again what it took over.
            let follows = self.term.is_none() && !self.asks.contains(&name);
            self.own_region().beat(&name, beat, follows, now, &mut effects);
        }
        effects
    }

    /// A digest came, of this region or of another.
    pub fn told(&mut self, digest: Digest, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        let known = self.regions.contains_key(&digest.region) || self.regions.len() < REGIONS_MAX;
        if digest.by == self.me.address || !known {
            return effects;
        }
        let own = digest.region == self.region;
        if own && self.rank_of(&digest.by) < self.rank_of(&self.me.address) {
            self.led = now;
            self.term = None;
        } else if own && self.term.is_none() {
            // Whoever tells, somebody does.
            self.led = self.led.max(now);
        }
        // Who judges by itself needs no judgement of others, but to know of whom it has not heard yet.
        let judges = own && self.term.is_some();
        let name = digest.region.clone();
        let me = self.me.address.clone();
        let told =
            self.regions
                .entry(name.clone())
                .or_default()
                .told(&name, &me, digest, judges, now, &mut effects);
        match told {
            Told::All => {
                self.asks.remove(&name);
            }
            Told::Missed => {
                self.asks.insert(name);
            }
            // What was missed before is missed still.
            Told::Follows => {}
        }
        effects
    }
}

fn member(region: &str, record: &Record, standing: Standing) -> Member {
    Member {
        address: record.address.clone(),
        region: region.to_owned(),
        standing,
        details: record.details.clone(),
        controller: record.controller,
    }
}

#[cfg(test)]
#[path = "membership/tests.rs"]
mod tests;
