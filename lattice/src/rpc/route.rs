//! Which host a call goes to.
//!
//! Owns the order: the revision by canary weight first, then the nearest ring that has room (this host, its zone, its
//! region, anywhere), and of two random hosts there the less busy. A host that is full is passed over for the next
//! ring; one that is silent, or leaves, is the last resort. A pure function of what is known and of one random number.

use std::sync::Arc;

use super::peer::Peer;
use crate::subject::{Address, Subject};

/// Where a host is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its region.
    pub region: String,
    /// Its zone in the region.
    pub zone: String,
}

/// A host that a call may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub address: Address,
    /// Where it is.
    pub place: Place,
    /// The revision of the target that it runs.
    pub revision: u64,
}

/// How far away a host is, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ring {
    /// This host itself.
    Host,
    /// In the same zone.
    Zone,
    /// In the same region.
    Region,
    /// In another region.
    Far,
}

impl Ring {
    /// All, from near to far.
    pub const ALL: [Self; 4] = [Self::Host, Self::Zone, Self::Region, Self::Far];

    /// The word for it in spans and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Far => "far",
        }
    }

    pub(super) fn between(me: &Place, other: &Place) -> Self {
        if me.region != other.region {
            Self::Far
        } else if me.zone != other.zone {
            Self::Region
        } else {
            Self::Zone
        }
    }
}

/// The hosts that run one target, as one client sees them. Made when they change, not for each call.
pub struct Targets {
    pub(super) rows: Vec<Row>,
    /// A revision and its share of the calls. A revision that is not listed gets none while one that is can be reached.
    pub(super) weights: Vec<(u64, u32)>,
}

pub(super) struct Row {
    pub(super) peer: Arc<Peer>,
    pub(super) subject: Subject,
    pub(super) revision: u64,
    pub(super) ring: Ring,
}

impl Targets {
    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row to call, of those that were not `tried`.
    pub(super) fn choose(&self, tried: &[usize], now_ms: u64, random: u64) -> Option<usize> {
        let rank = |at: usize| {
            let row = &self.rows[at];
            (!tried.contains(&at)).then(|| (row.peer.health(now_ms), row.ring))
        };
        let revision = self.revision(tried, now_ms, random);
        let fits = |at: &usize| revision.is_none_or(|revision| self.rows[*at].revision == revision);
        let best = (0..self.rows.len()).filter(fits).filter_map(rank).min()?;
        let equals = || {
            (0..self.rows.len())
                .filter(fits)
                .filter(|at| rank(*at) == Some(best))
        };
        let (first, second) = two_of(equals().count(), random)?;
        let first = equals().nth(first)?;
        let Some(second) = second else { return Some(first) };
        let second = equals().nth(second)?;
        let score = |at: usize| self.rows[at].peer.score(now_ms);
        Some(if score(second) < score(first) {
            second
        } else {
            first
        })
    }

    /// The revision, by weight, of those that can be reached; `None` if any will do.
    fn revision(&self, tried: &[usize], now_ms: u64, random: u64) -> Option<u64> {
        if let [(only, _)] = self.weights[..]
            && self.rows.iter().all(|row| row.revision == only)
        {
            return None;
        }
        let reached = |revision: u64| {
            let mut rows = self.rows.iter().enumerate();
            rows.any(|(at, row)| {
                row.revision == revision
                    && !tried.contains(&at)
                    && row.peer.health(now_ms) < super::peer::Health::Silent
            })
        };
        let weights = || {
            self.weights
                .iter()
                .filter(|(revision, weight)| *weight > 0 && reached(*revision))
        };
        let whole: u64 = weights().map(|(_, weight)| u64::from(*weight)).sum();
        // Other bits than those that choose the host.
        let mut at = (random >> 40).checked_rem(whole)?;
        for (revision, weight) in weights() {
            match at.checked_sub(u64::from(*weight)) {
                None => return Some(*revision),
                Some(rest) => at = rest,
            }
        }
        None
    }
}

/// Two different numbers below `len`, or the one that there is.
fn two_of(len: usize, random: u64) -> Option<(usize, Option<usize>)> {
    let len = u64::try_from(len).ok()?;
    let first = (random & 0xf_ffff).checked_rem(len)?;
    let second = ((random >> 20) & 0xf_ffff)
        .checked_rem(len - 1)
        .map(|other| if other >= first { other + 1 } else { other });
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Some((index(first), second.map(index)))
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
