//! Which connection a caller uses: one of its own runtime, where there is one.
//!
//! Owns the connections. What waits for a reply is then woken by the thread that reads it, and no operation wakes another
//! thread: a host serves on one runtime for each core. The first connection is the store's: it is made when the store is
//! opened, its faults are what callers and the log are told, and all use it who have none of their own, or none yet.

use std::sync::{Arc, PoisonError, RwLock};

use redis::RedisResult;
use redis::aio::PubSub;
use tokio::runtime::{Handle, Id};
use weft_capabilities::KeyValueError;

use crate::RedisOptions;
use crate::error::OpenError;
use crate::link::{Connection, Link, Settings};

/// The connections of one store.
pub(crate) struct Lanes {
    settings: Settings,
    first: Lane,
    /// Besides the first, at most.
    others_max: usize,
    /// `None` once the store is closed.
    others: RwLock<Option<Vec<Lane>>>,
}

struct Lane {
    runtime: Id,
    link: Arc<Link>,
}

/// A connection, and who is to be told how it did.
pub(crate) struct Way {
    pub(crate) connection: Connection,
    pub(crate) link: Arc<Link>,
}

impl Lanes {
    /// Starts to connect, on the runtime that this is called on.
    pub(crate) fn start(options: &RedisOptions) -> Result<Self, OpenError> {
        let settings = Settings::read(options)?;
        Ok(Self {
            first: Lane::start(&settings, true)?,
            settings,
            others_max: options.connections.saturating_sub(1),
            others: RwLock::new(Some(Vec::new())),
        })
    }

    /// The database that keys are in.
    pub(crate) fn database(&self) -> i64 {
        self.settings.database()
    }

    /// A connection for what the server tells by itself, which is nobody else's.
    pub(crate) async fn listening(&self) -> RedisResult<PubSub> {
        self.settings.listen().await
    }

    /// The caller's way, or why there is none; `None` before the first try to connect has ended.
    pub(crate) fn known(&self) -> Option<Result<Way, KeyValueError>> {
        let here = Handle::current().id();
        if here != self.first.runtime
            && let Some(way) = self.own(here)
        {
            return Some(Ok(way));
        }
        let known = self.first.link.known()?;
        Some(known.map(|connection| self.first.way(connection)))
    }

    /// The first connection, once it is known how it stands.
    pub(crate) async fn first(&self) -> Result<Way, KeyValueError> {
        let connection = self.first.link.connection().await?;
        Ok(self.first.way(connection))
    }

    /// The way of a runtime's own, if it is there; if it is not it is begun.
    fn own(&self, runtime: Id) -> Option<Way> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let lanes = others.as_ref()?;
        let mine = lanes.iter().find(|lane| lane.runtime == runtime);
        if let Some(way) = mine.and_then(Lane::up) {
            return Some(way);
        }
        // Of a runtime that has gone, another may have the number.
        let live = || lanes.iter().filter(|lane| !lane.link.has_ended());
        let has_room = live().count() < self.others_max && live().all(|lane| lane.runtime != runtime);
        drop(others);
        // While the server is away, one connection that tries is enough.
        if has_room && self.first.link.up().is_some() {
            self.begin(runtime);
        }
        None
    }

    fn begin(&self, runtime: Id) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let Some(lanes) = others.as_mut() else { return };
        lanes.retain(|lane| !lane.link.has_ended());
        if lanes.len() >= self.others_max || lanes.iter().any(|lane| lane.runtime == runtime) {
            return;
        }
        // The same settings made the first one.
        if let Ok(lane) = Lane::start(&self.settings, false) {
            lanes.push(lane);
        }
    }

    /// Refuses whoever asks from now on.
    pub(crate) fn refuse(&self) {
        self.first.link.refuse();
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        for lane in others.iter().flatten() {
            lane.link.refuse();
        }
    }

    /// Ends all connections.
    pub(crate) async fn end(&self) {
        let others = self.others.write().unwrap_or_else(PoisonError::into_inner).take();
        for lane in others.into_iter().flatten() {
            lane.link.end().await;
        }
        self.first.link.end().await;
    }
}

impl Lane {
    fn start(settings: &Settings, tells: bool) -> Result<Self, OpenError> {
        Ok(Self {
            runtime: Handle::current().id(),
            link: Arc::new(Link::start(settings, tells)?),
        })
    }

    fn up(&self) -> Option<Way> {
        self.link.up().map(|connection| self.way(connection))
    }

    fn way(&self, connection: Connection) -> Way {
        Way {
            connection,
            link: self.link.clone(),
        }
    }
}
