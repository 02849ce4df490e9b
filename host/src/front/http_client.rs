//! `wasi:http/outgoing-handler`: requests that a guest makes, as far as its link allows.
//!
//! Owns the step from a guest's request to the platform's client, and the words in which its errors reach the guest.
//! Without a link every request is denied.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, Request};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
use weft_compose::AllowPattern;
use weft_http::{HttpClient, HttpError, Options, Policy, Verdict};
use weft_observability::metrics::Operation;

use super::operation::observed;
use crate::invocation::Call;
use crate::link::Import;

/// Bytes of one write to a response's body. A guest asks how much it may write, and writes again.
const CHUNK_LEN_MAX: usize = 64 << 10;
/// Writes that wait for the client, so that a stream keeps flowing while one chunk is on its way.
const CHUNKS_BUFFERED: usize = 4;

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Response = http::Response<WasiBody>;
type SendFuture = Box<dyn Future<Output = Result<(Response, Done), Error>> + Send>;

/// Where an actor's requests may go, and what makes them.
#[derive(Clone)]
pub struct HttpLink {
    /// The client of the host.
    pub client: HttpClient,
    /// Where requests may go.
    pub allow: Arc<[AllowPattern]>,
}

impl Policy for HttpLink {
    fn allows(&self, scheme: &str, host: &str, port: u16) -> Verdict {
        let mut matching = self
            .allow
            .iter()
            .filter(|pattern| pattern.matches(scheme, host, port))
            .peekable();
        if matching.peek().is_none() {
            Verdict::Denied
        } else if matching.any(AllowPattern::names_private) {
            Verdict::Private
        } else {
            Verdict::Public
        }
    }

    fn allows_address(&self, address: IpAddr, port: u16, named: bool) -> bool {
        let names = |pattern: &AllowPattern| {
            ["http", "https"]
                .iter()
                .any(|scheme| pattern.names_address(scheme, address, port))
        };
        named || weft_http::address::is_public(address) || self.allow.iter().any(names)
    }
}

/// How `wasi:http` behaves for one instance.
pub struct HttpHooks {
    /// The invocation that the instance serves; none while it is kept for the next.
    call: Option<Arc<Call>>,
}

impl HttpHooks {
    /// For the instance that serves `call`.
    pub fn new(call: Arc<Call>) -> Self {
        Self { call: Some(call) }
    }

    /// The invocation that the instance serves.
    pub fn call(&self) -> &Arc<Call> {
        self.call
            .as_ref()
            .expect("a guest runs only within an invocation")
    }

    /// Lets go of the invocation.
    pub fn end(&mut self) {
        self.call = None;
    }
}

impl WasiHttpHooks for HttpHooks {
    // The default makes a closure on the heap for each header.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        // In a static, as the constant is an array that would be made anew for each header.
        static FORBIDDEN: [HeaderName; 9] = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;
        FORBIDDEN.contains(name)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Done,
    ) -> SendFuture {
        let call = self.call().clone();
        let span = tracing::Span::current();
        let sent = async move {
            let asked = send(&call, request, options);
            let response = observed(&call, Operation::HttpRequest, asked).await;
            response.map_err(|error| {
                tell_denial(&call, &error);
                to_guest(error)
            })
        };
        Box::new(tracing::Instrument::instrument(sent, span))
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS_BUFFERED
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_LEN_MAX
    }
}

async fn send(
    call: &Call,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<(Response, Done), HttpError> {
    let Some(link) = call.links(Import::HTTP).http.clone() else {
        return Err(HttpError::HttpRequestDenied);
    };
    if let Some(trace) = &call.trace {
        trace.inject(request.headers_mut());
    }
    let defaults = Options::default();
    let given = |of: fn(&RequestOptions) -> Option<std::time::Duration>| options.as_ref().and_then(of);
    let options = Options {
        connect_timeout: given(|o| o.connect_timeout).unwrap_or(defaults.connect_timeout),
        first_byte_timeout: given(|o| o.first_byte_timeout).unwrap_or(defaults.first_byte_timeout),
        between_bytes_timeout: given(|o| o.between_bytes_timeout).unwrap_or(defaults.between_bytes_timeout),
    };
    let place = call
        .actor
        .outgoing
        .clone()
        .try_acquire_owned()
        .map_err(|_| HttpError::ConnectionLimitReached)?;
    let response = link.client.send(&link, request, options).await?;
    // The place is held for as long as the body, which holds a connection.
    let to_guest = move |error| {
        let _held = &place;
        to_guest(error)
    };
    let response = response.map(|body| body.map_err(to_guest).boxed_unsync());
    Ok((response, Box::new(async { Ok(()) })))
}

/// The guest only learns that it was denied; the operator learns what to do about it.
fn tell_denial(call: &Call, error: &HttpError) {
    let denied = matches!(
        error,
        HttpError::HttpRequestDenied | HttpError::DestinationIpProhibited
    );
    if denied && call.actor.may_log_failure() {
        tracing::warn!(
            actor = call.actor.name.as_str(),
            invocation = %call.id,
            "an outgoing request was denied ({error}); allow it with a link of wasi:http/outgoing-handler, or \
             `weft up --allow-http`; a private address has to be named itself"
        );
    }
}

fn to_guest(error: HttpError) -> Error {
    match error {
        HttpError::HttpRequestDenied => Error::HttpRequestDenied,
        HttpError::DestinationIpProhibited => Error::DestinationIpProhibited,
        HttpError::HttpRequestMethodInvalid => Error::HttpRequestMethodInvalid,
        HttpError::HttpRequestUriInvalid => Error::HttpRequestUriInvalid,
        HttpError::HttpRequestUriTooLong => Error::HttpRequestUriTooLong,
        HttpError::HttpRequestHeaderSectionSize => Error::HttpRequestHeaderSectionSize(None),
        HttpError::DnsError(_) => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        HttpError::ConnectionRefused => Error::ConnectionRefused,
        HttpError::DestinationUnavailable(_) => Error::DestinationUnavailable,
        HttpError::ConnectionTimeout => Error::ConnectionTimeout,
        HttpError::ConnectionReadTimeout => Error::ConnectionReadTimeout,
        HttpError::ConnectionTerminated => Error::ConnectionTerminated,
        HttpError::ConnectionLimitReached => Error::ConnectionLimitReached,
        HttpError::TlsCertificateError(_) => Error::TlsCertificateError,
        HttpError::TlsProtocolError(_) => Error::TlsProtocolError,
        HttpError::TlsAlertReceived(message) => Error::TlsAlertReceived {
            alert_id: None,
            alert_message: Some(message),
        },
        HttpError::HttpResponseHeaderSectionSize => Error::HttpResponseHeaderSectionSize(None),
        HttpError::HttpProtocolError(_) => Error::HttpProtocolError,
        HttpError::ConfigurationError(_) => Error::ConfigurationError,
        HttpError::RequestBody(_) | HttpError::Internal(_) => Error::InternalError(None),
    }
}
