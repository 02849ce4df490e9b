//! Which keys come next, out of what JetStream tells of a stream's subjects: keys of key-value, names of objects. And of its
//! streams, which it tells in sections, too: containers.
//!
//! It tells all of them at once, up to 100,000; of more, it sorts them and tells a section that begins at a number. Each
//! section is of its own moment, and numbers shift as keys come and go. So each section has to begin at or before the
//! last subject of those before it: then no key that stays is between two of them.

use std::collections::BTreeSet;

/// How many subjects a section repeats of the one before: what may be deleted meanwhile. If more was, the next try goes
/// back twice as far.
const OVERLAP: usize = 1_000;

/// A page that is being gathered.
pub(crate) struct Listing {
    after: Option<String>,
    /// The smallest keys after it, one more than the page takes: it tells whether more follow.
    keys: BTreeSet<String>,
    len_max: usize,
    /// Of all subjects up to this one it is known whether they stay.
    known_to: Option<String>,
    offset: usize,
    overlap: usize,
}

impl Listing {
    /// Of at most `limit` keys after `after`.
    pub(crate) fn new(after: Option<&str>, limit: usize) -> Self {
        Self {
            after: after.map(str::to_owned),
            keys: BTreeSet::new(),
            len_max: limit + 1,
            known_to: None,
            offset: 0,
            overlap: OVERLAP,
        }
    }

    /// Where the next section has to begin.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Takes the section that begins at [`Listing::offset`], of a bucket of `total` subjects. Whether it was the last one.
    pub(crate) fn take(
        &mut self,
        total: usize,
        subjects: impl ExactSizeIterator<Item = String>,
        key: impl Fn(&str) -> Option<String>,
    ) -> bool {
        let len = subjects.len();
        let (mut first, mut last): (Option<String>, Option<String>) = (None, None);
        for subject in subjects {
            if let Some(key) = key(&subject) {
                self.put(key);
            }
            if first.as_ref().is_none_or(|first| subject < *first) {
                first = Some(subject.clone());
            }
            if last.as_ref().is_none_or(|last| subject > *last) {
                last = Some(subject);
            }
        }
        if self.offset > 0 && (first.is_none() || first > self.known_to) {
            self.offset = self.offset.min(total).saturating_sub(self.overlap);
            self.overlap *= 2;
            return false;
        }
        let end = self.offset + len;
        self.known_to = last.max(self.known_to.take());
        // At least one, to compare by, and not the whole section, which would be asked for without end.
        self.overlap = (len / 2).clamp(1, OVERLAP);
        self.offset = end.saturating_sub(self.overlap);
        len == 0 || end >= total
    }

    fn put(&mut self, key: String) {
        let follows = self.after.as_ref().is_none_or(|after| key > *after);
        let is_near = self.keys.len() < self.len_max || self.keys.last().is_some_and(|last| key < *last);
        if follows && is_near {
            self.keys.insert(key);
            if self.keys.len() > self.len_max {
                self.keys.pop_last();
            }
        }
    }

    /// The keys, and whether more follow.
    pub(crate) fn finish(mut self) -> (Vec<String>, bool) {
        let more = self.keys.len() == self.len_max;
        if more {
            self.keys.pop_last();
        }
        (self.keys.into_iter().collect(), more)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    /// As a server does that tells `section` subjects at once.
    fn list(
        stays: &BTreeSet<String>,
        others: &[BTreeSet<String>],
        section: usize,
        after: Option<&str>,
        limit: usize,
    ) -> (Vec<String>, bool) {
        let mut listing = Listing::new(after, limit);
        for turn in 0.. {
            assert!(turn < 10_000, "it never ends");
            // What comes and goes is another with each question, until the sections are more than the changes.
            let now: Vec<_> = stays
                .union(&others[turn.min(others.len() - 1)])
                .cloned()
                .collect();
            let from = listing.offset().min(now.len());
            let told: Vec<_> = now[from..].iter().take(section).cloned().collect();
            if listing.take(now.len(), told.into_iter(), |subject| Some(subject.to_owned())) {
                break;
            }
        }
        listing.finish()
    }

    fn keys(len: std::ops::Range<usize>) -> impl Strategy<Value = BTreeSet<String>> {
        btree_set("[a-e]{1,4}", len)
    }

    proptest! {
        #[test]
        fn what_stays_is_listed_whatever_else_comes_and_goes(
            stays in keys(0..60),
            others in vec(keys(0..60), 1..12),
            section in 2_usize..20,
        ) {
            let (listed, more) = list(&stays, &others, section, None, 1_000);
            prop_assert!(!more);
            prop_assert!(listed.is_sorted());
            prop_assert!(stays.iter().all(|key| listed.contains(key)));
        }

        #[test]
        fn pages_are_what_the_sorted_keys_are(
            all in keys(0..60),
            section in 2_usize..80,
            limit in 1_usize..10,
        ) {
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let (page, more) = list(&all, &[BTreeSet::new()], section, after.as_deref(), limit);
                prop_assert!(page.len() <= limit);
                after = page.last().cloned();
                paged.extend(page);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(paged, all.into_iter().collect::<Vec<_>>());
        }
    }
}
