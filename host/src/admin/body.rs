//! Reading what a client sends, within bounds.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::problem::Problem;

/// The longest JSON body: a manifest has at most 4 MiB, and each of its characters may have to be escaped.
pub(super) const JSON_LEN_MAX: u64 = 10 << 20;
/// How long a client may take for the next piece of a body.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Room that is made before anything has come. A length that is announced is not believed beyond.
const RESERVED_MAX: u64 = 1 << 20;

/// The whole body, if it has at most `len_max` bytes.
pub(super) async fn read(mut body: Body, len_max: u64) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("the body has more than the {len_max} bytes that this route takes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    };
    let announced = body.size_hint().lower();
    if announced > len_max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced.min(RESERVED_MAX)).unwrap_or(0));
    loop {
        let frame = tokio::time::timeout(STALL_MAX, body.frame()).await.map_err(|_| {
            let detail = format!("nothing of the body came for {} s", STALL_MAX.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "stalled", detail)
        })?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "request",
                format!("the body broke off: {error}"),
            )
        })?;
        if let Ok(data) = frame.into_data() {
            if (bytes.len() + data.len()) as u64 > len_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
}
