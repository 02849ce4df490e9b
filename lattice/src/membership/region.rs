//! What is known of the hosts of one region.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effect, GONE_AFTER, Member, SUSPECT_AFTER, member};
use crate::envelope::{Digest, Heartbeat, Record, Standing};
use crate::subject::Address;

/// Hosts of a region; beyond, new ones are not taken in. A digest holds as many.
const HOSTS_MAX: usize = 8_192;

/// A host that is gone is remembered so long, so that what is late does not bring it back.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Region {
    hosts: BTreeMap<Address, Host>,
    /// The last digest that was taken over: who made it and its number. None while this host judges by itself, as the one
    /// that comes then follows nothing that it knows.
    last: Option<(Address, u64)>,
    /// When it came.
    told: Duration,
    /// No digest came for a while: its hosts are suspect, whatever was said of them.
    silent: bool,
}

/// What is known after a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Everything.
    All,
    /// What was known before, and what changed.
    Follows,
    /// Something was missed.
    Missed,
}

struct Host {
    record: Record,
    /// When it was heard of last, by a heartbeat or otherwise.
    heard: Duration,
    beat: u64,
}

impl Region {
    /// Everybody's time begins anew.
    pub(super) fn restart(&mut self, now: Duration) {
        self.told = now;
        for host in self.hosts.values_mut() {
            if host.record.standing != Standing::Gone {
                host.heard = now;
            }
        }
    }

    /// This host judges from now on. Everybody's time begins anew but for who told last, which was silent since then.
    pub(super) fn begin(&mut self, now: Duration) {
        let told = self.told;
        let teller = self.last.take();
        self.restart(now);
        if let Some((by, _)) = teller
            && let Some(host) = self.hosts.get_mut(&by)
            && host.record.standing != Standing::Gone
        {
            // Not gone at once, however long nobody took over.
            host.heard = told.max(now.saturating_sub(SUSPECT_AFTER));
        }
    }

    pub(super) fn members<'r>(&'r self, name: &'r str) -> impl Iterator<Item = Member> + 'r {
        self.hosts
            .values()
            .map(|host| member(name, &host.record, self.seen(host.record.standing)))
    }

    fn seen(&self, standing: Standing) -> Standing {
        match standing {
            Standing::Alive if self.silent => Standing::Suspect,
            standing => standing,
        }
    }

    /// Those who may digest, to be sorted.
    pub(super) fn ranked(&self) -> impl Iterator<Item = (bool, Address)> + '_ {
        let alive = |host: &&Host| host.record.standing == Standing::Alive;
        let rank = |host: &Host| (!host.record.controller, host.record.address.clone());
        self.hosts.values().filter(alive).map(rank)
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.hosts.values().map(|host| host.record.clone()).collect()
    }

    /// Another region: without its digests nothing is known of its hosts.
    pub(super) fn judge_silence(&mut self, name: &str, now: Duration, effects: &mut Vec<Effect>) {
        let silent = now.saturating_sub(self.told) > SUSPECT_AFTER;
        if silent != self.silent {
            self.silent = silent;
            let alive = self.members(name).filter(|member| {
                member.standing
                    == if silent {
                        Standing::Suspect
                    } else {
                        Standing::Alive
                    }
            });
            effects.extend(alive.map(Effect::Changed));
        }
    }

    /// This host's own region, by heartbeats.
    pub(super) fn judge(&mut self, name: &str, me: &Address, now: Duration, effects: &mut Vec<Effect>) {
        self.hosts.retain(|_, host| {
            host.record.standing != Standing::Gone || now.saturating_sub(host.heard) <= REMEMBERED
        });
        for host in self.hosts.values_mut() {
            let silent = now.saturating_sub(host.heard);
            let standing = match host.record.standing {
                Standing::Gone => continue,
                _ if host.record.address == *me => continue,
                _ if silent > GONE_AFTER => Standing::Gone,
                Standing::Alive if silent > SUSPECT_AFTER => Standing::Suspect,
                standing => standing,
            };
            if standing != host.record.standing {
                host.record.standing = standing;
                effects.push(Effect::Changed(member(name, &host.record, standing)));
            }
        }
    }

    /// A heartbeat came. Who `follows` digests only notes when.
    pub(super) fn beat(
        &mut self,
        name: &str,
        beat: Heartbeat,
        follows: bool,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let len = self.hosts.len();
        let record = Record {
            address: beat.address,
            standing: beat.standing,
            edition: beat.edition,
            details: beat.details,
            controller: beat.controller,
        };
        match self.hosts.get_mut(&record.address) {
            // One that was overtaken by a later one; or by its own end, which is for good.
            Some(host) if beat.number <= host.beat => {}
            Some(host) if host.record.standing == Standing::Gone && host.beat == u64::MAX => {}
            // How long one is gone begins when it was told.
            Some(host) if follows && host.record.standing != Standing::Gone => host.heard = now,
            _ if follows => {}
            Some(host) => {
                host.heard = now;
                host.beat = if record.standing == Standing::Gone {
                    u64::MAX
                } else {
                    beat.number
                };
                if host.record != record {
                    host.record = record;
                    effects.push(Effect::Changed(member(name, &host.record, host.record.standing)));
                }
            }
            None if len < HOSTS_MAX => {
                effects.push(Effect::Changed(member(name, &record, record.standing)));
                let (heard, beat) = (now, beat.number);
                self.hosts
                    .insert(record.address.clone(), Host { record, heard, beat });
            }
            None => {}
        }
    }

    /// Takes over a digest. Who `judges` by itself only learns of hosts that it does not know.
    pub(super) fn told(
        &mut self,
        name: &str,
        me: &Address,
        digest: Digest,
        judges: bool,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Told {
        // It was overtaken, or comes twice; what it says may be past.
        if let Some((by, number)) = &self.last
            && *by == digest.by
            && digest.number <= *number
        {
            return Told::Follows;
        }
        self.told = now;
        if std::mem::take(&mut self.silent) {
            let alive = self
                .members(name)
                .filter(|member| member.standing == Standing::Alive);
            effects.extend(alive.map(Effect::Changed));
        }
        let before = self.last.take();
        if !judges {
            self.last = Some((digest.by.clone(), digest.number));
        }
        let follows = before.is_some_and(|(by, number)| by == digest.by && number + 1 == digest.number);
        if digest.all && !judges {
            let told: std::collections::BTreeSet<_> = digest.hosts.iter().map(|host| &host.address).collect();
            for (address, host) in &mut self.hosts {
                if !told.contains(address) && host.record.standing != Standing::Gone && address != me {
                    host.record.standing = Standing::Gone;
                    host.heard = now;
                    effects.push(Effect::Changed(member(name, &host.record, Standing::Gone)));
                }
            }
        }
        for record in digest.hosts {
            if record.address != *me {
                self.take_over(name, record, judges, now, effects);
            }
        }
        self.hosts.retain(|_, host| {
            host.record.standing != Standing::Gone || now.saturating_sub(host.heard) <= REMEMBERED
        });
        match (digest.all || judges, follows) {
            (true, _) => Told::All,
            (false, true) => Told::Follows,
            (false, false) => Told::Missed,
        }
    }

    fn take_over(
        &mut self,
        name: &str,
        record: Record,
        judges: bool,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let len = self.hosts.len();
        match self.hosts.get_mut(&record.address) {
            Some(_) if judges => {}
            Some(host) => {
                if record.edition < host.record.edition && record.standing == host.record.standing {
                    return;
                }
                if host.record != record {
                    host.record = record;
                    if host.record.standing == Standing::Gone {
                        host.heard = now;
                    }
                    effects.push(Effect::Changed(member(name, &host.record, host.record.standing)));
                }
            }
            None if len < HOSTS_MAX && record.standing != Standing::Gone => {
                effects.push(Effect::Changed(member(name, &record, record.standing)));
                let (heard, beat) = (now, 0);
                self.hosts
                    .insert(record.address.clone(), Host { record, heard, beat });
            }
            None => {}
        }
    }
}
