//! Answers to tools that are longer than a message, or go on.
//!
//! Owns what is left of them. A tool may be sent one message for each that it sends, so the host that answers keeps the
//! rest, says where it is, and gives the next part to who asks for it, by way of whichever host that is asked. Nothing is
//! read before it is asked for, and what nobody asks for is dropped. It must not know what is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wasmtime_wasi_http::Error;
use weft_compose::HostName;
use weft_lattice::envelope::{Failure, FailureKind};
use weft_lattice::rpc::{Door, Invocation};

use super::http::{HostBody, response_of};
use super::service::{HOST_TARGET, HostService};
use crate::admin::lattice::call;

/// The header of a request whose sender takes the answer in parts.
pub const PARTS: &str = "weft-parts";
/// The header of an answer that says where the rest of it is.
pub const REST: &str = "weft-rest";
/// The function of the admin API that gives the next part.
pub const REST_FUNCTION: &str = "rest";

/// KiB that all rests have together: two of the longest answers that commands take.
const KEPT_KIB_MAX: u32 = 128 << 10;
/// KiB that one counts for at least, so that there are not too many.
const KEPT_KIB_MIN: u32 = 256;
/// KiB that one counts for whose length is not known: the lines of a log that are kept.
const OPEN_KIB: u32 = 4 << 10;
/// How long it is kept that nobody asks for the next part: who reads asks at once.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// How long a part that was asked for waits for its first byte; then it is an empty one.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// How long it waits for more, once there is something.
const MORE_WAIT: Duration = Duration::from_millis(50);

/// What is left of an answer.
pub(super) struct Rest {
    body: HostBody,
    /// Read and not given.
    read: Bytes,
    over: bool,
}

impl Rest {
    /// All of `body`.
    pub(super) fn of(body: HostBody) -> Self {
        Self {
            body,
            read: Bytes::new(),
            over: false,
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The next part: as much as there is soon, and at most `len_max` bytes.
    ///
    /// # Errors
    /// The answer broke off.
    pub(super) async fn part(&mut self, len_max: usize) -> Result<Bytes, Error> {
        let mut part = BytesMut::new();
        let mut until = Instant::now() + FIRST_WAIT;
        while part.len() < len_max {
            if self.read.is_empty() {
                match tokio::time::timeout_at(until, self.body.frame()).await {
                    Err(_) => break,
                    Ok(None) => {
                        self.over = true;
                        break;
                    }
                    // Trailers say nothing.
                    Ok(Some(frame)) => self.read = frame?.into_data().unwrap_or_default(),
                }
                continue;
            }
            if part.is_empty() {
                until = until.min(Instant::now() + MORE_WAIT);
            }
            let len = self.read.len().min(len_max - part.len());
            part.extend_from_slice(&self.read.split_to(len));
        }
        self.over |= self.read.is_empty() && self.body.is_end_stream();
        Ok(part.freeze())
    }

    /// How many KiB it counts for.
    fn kib(&self) -> u32 {
        match self.body.size_hint().exact() {
            None => OPEN_KIB,
            Some(len) => {
                let kib = len.saturating_add(self.read.len() as u64).div_ceil(1 << 10);
                u32::try_from(kib).unwrap_or(u32::MAX).max(KEPT_KIB_MIN)
            }
        }
    }
}

/// Rests that are kept.
pub(super) struct Rests {
    kept: Mutex<HashMap<String, Kept>>,
    room: Arc<Semaphore>,
}

struct Kept {
    namespace: String,
    rest: Rest,
    _room: OwnedSemaphorePermit,
    since: Instant,
}

impl Default for Rests {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            room: Arc::new(Semaphore::new(KEPT_KIB_MAX as usize)),
        }
    }
}

impl Rests {
    /// Keeps it for who has rights for `namespace`, and gives its name; `None` if there is no room.
    pub(super) fn keep(&self, namespace: &str, rest: Rest) -> Option<String> {
        let room = self.room.clone().try_acquire_many_owned(rest.kib()).ok()?;
        Some(self.put(Kept {
            namespace: namespace.to_owned(),
            rest,
            _room: room,
            since: Instant::now(),
        }))
    }

    /// Under a new name each time, so that a request that comes again does not get the part after the one that it asked
    /// for.
    fn put(&self, kept: Kept) -> String {
        let name = format!("{:032x}", rand::random::<u128>());
        self.lock().insert(name.clone(), kept);
        name
    }

    fn take(&self, namespace: &str, name: &str) -> Option<Kept> {
        let mut kept = self.lock();
        kept.get(name).filter(|kept| kept.namespace == namespace)?;
        kept.remove(name)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.lock().len() as u64
    }

    /// Drops those that nobody asks for.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut kept = self.lock();
        let idle = kept.extract_if(|_, kept| now.duration_since(kept.since) > IDLE_MAX);
        let idle: Vec<_> = idle.collect();
        // What is dropped may reset a stream, which needs no lock.
        drop(kept);
        drop(idle);
    }

    /// Drops all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostService {
    /// The next part of an answer, for a tool that names the host that keeps it.
    pub(super) async fn rest(&self, namespace: &str, invocation: &Invocation) -> Result<Bytes, Failure> {
        if invocation.door != Door::ApiRead {
            let detail = format!("the rest of an answer is read: it is asked for on api.read.{namespace}");
            return Err(Failure::not_started(FailureKind::Denied, detail));
        }
        let Some((host, name)) = named(&invocation.body) else {
            return Err(gone("a host that is not named"));
        };
        if host == self.mesh.name.as_str() {
            return self.rest_here(namespace, name).await;
        }
        let known: Option<HostName> = host.parse().ok();
        let reach = known.and_then(|host| self.mesh.host(&host).reach());
        let reach = reach.ok_or_else(|| gone(host))?;
        let mut asked = call(HOST_TARGET, &invocation.caller);
        asked.function = REST_FUNCTION.to_owned();
        asked.body = format!("{namespace}/{name}").into();
        asked.deadline = invocation.deadline;
        Ok(reach.client.call(&reach.targets, asked).await?.body)
    }

    /// The same for another host, which says whose rights the tool has.
    pub(super) async fn rest_for_host(&self, invocation: &Invocation) -> Result<Bytes, Failure> {
        match named(&invocation.body) {
            Some((namespace, name)) => self.rest_here(namespace, name).await,
            None => Err(gone(self.mesh.name.as_str())),
        }
    }

    async fn rest_here(&self, namespace: &str, name: &str) -> Result<Bytes, Failure> {
        let host = self.mesh.name.as_str();
        let mut kept = self.mesh.rests.take(namespace, name).ok_or_else(|| gone(host))?;
        let part = kept.rest.part(self.mesh.part_len_max()).await;
        let part = part.map_err(|error| {
            Failure::started(FailureKind::Unavailable, format!("the answer broke off: {error}"))
        })?;
        let (mut head, ()) = Response::new(()).into_parts();
        if !kept.rest.is_over() {
            kept.since = Instant::now();
            head.headers
                .insert(REST, self.mesh.place_of_rest(&self.mesh.rests.put(kept)));
        }
        Ok(response_of(&head, Some(part)))
    }
}

impl super::Mesh {
    /// Bytes of a part: those of a message, without what goes beside.
    pub(super) fn part_len_max(&self) -> usize {
        self.message_len_max().saturating_sub(ENVELOPE_LEN).max(1)
    }

    /// What a tool is told of where a rest is.
    pub(super) fn place_of_rest(&self, name: &str) -> HeaderValue {
        // Names of hosts are labels, and that of a rest is hex.
        HeaderValue::from_str(&format!("{}/{name}", self.name)).unwrap_or(HeaderValue::from_static(""))
    }
}

/// What an answer has beside the body of a response: its envelope and heads.
const ENVELOPE_LEN: usize = 16 << 10;

fn named(body: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(body).ok()?.split_once('/')
}

fn gone(host: &str) -> Failure {
    let host: String = host.chars().filter(|c| !c.is_control()).take(64).collect();
    let detail = format!(
        "{host} does not have the rest of this answer: it is kept for {} s after a part was asked for, and not longer than \
         its host runs; ask again from the beginning",
        IDLE_MAX.as_secs()
    );
    Failure::not_started(FailureKind::NotFound, detail)
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::super::http::whole;
    use super::*;

    fn endless() -> HostBody {
        HostBody::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Error>>()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_an_answer_are_the_answer() {
        let answer = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
        let mut rest = Rest::of(whole(answer.clone()));
        let mut parts = Vec::new();
        while !rest.is_over() {
            parts.push(rest.part(30_000).await.unwrap());
        }
        assert_eq!(
            parts.iter().map(Bytes::len).collect::<Vec<_>>(),
            [30_000, 30_000, 30_000, 10_000]
        );
        assert_eq!(parts.concat(), answer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_an_answer_that_goes_on_is_what_there_is_soon_and_may_be_empty() {
        let begin = Instant::now();
        let mut rest = Rest::of(endless());
        assert_eq!(rest.part(10).await.unwrap(), Bytes::new());
        assert_eq!(begin.elapsed(), FIRST_WAIT);
        let frames = stream::iter([Ok::<_, Error>(Frame::data(Bytes::from_static(b"line\n")))]);
        let frames = frames.chain(stream::pending());
        let mut rest = Rest::of(HostBody::new(StreamBody::new(frames)));
        let begin = Instant::now();
        assert_eq!(rest.part(10).await.unwrap(), "line\n");
        assert_eq!(begin.elapsed(), MORE_WAIT);
        assert!(!rest.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_its_namespaces_alone_and_given_once_and_dropped_when_nobody_asks() {
        let rests = Rests::default();
        let name = rests.keep("team", Rest::of(endless())).unwrap();
        assert!(rests.take("other", &name).is_none());
        let kept = rests.take("team", &name).unwrap();
        assert!(rests.take("team", &name).is_none());
        let again = rests.put(kept);
        assert_ne!(again, name);
        tokio::time::advance(IDLE_MAX / 2).await;
        rests.sweep();
        assert_eq!(rests.count(), 1);
        tokio::time::advance(IDLE_MAX).await;
        rests.sweep();
        assert_eq!(rests.count(), 0);
    }

    #[tokio::test]
    async fn rests_beyond_the_room_for_them_are_refused_until_others_have_ended() {
        let rests = Rests::default();
        let all = KEPT_KIB_MAX / OPEN_KIB;
        for _ in 0..all {
            rests.keep("team", Rest::of(endless())).unwrap();
        }
        assert!(rests.keep("team", Rest::of(endless())).is_none());
        rests.clear();
        assert!(rests.keep("team", Rest::of(endless())).is_some());
    }
}
