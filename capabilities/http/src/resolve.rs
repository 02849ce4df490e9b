//! Names to addresses, kept for a while.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::HttpError;

/// How long an answer is used: the system does not tell its time to live, and hosts move.
const KEPT: Duration = Duration::from_secs(30);
/// Names that are kept, at most.
const NAMES_MAX: usize = 1_024;
/// Addresses of one name that are used, at most.
const ADDRESSES_MAX: usize = 16;

/// Finds a host's addresses.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, a name in lower case.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// Asks the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// A resolver's answers, each for [`KEPT`].
pub(crate) struct Cache {
    resolver: Arc<dyn Resolve>,
    kept: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Cache {
    pub(crate) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            kept: Mutex::default(),
        }
    }

    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, HttpError> {
        let now = Instant::now();
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((until, addresses)) = kept.get(host)
                && *until > now
            {
                return Ok(addresses.clone());
            }
        }
        let mut addresses = self
            .resolver
            .resolve(host)
            .await
            .map_err(|error| HttpError::DnsError(error.to_string()))?;
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return Err(HttpError::DnsError("it has no address".to_owned()));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= NAMES_MAX {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() >= NAMES_MAX {
            kept.clear();
        }
        kept.insert(host.to_owned(), (now + KEPT, addresses.clone()));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// Gives another address each time, as a name does that is to get past a check.
    #[derive(Default)]
    struct Rebinding(AtomicU8);

    impl Resolve for Rebinding {
        fn resolve(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let last = self.0.fetch_add(1, Ordering::Relaxed);
            async move { Ok(vec![IpAddr::from([1, 1, 1, last])]) }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_its_time_and_no_longer() {
        let cache = Cache::new(Arc::new(Rebinding::default()));
        let first = cache.resolve("a.test").await.unwrap();
        tokio::time::advance(KEPT - Duration::from_secs(1)).await;
        assert_eq!(cache.resolve("a.test").await.unwrap(), first);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_ne!(cache.resolve("a.test").await.unwrap(), first);
    }

    #[tokio::test]
    async fn as_many_names_are_kept_as_there_is_room_for() {
        let cache = Cache::new(Arc::new(Rebinding::default()));
        for name in 0..NAMES_MAX * 2 {
            cache.resolve(&format!("{name}.test")).await.unwrap();
        }
        assert!(cache.kept.lock().unwrap().len() <= NAMES_MAX);
    }
}
