//! Whether a provider's backend answers.
//!
//! Owns what one host knows of it, the task that asks, and the circuit: while a backend does not answer, calls fail at once
//! with the reason, and only that task tries it. A call that fails makes it look at once; calls that succeed spare it the
//! look. It must not know what a backend does.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use weft_capabilities::{BlobError, KeyValueError, MessagingError, SqlError};
use weft_compose::ProviderName;

use crate::cli::chain;

/// The longest wait for an answer: a second more than a statement waits for a connection when all are busy.
const ANSWER_WAIT: Duration = Duration::from_secs(6);
/// The least time between two looks at a backend that answers, however many calls fail.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Looks in a row that have to fail until it is down: a connection that is made anew is no fault.
const DOWN_AFTER: u32 = 2;
/// The pause after a look at a backend that did not answer, which doubles with each, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The least time between two lines of the log on calls that fail, such as those of a store whose disk is full.
const FAILURE_TOLD_EACH: Duration = Duration::from_secs(10);
/// The longest reason that is kept, in bytes: it is a server's text.
const REASON_LEN_MAX: usize = 300;

/// What an error says of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Answers,
    /// It answers, and lets nobody in.
    Denied,
    /// It does not answer, or fails.
    Away,
}

/// An error by which a backend is judged.
pub trait Judged {
    /// What it says of the backend.
    fn verdict(&self) -> Verdict;

    /// Why, for an operator.
    fn reason(&self) -> String;
}

impl Judged for KeyValueError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::AccessDenied => Verdict::Denied,
            Self::Unavailable(_) | Self::Backend(_) => Verdict::Away,
            _ => Verdict::Answers,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::AccessDenied => "the server refuses the user or the password".to_owned(),
            Self::Unavailable(reason) => reason.clone(),
            Self::Backend(error) => chain(&**error),
            other => other.to_string(),
        }
    }
}

impl Judged for BlobError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::AccessDenied => Verdict::Denied,
            Self::Unavailable(_) | Self::Backend(_) => Verdict::Away,
            _ => Verdict::Answers,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::AccessDenied => "the server refuses the key".to_owned(),
            Self::Unavailable(reason) => reason.clone(),
            Self::Backend(error) => chain(&**error),
            other => other.to_string(),
        }
    }
}

impl Judged for MessagingError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Denied { .. } => Verdict::Denied,
            Self::Unavailable(_) | Self::Backend(_) => Verdict::Away,
            // That nobody listens, or nobody answers in time, is the other actors' doing.
            _ => Verdict::Answers,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Denied { .. } => "the server refuses the user, or what it may not do".to_owned(),
            Self::Unavailable(reason) => reason.clone(),
            Self::Backend(error) => chain(&**error),
            other => other.to_string(),
        }
    }
}

impl Judged for SqlError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Unavailable { .. }
            | Self::MayHaveCommitted
            | Self::DeadlineExceeded
            | Self::Backend { .. } => Verdict::Away,
            _ => Verdict::Answers,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Unavailable { message } => message.clone(),
            Self::Backend { source } => chain(&**source),
            other => other.to_string(),
        }
    }
}

/// How a backend stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthState {
    /// Nobody has asked it yet.
    Unknown,
    /// It answers, since this many seconds after 1970.
    Up(u64),
    /// It does not.
    Down {
        /// Why.
        reason: String,
        /// Whether it answered, and let nobody in.
        denied: bool,
        /// Seconds since 1970.
        since: u64,
    },
}

impl HealthState {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up(_) => "up",
            Self::Down { .. } => "down",
        }
    }
}

/// The health of one provider on this host.
pub struct Health {
    name: ProviderName,
    standing: Mutex<HealthState>,
    /// Whether calls are refused.
    open: AtomicBool,
    /// Whether a call was answered since the last look.
    answered: AtomicBool,
    /// A call failed.
    alarm: Notify,
    downs: AtomicU64,
    refused: AtomicU64,
    /// When the log was last told of a call that failed.
    told: Mutex<Option<Instant>>,
}

/// Numbers of a provider, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthStats {
    /// Times that it went down.
    pub downs: u64,
    /// Calls that were refused at once.
    pub refused: u64,
}

impl Health {
    /// Of a provider that nobody has asked yet.
    pub fn new(name: ProviderName) -> Arc<Self> {
        Arc::new(Self {
            name,
            standing: Mutex::new(HealthState::Unknown),
            open: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            alarm: Notify::new(),
            downs: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            told: Mutex::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub fn standing(&self) -> HealthState {
        self.lock().clone()
    }

    /// Whether calls are refused at once. A server that refuses the user is asked all the same: the next call may be for
    /// what that user may do.
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Numbers since it was opened.
    pub fn stats(&self) -> HealthStats {
        HealthStats {
            downs: self.downs.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }

    /// Why a call is refused now; asked before each.
    pub fn refusal(&self) -> Option<String> {
        if !self.is_open() {
            return None;
        }
        match &*self.lock() {
            HealthState::Down { reason, .. } => {
                self.refused.fetch_add(1, Relaxed);
                Some(reason.clone())
            }
            _ => None,
        }
    }

    /// Takes note of what became of a call.
    pub fn note<T, E: Judged>(&self, result: &Result<T, E>) {
        match result.as_ref().map_err(|error| (error.verdict(), error)) {
            Ok(_) | Err((Verdict::Answers, _)) => {
                // A store of each call would have all threads write to one line of memory.
                if !self.answered.load(Relaxed) {
                    self.answered.store(true, Relaxed);
                }
            }
            Err((Verdict::Denied | Verdict::Away, error)) => {
                self.tell_failure(error);
                self.alarm.notify_one();
            }
        }
    }

    /// Guests are told no cause, and a backend that answers the look after is not down: the log alone has this.
    fn tell_failure(&self, error: &impl Judged) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= FAILURE_TOLD_EACH) {
            *told = Some(Instant::now());
            let (provider, reason) = (self.name.as_str(), cut(error.reason()));
            tracing::warn!(provider, reason, "a call failed in the provider");
        }
    }

    /// Asks the backend by `probe` for as long as it is polled: each `pace`, and whenever calls fail; without a pace only
    /// then.
    pub async fn watch<E: Judged, F: Future<Output = Result<(), E>>>(
        self: Arc<Self>,
        pace: Option<Duration>,
        probe: impl Fn() -> F,
    ) {
        let (mut pause, mut failures) = (BACKOFF_MIN, 0);
        let mut look = pace.is_some();
        if !look {
            self.set(Ok(()));
        }
        loop {
            if look {
                let answer = match timeout(ANSWER_WAIT, probe()).await {
                    Ok(Err(error)) if error.verdict() != Verdict::Answers => {
                        Err((error.reason(), error.verdict() == Verdict::Denied))
                    }
                    Ok(_) => Ok(()),
                    Err(_) => Err((format!("it did not answer within {ANSWER_WAIT:?}"), false)),
                };
                if answer.is_err() {
                    failures += 1;
                    if failures >= DOWN_AFTER {
                        self.set(answer);
                    }
                    // A half more or less, so that hosts don't come together.
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                    continue;
                }
                self.set(answer);
                failures = 0;
                pause = BACKOFF_MIN;
                sleep(LOOK_PAUSE).await;
            }
            let due = async {
                match pace {
                    Some(pace) => sleep(jittered(pace)).await,
                    None => std::future::pending().await,
                }
            };
            look = tokio::select! {
                () = self.alarm.notified() => true,
                // Who answers calls need not be asked.
                () = due => !self.answered.swap(false, Relaxed),
            };
        }
    }

    fn set(&self, answer: Result<(), (String, bool)>) {
        let mut standing = self.lock();
        let provider = self.name.as_str();
        match (answer, &mut *standing) {
            (Ok(()), HealthState::Up(_)) => {}
            (Ok(()), before) => {
                if let HealthState::Down { since, .. } = before {
                    let down_s = now().saturating_sub(*since);
                    tracing::info!(provider, down_s, "the provider answers again");
                }
                *before = HealthState::Up(now());
                self.open.store(false, Relaxed);
            }
            // The server may say it in other words each time.
            (Err((new, is_denied)), HealthState::Down { reason, denied, .. }) => {
                (*reason, *denied) = (cut(new), is_denied);
                self.open.store(!is_denied, Relaxed);
            }
            (Err((reason, denied)), before) => {
                let reason = cut(reason);
                tracing::warn!(
                    provider,
                    reason,
                    "the provider does not answer: calls fail at once until it does"
                );
                self.downs.fetch_add(1, Relaxed);
                *before = HealthState::Down {
                    reason,
                    denied,
                    since: now(),
                };
                self.open.store(!denied, Relaxed);
            }
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("name", &self.name)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_LEN_MAX));
    reason
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Server {
        health: Arc<Health>,
        /// 0 answers, 1 is away, 2 denies, 3 says nothing.
        mode: AtomicUsize,
        looks: AtomicUsize,
    }

    impl Server {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                health: Health::new("default/shop/carts".parse().unwrap()),
                mode: AtomicUsize::new(0),
                looks: AtomicUsize::new(0),
            })
        }

        async fn probe(&self) -> Result<(), KeyValueError> {
            self.looks.fetch_add(1, Relaxed);
            match self.mode.load(Relaxed) {
                0 => Ok(()),
                1 => Err(KeyValueError::Unavailable("connection refused".to_owned())),
                2 => Err(KeyValueError::AccessDenied),
                _ => std::future::pending().await,
            }
        }

        async fn run(self: Arc<Self>, pace: Option<Duration>, during: impl Future<Output = ()>) {
            let server = self.clone();
            let probe = move || {
                let server = server.clone();
                async move { server.probe().await }
            };
            tokio::select! {
                () = self.health.clone().watch(pace, probe) => {}
                () = during => {}
            }
        }

        async fn becomes(&self, word: &str) {
            let begun = Instant::now();
            while self.health.standing().as_str() != word {
                assert!(
                    begun.elapsed() < Duration::from_secs(60),
                    "never {word}: {:?}",
                    self.health
                );
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    const PACE: Option<Duration> = Some(Duration::from_secs(15));

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_goes_away_without_traffic_is_seen_and_seen_again_when_it_is_back() {
        let server = Server::new();
        let during = async {
            server.becomes("up").await;
            server.mode.store(1, Relaxed);
            server.becomes("down").await;
            assert_eq!(server.health.refusal().as_deref(), Some("connection refused"));
            assert_eq!(server.health.stats(), HealthStats { downs: 1, refused: 1 });
            server.mode.store(0, Relaxed);
            let back = Instant::now();
            server.becomes("up").await;
            assert!(back.elapsed() <= BACKOFF_MAX.mul_f64(1.6));
            assert_eq!(server.health.refusal(), None);
        };
        server.clone().run(PACE, during).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_makes_it_look_at_once_and_many_are_one_look() {
        let server = Server::new();
        let during = async {
            server.becomes("up").await;
            sleep(LOOK_PAUSE * 2).await;
            let failed: Result<(), _> = Err(KeyValueError::Unavailable(String::new()));
            for _ in 0..100 {
                server.health.note(&failed);
            }
            sleep(LOOK_PAUSE / 2).await;
            assert_eq!(server.looks.load(Relaxed), 2);
            assert_eq!(server.health.standing().as_str(), "up", "it answered after all");
        };
        server.clone().run(PACE, during).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_calls_is_not_asked_and_who_says_nothing_is_down() {
        let server = Server::new();
        let during = async {
            server.becomes("up").await;
            for _ in 0..100 {
                server.health.note(&Ok::<(), KeyValueError>(()));
                sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(server.looks.load(Relaxed), 1);
            server.mode.store(3, Relaxed);
            server.becomes("down").await;
            assert!(server.health.refusal().unwrap().contains("did not answer"));
        };
        server.clone().run(PACE, during).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_that_fails_is_no_fault() {
        let server = Server::new();
        let during = async {
            server.becomes("up").await;
            sleep(LOOK_PAUSE * 2).await;
            server.mode.store(1, Relaxed);
            server
                .health
                .note(&Err::<(), _>(KeyValueError::Unavailable(String::new())));
            sleep(BACKOFF_MIN / 4).await;
            assert_eq!(server.looks.load(Relaxed), 2);
            server.mode.store(0, Relaxed);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(server.health.stats().downs, 0);
        };
        server.clone().run(PACE, during).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lets_nobody_in_is_down_and_asked_by_each_call_all_the_same() {
        let server = Server::new();
        server.mode.store(2, Relaxed);
        let during = async {
            server.becomes("down").await;
            assert_eq!(server.health.refusal(), None);
            let HealthState::Down { reason, denied, .. } = server.health.standing() else {
                panic!("it is up");
            };
            assert!(denied && reason.contains("password"), "{reason}");
        };
        server.clone().run(PACE, during).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_in_this_process_is_only_looked_at_when_a_call_fails() {
        let server = Server::new();
        let during = async {
            server.becomes("up").await;
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(server.looks.load(Relaxed), 0);
            server.mode.store(1, Relaxed);
            server
                .health
                .note(&Err::<(), _>(KeyValueError::Unavailable(String::new())));
            server.becomes("down").await;
        };
        server.clone().run(None, during).await;
    }
}
