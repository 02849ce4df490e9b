//! A client that may say anything, and what it may be told.
//!
//! Owns the rules that a server of a host keeps whatever it is sent: it ends, and it answers no 5xx without a reason.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long nothing comes before the client ends its half: the answer to what is whole is there by then, mostly.
const QUIET: Duration = Duration::from_millis(100);
/// How long the server may then take to end its half. It has nothing to wait for.
const END_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer that are kept.
const ANSWER_LEN_MAX: usize = 4 << 20;

/// Sends `bytes`, reads until nothing comes any more, hangs up, and returns all that came.
///
/// # Panics
/// If the server does not hang up.
pub(super) async fn converse(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut answer = Vec::new();
    // A server that refuses what it is sent may close before it has read all of it.
    let send = async {
        let _ = to.write_all(bytes).await;
        let _ = to.flush().await;
    };
    let mut send = std::pin::pin!(send);
    let mut sent = false;
    let mut buffer = vec![0; 16 << 10];
    let ended = loop {
        tokio::select! {
            () = &mut send, if !sent => sent = true,
            read = tokio::time::timeout(QUIET, from.read(&mut buffer)) => match read {
                Ok(Ok(0) | Err(_)) => break true,
                Ok(Ok(len)) if answer.len() < ANSWER_LEN_MAX => answer.extend_from_slice(&buffer[..len]),
                Ok(Ok(_)) => {}
                // A server that reads no more while it is sent more has left, too.
                Err(_) => break false,
            },
        }
    };
    if !ended {
        let _ = to.shutdown().await;
        let rest = async {
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                if answer.len() < ANSWER_LEN_MAX {
                    answer.extend_from_slice(&buffer[..len]);
                }
            }
        };
        let ended = tokio::time::timeout(END_MAX, rest).await;
        assert!(
            ended.is_ok(),
            "the server did not hang up after {}",
            bytes.escape_ascii()
        );
    }
    answer
}

/// The status of the first response, if the answer is one of HTTP/1.
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// No status of 500 and above, but with a problem document that says why: a client can't make a server fail.
///
/// # Panics
/// If it did.
pub(super) fn check(sent: &[u8], answer: &[u8]) {
    let has = |text: &[u8]| answer.windows(text.len()).any(|part| part == text);
    let reasoned =
        has(b"application/problem+json") && has(b"\"code\":\"") && !has(b"failed to read the manifest");
    if status(answer).is_some_and(|status| status >= 500) && !reasoned {
        panic!("{} was answered {}", sent.escape_ascii(), answer.escape_ascii());
    }
}

/// A seed as it is sent: files have plain line ends, heads those of HTTP.
pub(super) fn conversation(seed: &[u8]) -> Vec<u8> {
    let lines: Vec<_> = seed.split(|byte| *byte == b'\n').collect();
    lines.join(b"\r\n".as_slice())
}

/// One request of the admin API: a line with method and path, and the body, whose length is told as it is.
pub(super) fn admin_request(input: &[u8]) -> Vec<u8> {
    let at = input
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(input.len());
    let (line, body) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let mut request = line.to_vec();
    request.extend_from_slice(
        b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n",
    );
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    request
}
