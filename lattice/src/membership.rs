//! Who is there.
//!
//! Owns the view that every host has of all hosts, as a state machine: time and messages in, messages and changes out.
//! `driver.rs` runs it. Must not know what a host is for: what else it says of itself is bytes.
//!
//! A host beats each second, to its region's digester: the first by rank, and controllers rank before others. It tells
//! all hosts once a second what changed; when that stops the second takes over, and then the next. So what a host sends
//! and hears does not grow with their number.
//!
//! Who tells hears its own heartbeat, and who is told hears that; when a digest is late it listens for its own heartbeat
//! too. Without either a host is blind and judges nobody, and when it sees again, or begins to digest, everybody's time
//! begins anew. Absence from one's own sight is not the absence of the others. What a host judged while it was its turn is
//! past with its turn: it takes nothing but all that the next one says.

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

/// Without its own echo, or a digest of another, for so long a host is blind.
pub const BLIND_AFTER: Duration = Duration::from_secs(2);

/// After a digest that was late a host listens for its own echo so long: digests that come when it beats are now early and
/// now late.
const DOUBTS_FOR: Duration = Duration::from_secs(10);

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
    /// When this host heard its own heartbeat last, or as long as it is told by another, a digest.
    echo: Duration,
    blind: bool,
    /// When neither came for longer than they should.
    doubt: Duration,
    regions: BTreeMap<String, Region>,
    /// Regions that are to be asked for everything.
    asks: BTreeSet<String>,
    hears: Hears,
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

/// Which heartbeats a host listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// None: digests come.
    Nothing,
    /// Its own, as an echo.
    Own,
    /// Those of all hosts of its region, its own among them.
    All,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish it as the heartbeat of this host in the region that is named.
    Beat(String, Heartbeat),
    /// Publish it as a digest of this host's region.
    Tell(Digest),
    /// Listen to these heartbeats from now on; before the next one is sent.
    Listen(Hears),
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
            doubt: now,
            regions: BTreeMap::new(),
            asks: BTreeSet::from([region.to_owned()]),
            hears: Hears::Own,
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

    /// Whether this host hears neither itself nor a digest.
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
        let silence = now.saturating_sub(self.echo);
        self.blind = silence > BLIND_AFTER;
        if silence > HEARTBEAT {
            self.doubt = now;
        }
        let wants_all = if self.blind {
            self.term = None;
            false
        } else {
            self.take_turn(now)
        };
        let hears = if wants_all {
            Hears::All
        } else if now.saturating_sub(self.doubt) < DOUBTS_FOR {
            Hears::Own
        } else {
            Hears::Nothing
        };
        if hears != self.hears {
            self.hears = hears;
            // Before the heartbeat, so that its echo is heard.
            effects.push(Effect::Listen(hears));
        }
        effects.push(Effect::Beat(self.region.clone(), self.beat(&self.region)));
        for region in self.asks.iter().filter(|region| **region != self.region) {
            effects.push(Effect::Beat(region.clone(), self.beat(region)));
        }
        if self.blind {
            return effects;
        }
        for (name, region) in &mut self.regions {
            if *name != self.region {
                region.judge_silence(name, now, &mut effects);
            }
        }
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

    /// Takes its turn or ends it. Whether this host has to hear all: who is first does so before it tells.
    fn take_turn(&mut self, now: Duration) -> bool {
        let rank = self.rank_of(&self.me.address);
        let waits = HEARTBEAT * rank.saturating_sub(1).min(TAKE_OVER_RANK_MAX);
        let led = now.saturating_sub(self.led);
        let may = self.me.standing != Standing::Gone;
        let its_turn = may && (rank == 0 && self.asks_nothing_at_first(led) || led > TAKE_OVER_AFTER + waits);
        match (its_turn, self.term.is_some()) {
            (true, false) => {
                self.own_region().begin(now);
                self.term = Some(Term {
                    told: BTreeMap::new(),
                    tell_all: true,
                });
            }
            (false, true) => self.term = None,
            _ => {}
        }
        its_turn || may && rank == 0
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

    /// This host heard of itself, or is told by another.
    fn sees(&mut self, now: Duration) {
        if std::mem::take(&mut self.blind) || now.saturating_sub(self.echo) > BLIND_AFTER {
            // What was not heard meanwhile says nothing.
            self.regions.values_mut().for_each(|region| region.restart(now));
            self.led = self.led.max(now);
        }
        self.echo = now;
    }

    /// A heartbeat came: the own one, or if this host listens that of another.
    pub fn heard(&mut self, beat: Heartbeat, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        if beat.address == self.me.address {
            self.sees(now);
            return effects;
        }
        if beat.wants_all
            && let Some(term) = &mut self.term
        {
            term.tell_all = true;
        }
        if self.hears == Hears::All && beat.region == self.region {
            let name = self.region.clone();
            // Who is first and does not tell yet follows the digests: what it took over it would not judge again.
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
        if own && self.term.is_none() {
            // Who judges has to hear itself; who is told judges nobody here.
            self.sees(now);
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
