//! What can go wrong with a request, in the words of `wasi:http`'s `error-code`.

use std::error::Error;
use std::io;

/// Why a request failed. Each variant that has a namesake in `wasi:http`'s `error-code` stands for it.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No allow-list entry for the scheme, host and port.
    #[error("the request is denied: no entry of the actor's allow-list is for its scheme, host and port")]
    HttpRequestDenied,
    /// The host's addresses are all private or reserved, and not named.
    #[error(
        "the request is denied: the host has no public address, and the allow-list does not name a private one"
    )]
    DestinationIpProhibited,
    /// CONNECT, which would be a tunnel to anywhere.
    #[error("the method can't be used")]
    HttpRequestMethodInvalid,
    /// Not an absolute `http` or `https` URI, or one with a user in it.
    #[error("the URI can't be used: it must be an absolute http or https one, without a user")]
    HttpRequestUriInvalid,
    /// The target is too long.
    #[error("the URI is too long")]
    HttpRequestUriTooLong,
    /// The headers are too large.
    #[error("the request's headers are too large")]
    HttpRequestHeaderSectionSize,
    /// The name was not found, or resolving failed.
    #[error("the host's name can't be resolved: {0}")]
    DnsError(String),
    /// No one listens there.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// No way there.
    #[error("the host can't be reached: {0}")]
    DestinationUnavailable(String),
    /// Connecting took too long.
    #[error("connecting took too long")]
    ConnectionTimeout,
    /// The response's head or the next piece of its body took too long.
    #[error("the response took too long")]
    ConnectionReadTimeout,
    /// The connection ended before the response did.
    #[error("the connection ended before the response did")]
    ConnectionTerminated,
    /// The client has as many connections as it may.
    #[error("too many connections are open; try again later")]
    ConnectionLimitReached,
    /// The certificate is not trusted, or not for this host.
    #[error("the host's certificate is not accepted: {0}")]
    TlsCertificateError(String),
    /// The host speaks no TLS that is spoken here.
    #[error("no TLS connection could be made: {0}")]
    TlsProtocolError(String),
    /// The host ended the handshake with this alert.
    #[error("the host refused TLS: {0}")]
    TlsAlertReceived(String),
    /// The response's headers are too large.
    #[error("the response's headers are too large")]
    HttpResponseHeaderSectionSize,
    /// What the host sent is not HTTP, or not that of the connection.
    #[error("the host does not speak HTTP correctly: {0}")]
    HttpProtocolError(String),
    /// The request's own body failed.
    #[error("the request's body failed: {0}")]
    RequestBody(String),
    /// This host's set-up: no trusted roots.
    #[error("https can't be used: {0}; install the system's CA certificates")]
    ConfigurationError(String),
    /// None of these.
    #[error("the request failed: {0}")]
    Internal(String),
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> Self {
        let text = chain(&error);
        if error.is_user() {
            Self::RequestBody(text)
        } else if error.is_parse_too_large() {
            Self::HttpResponseHeaderSectionSize
        } else if error.is_parse() {
            Self::HttpProtocolError(text)
        } else if error.is_timeout() {
            Self::ConnectionReadTimeout
        } else if error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled()
            || cause::<io::Error>(&error).is_some()
        {
            Self::ConnectionTerminated
        } else {
            Self::HttpProtocolError(text)
        }
    }
}

/// Why there is no connection to an address.
pub(crate) fn of_connect(error: &io::Error) -> HttpError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => HttpError::ConnectionRefused,
        io::ErrorKind::TimedOut => HttpError::ConnectionTimeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => HttpError::ConnectionTerminated,
        _ => HttpError::DestinationUnavailable(error.to_string()),
    }
}

/// Why a handshake failed.
pub(crate) fn of_tls(error: &io::Error) -> HttpError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => HttpError::TlsCertificateError(why.to_string()),
        Some(rustls::Error::AlertReceived(alert)) => HttpError::TlsAlertReceived(format!("{alert:?}")),
        Some(other) => HttpError::TlsProtocolError(other.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => HttpError::ConnectionTerminated,
        None => of_connect(error),
    }
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
