//! Components that come in pieces, from senders whose messages are short.
//!
//! Owns what has come so far: it is in memory, and bounded in number, length and time. A piece says by `Content-Range`
//! where it belongs, and follows the one before it; the last one makes it whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::CONTENT_RANGE;
use axum::http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::component::COMPONENT_LEN_MAX;
use crate::digest::Digest;

/// Bytes that all unfinished ones have together: one of the longest.
const BYTES_MAX: u64 = COMPONENT_LEN_MAX;
/// How long the next piece may take; what is not gone on with makes room for others.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for those.
const SWEEP: Duration = Duration::from_secs(10);

/// Unfinished components, by their digests. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Uploads(Arc<Mutex<HashMap<Digest, Upload>>>);

struct Upload {
    bytes: Vec<u8>,
    /// What all of it will have, for which room is kept.
    total: u64,
    touched: Instant,
}

/// Where a piece belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    at: u64,
    len: u64,
    total: u64,
}

impl Piece {
    /// What a request's head says; `None` if its body is the whole.
    ///
    /// # Errors
    /// It is no range of bytes.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(CONTENT_RANGE) else {
            return Ok(None);
        };
        let parsed = value.to_str().ok().and_then(|text| {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let (at, last, total): (u64, u64, u64) =
                (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
            let len = last.checked_sub(at)?.checked_add(1)?;
            (last < total).then_some(Self { at, len, total })
        });
        parsed.map(Some).ok_or_else(|| {
            let detail = "Content-Range: expected `bytes FIRST-LAST/TOTAL`";
            Problem::new(StatusCode::BAD_REQUEST, "request", detail)
        })
    }
}

impl Uploads {
    /// Takes a piece; all of it, if this was the last one.
    ///
    /// # Errors
    /// It does not follow what has come, or there is no room.
    pub(super) fn take(
        &self,
        digest: Digest,
        piece: Piece,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Problem> {
        if bytes.len() as u64 != piece.len {
            let detail = format!(
                "the body has {} bytes, and Content-Range says {}",
                bytes.len(),
                piece.len
            );
            return Err(Problem::new(StatusCode::BAD_REQUEST, "request", detail));
        }
        let mut all = self.lock();
        if piece.at == 0 {
            all.remove(&digest);
            let kept: u64 = all.values().map(|upload| upload.total).sum();
            if piece.total > BYTES_MAX {
                let detail = format!("a component has at most {BYTES_MAX} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail));
            }
            if kept + piece.total > BYTES_MAX {
                let detail = "other components are being pushed in pieces: try again later";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
            }
            let begun = Upload {
                bytes: Vec::new(),
                total: piece.total,
                touched: Instant::now(),
            };
            all.insert(digest, begun);
        }
        let come = all
            .get_mut(&digest)
            .filter(|upload| upload.bytes.len() as u64 == piece.at && upload.total == piece.total);
        let Some(upload) = come else {
            let detail = format!(
                "this piece begins at {}, which is not where the last one ended: send all anew from the first one",
                piece.at
            );
            return Err(Problem::new(StatusCode::CONFLICT, "conflict", detail));
        };
        upload.bytes.extend_from_slice(bytes);
        upload.touched = Instant::now();
        if (upload.bytes.len() as u64) < upload.total {
            return Ok(None);
        }
        Ok(all.remove(&digest).map(|upload| upload.bytes))
    }

    /// Drops what is not gone on with, until `end`.
    pub(super) async fn sweep(self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            self.lock()
                .retain(|_, upload| upload.touched.elapsed() < IDLE_MAX);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Result<Option<Piece>, &'static str> {
        let headers = HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
        Piece::of(&headers).map_err(|problem| problem.code)
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        assert_eq!(
            piece("bytes 2-3/5"),
            Ok(Some(Piece {
                at: 2,
                len: 2,
                total: 5
            }))
        );
        assert!(matches!(Piece::of(&HeaderMap::new()), Ok(None)));
        for text in [
            "",
            "bytes 3-2/5",
            "bytes 0-5/5",
            "bytes */5",
            "lines 0-1/5",
            "bytes 0-18446744073709551615/5",
        ] {
            assert_eq!(piece(text), Err("request"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_in_order_make_it_whole_and_what_is_left_lying_makes_room() {
        let (uploads, digest) = (Uploads::default(), Digest::of(b"abc"));
        let take = |at, bytes: &[u8], total| {
            let len = bytes.len() as u64;
            uploads
                .take(digest, Piece { at, len, total }, bytes)
                .map_err(|problem| problem.code)
        };
        assert_eq!(take(0, b"ab", 3), Ok(None));
        assert_eq!(take(1, b"c", 3), Err("conflict"));
        assert_eq!(take(2, b"c", 3), Ok(Some(b"abc".to_vec())));
        assert_eq!(take(2, b"c", 3), Err("conflict"));
        assert_eq!(take(0, b"a", BYTES_MAX + 1), Err("too-large"));

        assert_eq!(take(0, b"a", BYTES_MAX), Ok(None));
        let other = || {
            let whole = Piece {
                at: 0,
                len: 1,
                total: 1,
            };
            uploads
                .take(Digest::of(b"x"), whole, b"x")
                .map_err(|problem| problem.code)
        };
        assert_eq!(other(), Err("busy"));
        let end = CancellationToken::new();
        let sweep = uploads.clone().sweep(end.clone());
        let later = async {
            tokio::time::sleep(IDLE_MAX + SWEEP).await;
            end.cancel();
        };
        tokio::join!(sweep, later);
        assert_eq!(other(), Ok(Some(b"x".to_vec())));
    }
}
