//! The requests of one actor by method and status, recorded without a lock.
//!
//! Owns the bound on their number: a guest picks its status codes. Must not know names of attributes, nor
//! whose series they are.

use std::sync::atomic::{AtomicU32, Ordering};

use super::description::CALL_NANOS;
use super::instrument::Histogram;
use crate::attributes::HTTP_METHOD_OTHER;

/// Pairs of method and status that one actor has series for. A guest picks its status codes, so it is
/// bounded.
pub(super) const HTTP_SERIES_PER_ACTOR_MAX: usize = 64;

const METHODS: [&str; 10] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    HTTP_METHOD_OTHER,
];

/// The index in [`METHODS`].
fn known_method(method: &http::Method) -> u32 {
    let known = METHODS.iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1) as u32
}

/// The series of one actor by method and status: places are taken from the front, and never given back.
pub(super) struct HttpSeries {
    /// `method << 16 | status | KEY_SET`; zero from the first free place on.
    keys: [AtomicU32; HTTP_SERIES_PER_ACTOR_MAX],
    series: [Histogram; HTTP_SERIES_PER_ACTOR_MAX],
    overflow: Histogram,
}

const KEY_SET: u32 = 1 << 31;

impl Default for HttpSeries {
    fn default() -> Self {
        Self {
            keys: [const { AtomicU32::new(0) }; HTTP_SERIES_PER_ACTOR_MAX],
            series: [const { Histogram::new(CALL_NANOS) }; HTTP_SERIES_PER_ACTOR_MAX],
            overflow: Histogram::new(CALL_NANOS),
        }
    }
}

impl HttpSeries {
    /// Relaxed throughout: a key says only whose place it is, and the histogram there looks after itself.
    pub(super) fn of(&self, method: &http::Method, status: u16) -> &Histogram {
        let key = KEY_SET | known_method(method) << 16 | u32::from(status);
        for (place, histogram) in self.keys.iter().zip(&self.series) {
            let owner = match place.load(Ordering::Relaxed) {
                0 => match place.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => key,
                    Err(faster) => faster,
                },
                owner => owner,
            };
            if owner == key {
                return histogram;
            }
        }
        &self.overflow
    }

    /// Each pair with its histogram; `None` for what no place was left for.
    pub(super) fn series(&self) -> impl Iterator<Item = (Option<(&'static str, u16)>, &Histogram)> {
        let keys = self
            .keys
            .iter()
            .map(|key| key.load(Ordering::Relaxed))
            .take_while(|key| *key != 0);
        let pairs = keys.map(|key| Some((METHODS[((key & !KEY_SET) >> 16) as usize], key as u16)));
        pairs.zip(&self.series).chain([(None, &self.overflow)])
    }
}
