//! Reads bodies and sends answers. It must not know what they say.

use std::io::{Read as _, Write as _};

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use crate::answer::{Answer, Problem};

/// The whole body, if it is no longer than `len_max` and came to its end.
pub(crate) fn body(request: &IncomingRequest, len_max: usize) -> Result<Vec<u8>, Problem> {
    let body = request.consume().expect("the body of a request is taken once");
    let stream = body.stream().expect("the stream of a body is taken once");
    let mut bytes = Vec::new();
    stream
        .take(len_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| Problem::malformed(format!("the body broke off after {} bytes", bytes.len())))?;
    if bytes.len() > len_max {
        return Err(Problem::too_large(len_max));
    }
    Ok(bytes)
}

pub(crate) fn send(response_out: ResponseOutparam, answer: &Answer) {
    let entries: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let headers = Fields::from_list(&entries).expect("an answer has only headers that an actor may set");
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(answer.status)
        .expect("an answer has a known status code");
    let body = response
        .body()
        .expect("the body of a new response was not taken yet");
    ResponseOutparam::set(response_out, Ok(response));

    let mut stream = body.write().expect("the stream of a new body was not taken yet");
    // An error means that the client has gone, which is nothing to act on: the body then stays unfinished.
    if stream.write_all(&answer.body).is_ok() && std::io::Write::flush(&mut stream).is_ok() {
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
