//! The pool's places, shared out among apps.
//!
//! Owns how the pool is divided: between root calls and the calls that those make, and among the apps. It must not know
//! where the wishes come from: [`crate::reconcile`] hands them in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use weft_compose::AppName;
use weft_observability::metrics::AppPlacesReport;

use super::room::{Answers, Room};
use super::share::{Common, Part};

/// Per cent of the pool that root calls may take. The rest is for calls that those make: with none left, they would
/// wait for each other for ever.
const ROOT_SHARE_PERCENT: u64 = 70;
/// Per cent of the root calls' share that is divided among apps that reserve nothing themselves. The rest is for
/// whoever needs it.
const DIVIDED_PERCENT: u64 = 50;

/// The places of a host's pool. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Pool>);

struct Pool {
    root_len: u32,
    nested_len: u32,
    root: Common,
    nested: Common,
    apps: Mutex<BTreeMap<AppName, Arc<AppPlaces>>>,
    /// Apps of which a root call waits for a root place.
    apps_waiting: AtomicU32,
    room: Mutex<Room>,
}

/// What one app has of them.
#[derive(Default)]
pub(super) struct AppPlaces {
    pub(super) root: Part,
    pub(super) nested: Part,
    /// Actors of which a root call waits for a root place.
    pub(super) waiting: AtomicU32,
}

impl Places {
    /// The places of a pool with `slots`.
    pub fn of_pool(slots: u32) -> Self {
        let root = (u64::from(slots) * ROOT_SHARE_PERCENT / 100).max(1);
        let root_len = u32::try_from(root).unwrap_or(u32::MAX);
        let nested_len = slots.saturating_sub(root_len);
        Self(Arc::new(Pool {
            root_len,
            nested_len,
            root: Common::new(root_len),
            nested: Common::new(nested_len),
            apps: Mutex::default(),
            apps_waiting: AtomicU32::new(0),
            room: Mutex::default(),
        }))
    }

    /// Keeps places for each app: as many as it asks for, or a fair part. All apps that are served have to be named;
    /// others keep nothing.
    ///
    /// Where less is to be had than is asked for, it is logged, and [`Self::report`] tells it. What is raised holds at
    /// once: until calls have ended that ran before, there may be as many more than the share has.
    pub fn reserve(&self, asked: &BTreeMap<AppName, Option<u32>>) {
        let (root, nested) = (
            divide(self.0.root_len, self.0.root_len, asked),
            divide(self.0.nested_len, self.0.root_len, asked),
        );
        let mut apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner);
        for name in asked.keys() {
            if let Entry::Vacant(entry) = apps.entry(name.clone()) {
                entry.insert(Arc::default());
            }
        }
        let granted = |name| root.get(name).copied().unwrap_or(0);
        for (name, app) in &*apps {
            let (before, now) = (app.root.reserved(), granted(name));
            if before != now
                && let Some(asked) = asked.get(name).copied().flatten().filter(|asked| *asked > now)
            {
                let (app, places) = (name.as_str(), self.0.root_len);
                tracing::warn!(
                    app,
                    asked,
                    granted = now,
                    places,
                    "fewer places are reserved than asked for: all apps together ask for more root calls than this host runs"
                );
            }
        }
        // First what is lowered, so that no more is promised than there is.
        for lowers in [true, false] {
            for (name, app) in &*apps {
                let (root_now, nested_now) = (granted(name), nested.get(name).copied().unwrap_or(0));
                if (root_now < app.root.reserved()) == lowers {
                    app.root.reserve(&self.0.root, root_now);
                }
                if (nested_now < app.nested.reserved()) == lowers {
                    app.nested.reserve(&self.0.nested, nested_now);
                }
            }
        }
        // Actors that still run hold theirs.
        apps.retain(|name, app| asked.contains_key(name) || Arc::strong_count(app) > 1);
        let apps: Vec<_> = apps.values().cloned().collect();
        self.serve(|room, answers| {
            apps.iter().for_each(|app| room.serve_app(app, answers));
            room.serve_apps(answers);
        });
    }

    /// What each app has, root calls and the calls they make.
    pub fn report(&self) -> Vec<AppPlacesReport> {
        let apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let report = apps.iter().map(|(name, app)| AppPlacesReport {
            app: name.as_str().into(),
            root_reserved: app.root.reserved().into(),
            root_used: app.root.used().into(),
            nested_reserved: app.nested.reserved().into(),
            nested_used: app.nested.used().into(),
        });
        report.collect()
    }

    pub(super) fn app(&self, name: &AppName) -> Arc<AppPlaces> {
        let mut apps = self.0.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.entry(name.clone()).or_default().clone()
    }

    pub(super) fn root(&self) -> &Common {
        &self.0.root
    }

    pub(super) fn nested(&self) -> &Common {
        &self.0.nested
    }

    pub(super) fn apps_waiting(&self) -> &AtomicU32 {
        &self.0.apps_waiting
    }

    /// Does something with those who wait, and tells those for whom something came of it.
    pub(super) fn serve<T>(&self, with: impl FnOnce(&mut Room, &mut Answers) -> T) -> T {
        let mut answers = Answers::new();
        let done = {
            let mut room = self.0.room.lock().unwrap_or_else(PoisonError::into_inner);
            with(&mut room, &mut answers)
        };
        for (caller, answer) in answers {
            // If it has gone, its place is dropped here, and thereby free for the next.
            let _ = caller.send(answer);
        }
        done
    }
}

/// What each app gets of a share of `len` places, where what is asked for is of one of `of`.
fn divide(len: u32, of: u32, asked: &BTreeMap<AppName, Option<u32>>) -> BTreeMap<AppName, u32> {
    let (len, of) = (u64::from(len), u64::from(of));
    let wanted: u64 = asked.values().flatten().map(|places| u64::from(*places)).sum();
    let silent = asked.values().filter(|places| places.is_none()).count() as u64;
    let divided = (len * DIVIDED_PERCENT / 100).saturating_sub(wanted * len / of);
    let fair = divided.checked_div(silent).unwrap_or(0);
    let granted = asked.iter().map(|(name, places)| {
        let places = match places {
            // At most all that is asked for together fits; else each gets as much less.
            Some(places) => u64::from(*places) * len / of.max(wanted),
            None => fair,
        };
        (name.clone(), u32::try_from(places).unwrap_or(u32::MAX))
    });
    granted.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apps(asked: &[Option<u32>]) -> BTreeMap<AppName, Option<u32>> {
        let named = asked.iter().enumerate();
        let named =
            named.map(|(n, places)| (AppName::new("default", &format!("app-{n:02}")).unwrap(), *places));
        named.collect()
    }

    fn divided(len: u32, asked: &[Option<u32>]) -> Vec<u32> {
        divide(len, len, &apps(asked)).into_values().collect()
    }

    #[test]
    fn apps_that_reserve_nothing_share_half_of_what_others_leave() {
        assert_eq!(divided(100, &[None, None]), [25, 25]);
        assert_eq!(divided(100, &[Some(30), None, None]), [30, 10, 10]);
        assert_eq!(divided(100, &[Some(80), None]), [80, 0]);
    }

    #[test]
    fn apps_that_ask_for_more_than_there_is_each_get_as_much_less() {
        assert_eq!(divided(100, &[Some(300), Some(100)]), [75, 25]);
    }

    #[test]
    fn calls_of_calls_are_reserved_in_the_same_proportion() {
        let nested: Vec<_> = divide(30, 70, &apps(&[Some(35), None])).into_values().collect();
        assert_eq!(nested, [15, 0]);
    }

    proptest! {
        #[test]
        fn no_more_is_promised_than_there_is(
            len in 1..20_000u32,
            asked in prop::collection::vec(prop::option::of(0..30_000u32), 0..50),
        ) {
            let granted = divided(len, &asked);
            prop_assert!(granted.iter().map(|places| u64::from(*places)).sum::<u64>() <= u64::from(len));
            let nested_len = len * 3 / 7;
            let nested = divide(nested_len, len, &apps(&asked));
            prop_assert!(nested.values().map(|places| u64::from(*places)).sum::<u64>() <= u64::from(nested_len));
            let fits = asked.iter().flatten().map(|places| u64::from(*places)).sum::<u64>() <= u64::from(len);
            for (asked, granted) in std::iter::zip(&asked, granted) {
                prop_assert!(!fits || asked.is_none_or(|asked| asked == granted));
            }
        }
    }
}
