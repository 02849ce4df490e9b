//! HTTP requests that go from one host to another, and their responses back.
//!
//! Owns what of a request and a response crosses, and how: a body that is short and soon complete goes with its head,
//! so that a plain request is two messages; any other goes over the call's stream, piece by piece as the other side reads.
//! It must not know who answers.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use wasmtime_wasi_http::Error;
use weft_lattice::envelope::{
    Failure, FailureKind, Header, HttpRequest, HttpResponse, INLINE_BODY_MAX, decode_trailers,
    encode_trailers,
};
use weft_lattice::rpc::Answer;
use weft_lattice::stream::{Duplex, Offer, Reader, StreamError, Writer};

use super::group::Reach;

/// The interface that requests for actors come by.
pub const HTTP: &str = "weft:host/http@1.0.0";

/// A piece of a body on a stream: what it is and how long, then it.
const PIECE_HEAD_LEN: usize = 5;
/// Bytes of a body.
const DATA: u8 = 0;
/// All trailers.
const TRAILERS: u8 = 1;
/// The longest piece, which is held until it is whole.
const PIECE_LEN_MAX: usize = 1 << 20;

/// How long a body may take to go with its head: a guest that has its answer has written it by then, and nobody notices
/// that a head which is followed by a slow body came so much later.
const SOON: Duration = Duration::from_millis(5);

/// A body on its way between hosts.
pub type HostBody = UnsyncBoxBody<Bytes, Error>;

/// A whole body.
pub fn whole(bytes: Bytes) -> HostBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Sends `request` by `call`, which is all of it but the arguments and the stream, and gives the response.
///
/// # Errors
/// Why there is none.
pub async fn send<B>(
    reach: &Reach,
    mut call: weft_lattice::rpc::Call,
    secure: bool,
    request: Request<B>,
) -> Result<(Response<HostBody>, Answer), Failure>
where
    B: Body<Data = Bytes, Error = Error> + Send + Unpin + 'static,
{
    let (head, body) = request.into_parts();
    let full = |error: StreamError| Failure::not_started(FailureKind::Overloaded, error.to_string());
    let (stream, binder) = reach.streams.prepare().map_err(full)?;
    let mut begun = Begun::of(body).await.map_err(|error| cut_short(&error))?;
    let complete = begun.take_whole();
    let rest = complete.is_none().then_some(begun);
    let request = HttpRequest {
        method: head.method.as_str().to_owned(),
        uri: head.uri.to_string(),
        secure,
        headers: headers_of(&head.headers),
        body: complete,
    };
    call.body = request
        .encode()
        .map_err(|error| Failure::not_started(FailureKind::Denied, error.to_string()))?;
    call.stream = Some(binder);
    let Duplex { reader, writer } = stream;
    let mut writer = Some(writer);
    let answered = {
        let calling = reach.client.call(&reach.targets, call);
        match (rest, writer.take()) {
            (Some(body), Some(own)) => {
                // The answer may come before the request's end, and be the reason for it. What is left of the body then
                // goes on with the response.
                let mut sending = Box::pin(send_body(own, body));
                let mut calling = std::pin::pin!(calling);
                tokio::select! {
                    biased;
                    answered = &mut calling => answered.map(|answer| (answer, Some(sending))),
                    () = &mut sending => calling.await.map(|answer| (answer, None)),
                }
            }
            (_, own) => {
                writer = own;
                calling.await.map(|answer| (answer, None))
            }
        }
    };
    let (answer, sending) = answered?;
    let malformed = |detail: String| Failure::started(FailureKind::Unavailable, detail);
    let head = HttpResponse::decode(&answer.body).map_err(|error| malformed(error.to_string()))?;
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(head.status).map_err(|error| malformed(error.to_string()))?;
    *response.headers_mut() = header_map(head.headers);
    let body = match head.body {
        Some(body) => {
            if let Some(writer) = writer {
                Duplex { reader, writer }.discard();
            }
            whole(body)
        }
        None => received(reader, writer, sending),
    };
    Ok((response.map(|()| body), answer))
}

/// A request that came with a call.
pub struct Came {
    /// The request.
    pub request: Request<HostBody>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// What its response's body may be written to, if the request's is read from the same stream.
    pub writer: Option<Writer>,
    /// The stream for that, if nothing is read from it.
    pub stream: Option<Offer>,
}

/// The request of a call, with its body.
///
/// # Errors
/// It is none, or there is no room for another stream.
pub fn request_of(bytes: &Bytes, stream: Option<Offer>) -> Result<Came, Failure> {
    let malformed = |detail: String| Failure::not_started(FailureKind::Denied, detail);
    let full = |error: StreamError| Failure::not_started(FailureKind::Overloaded, error.to_string());
    let head = HttpRequest::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(head.method.as_bytes()).map_err(|error| malformed(error.to_string()))?;
    *request.uri_mut() = head
        .uri
        .parse::<Uri>()
        .map_err(|error| malformed(error.to_string()))?;
    *request.headers_mut() = header_map(head.headers);
    let (body, writer, stream) = match (head.body, stream) {
        (Some(body), stream) => (whole(body), None, stream),
        (None, Some(offer)) => {
            let Duplex { reader, writer } = offer.accept().map_err(full)?;
            let body = received(reader, None, None::<std::future::Pending<()>>);
            (body, Some(writer), None)
        }
        (None, None) => return Err(malformed("the body is neither there nor on a stream".to_owned())),
    };
    Ok(Came {
        request: request.map(|()| body),
        secure: head.secure,
        writer,
        stream,
    })
}

/// The result of a call that gave `response`; its body follows over the stream without `body`.
pub fn response_of(head: &http::response::Parts, body: Option<Bytes>) -> Bytes {
    let response = HttpResponse {
        status: head.status.as_u16(),
        headers: headers_of(&head.headers),
        body,
    };
    response.encode()
}

/// A body of which has been read what was there soon.
pub struct Begun<B> {
    data: Bytes,
    trailers: Option<HeaderMap>,
    ended: bool,
    rest: B,
}

impl<B> Begun<B>
where
    B: Body<Data = Bytes, Error = Error> + Unpin,
{
    /// Reads `body` for [`SOON`] at most, and not much more than what goes with a head.
    ///
    /// # Errors
    /// It broke off.
    pub async fn of(body: B) -> Result<Self, Error> {
        let mut begun = Self {
            data: Bytes::new(),
            trailers: None,
            ended: body.is_end_stream(),
            rest: body,
        };
        match tokio::time::timeout(SOON, begun.fill()).await {
            Ok(Err(error)) => Err(error),
            // What does not come soon is sent as it comes.
            Ok(Ok(())) | Err(_) => Ok(begun),
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        while !self.ended && self.trailers.is_none() && self.data.len() <= INLINE_BODY_MAX {
            match self.rest.frame().await.transpose()?.map(Frame::into_data) {
                None => self.ended = true,
                Some(Ok(data)) if self.data.is_empty() => self.data = data,
                Some(Ok(data)) => {
                    let mut joined = BytesMut::from(std::mem::take(&mut self.data));
                    joined.extend_from_slice(&data);
                    self.data = joined.freeze();
                }
                Some(Err(frame)) => self.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(())
    }

    /// Takes the body, if this is all of it and goes with its head.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let whole = self.ended && self.trailers.is_none() && self.data.len() <= INLINE_BODY_MAX;
        whole.then(|| std::mem::take(&mut self.data))
    }
}

fn cut_short(error: &Error) -> Failure {
    Failure::not_started(
        FailureKind::RefusedByGuest,
        format!("the request's body broke off: {error}"),
    )
}

/// Sends a body over a stream to its end; one that breaks off resets it, so that it is never taken for whole.
pub async fn send_body<B>(mut writer: Writer, mut body: Begun<B>)
where
    B: Body<Data = Bytes, Error = Error> + Unpin,
{
    if send_piece(&mut writer, DATA, std::mem::take(&mut body.data))
        .await
        .is_err()
    {
        return;
    }
    loop {
        let frame = match (body.trailers.take(), body.ended) {
            (Some(trailers), _) => Frame::trailers(trailers),
            (None, true) => break,
            (None, false) => match body.rest.frame().await {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return writer.reset(&format!("the body broke off: {error}")),
            },
        };
        let (kind, data) = match frame.into_data() {
            Ok(data) => (DATA, data),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => (TRAILERS, encode_trailers(&headers_of(&trailers))),
                Err(_) => continue,
            },
        };
        if send_piece(&mut writer, kind, data).await.is_err() {
            return;
        }
    }
    // Who does not read any more has what it wanted.
    let _ = writer.finish().await;
}

/// Sends what a body has next, in pieces.
async fn send_piece(writer: &mut Writer, kind: u8, mut data: Bytes) -> Result<(), StreamError> {
    while data.has_remaining() {
        let part = data.split_to(data.len().min(PIECE_LEN_MAX));
        let mut piece = BytesMut::with_capacity(PIECE_HEAD_LEN + part.len());
        piece.put_u8(kind);
        piece.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        piece.extend_from_slice(&part);
        writer.write(piece.freeze()).await?;
    }
    Ok(())
}

/// What is on its way in.
struct Incoming<F> {
    reader: Reader,
    buffer: BytesMut,
    /// Held until the body's end: dropped, it would reset the stream.
    writer: Option<Writer>,
    /// What is still to be sent the other way.
    sending: Option<F>,
    over: bool,
}

/// The body that comes over a stream. Dropped before its end, it resets the stream, which ends the guest that writes
/// it.
fn received<F>(reader: Reader, writer: Option<Writer>, sending: Option<F>) -> HostBody
where
    F: Future<Output = ()> + Send + Unpin + 'static,
{
    let incoming = Incoming {
        reader,
        buffer: BytesMut::new(),
        writer,
        sending,
        over: false,
    };
    let frames = stream::unfold(incoming, |mut incoming| async move {
        let frame = incoming.next().await?;
        Some((frame, incoming))
    });
    // A box per body, which is large or of unknown length.
    UnsyncBoxBody::new(StreamBody::new(Box::pin(frames)))
}

impl<F: Future<Output = ()> + Unpin> Incoming<F> {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        loop {
            if self.over {
                return None;
            }
            match self.piece() {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => {}
                Err(error) => return self.broken(error),
            }
            let read = self.reader.read();
            let read = match &mut self.sending {
                None => read.await,
                Some(sending) => {
                    tokio::select! {
                        read = read => read,
                        () = sending => {
                            self.sending = None;
                            continue;
                        }
                    }
                }
            };
            match read {
                Ok(Some(data)) => self.buffer.extend_from_slice(&data),
                Ok(None) if self.buffer.is_empty() => {
                    self.over = true;
                    if let Some(writer) = self.writer.take() {
                        // This direction has nothing to say, and both have to come to their end.
                        let _ = writer.finish().await;
                    }
                }
                Ok(None) => return self.broken("it ended within a piece".into()),
                Err(error) => return self.broken(error.to_string()),
            }
        }
    }

    /// The next piece, if it is there as a whole.
    fn piece(&mut self) -> Result<Option<Frame<Bytes>>, String> {
        let Some(head) = self.buffer.first_chunk::<PIECE_HEAD_LEN>() else {
            return Ok(None);
        };
        let [kind, len @ ..] = *head;
        let len = u32::from_be_bytes(len) as usize;
        if len > PIECE_LEN_MAX {
            return Err(format!("a piece of {len} bytes is longer than {PIECE_LEN_MAX}"));
        }
        if self.buffer.len() < PIECE_HEAD_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(PIECE_HEAD_LEN);
        let piece = self.buffer.split_to(len).freeze();
        match kind {
            DATA => Ok(Some(Frame::data(piece))),
            TRAILERS => {
                let trailers = decode_trailers(&piece).map_err(|error| error.to_string())?;
                Ok(Some(Frame::trailers(header_map(trailers))))
            }
            kind => Err(format!("a piece is of the unknown kind {kind}")),
        }
    }

    fn broken(&mut self, why: String) -> Option<Result<Frame<Bytes>, Error>> {
        self.over = true;
        tracing::debug!(why, "a body that another host sends broke off");
        Some(Err(Error::HttpResponseIncomplete))
    }
}

fn headers_of(headers: &HeaderMap) -> Vec<Header> {
    let owned = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    };
    headers.iter().map(owned).collect()
}

/// Headers that came; one that is none is left out, as another version of the other side might not have checked it.
fn header_map(headers: Vec<Header>) -> HeaderMap {
    let parsed = |(name, value): Header| {
        let name = name.parse::<HeaderName>().ok()?;
        Some((name, HeaderValue::from_maybe_shared(value).ok()?))
    };
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.into_iter().filter_map(parsed) {
        map.append(name, value);
    }
    map
}
