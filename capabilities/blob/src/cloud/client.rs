//! The connections of the clouds' clients: those of the platform's own HTTP client.

use std::fmt;
use std::fs;
use std::path::Path;

use http::StatusCode;
use http_body_util::BodyExt;
use object_store::client::{
    HttpConnector, HttpError as CloudError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use weft_http::{HttpClient, HttpError, Options, Policy, Verdict};

use super::open::OpenError;

/// A client that trusts whom the system trusts, and the certificates in `ca_file`.
pub(super) fn http(ca_file: Option<&Path>) -> Result<HttpClient, OpenError> {
    let mut roots = Vec::new();
    if let Some(path) = ca_file {
        let failed = |source| OpenError::Certificates {
            path: path.to_owned(),
            source,
        };
        let pem = fs::read(path).map_err(|error| failed(Box::new(error)))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.push(certificate.map_err(|error| failed(Box::new(error)))?);
        }
    }
    Ok(HttpClient::new(roots))
}

/// Gives the clouds' clients their connections.
pub(super) struct Connector(pub(super) HttpClient);

impl HttpConnector for Connector {
    fn connect(
        &self,
        _: &object_store::ClientOptions,
    ) -> object_store::Result<object_store::client::HttpClient> {
        Ok(object_store::client::HttpClient::new(Service(self.0.clone())))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

struct Service(HttpClient);

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

/// Where a store is, the operator says, and not a guest.
struct Anywhere;

impl Policy for Anywhere {
    fn allows(&self, _: &str, _: &str, _: u16) -> Verdict {
        Verdict::Private
    }
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, CloudError> {
        let sent = self.0.send(&Anywhere, request, Options::default()).await;
        let response = sent.map_err(told)?;
        // The clients tell only of some requests that they were denied; of a listing they tell no more than that it failed.
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return Err(CloudError::new(HttpErrorKind::Unknown, Denied(response.status())));
        }
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(told))))
    }
}

/// The server knows who asks, or not, and allows it not.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
pub(super) struct Denied(StatusCode);

/// How the clouds' clients decide whether to try again: what was not sent, always; what may have been, if it may be
/// done twice.
fn told(error: HttpError) -> CloudError {
    let kind = match &error {
        HttpError::DnsError(_)
        | HttpError::ConnectionRefused
        | HttpError::DestinationUnavailable(_)
        | HttpError::ConnectionTimeout
        | HttpError::ConnectionLimitReached => HttpErrorKind::Connect,
        HttpError::ConnectionReadTimeout => HttpErrorKind::Timeout,
        HttpError::ConnectionTerminated => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    CloudError::new(kind, error)
}
