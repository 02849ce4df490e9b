//! Who may ask, and who asked.
//!
//! Over the unix socket the file's rights decide and the kernel tells the user. Over TCP a token decides, and the
//! `Host` and `Origin` of a browser that was lured here are refused (DNS rebinding).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::net::unix::UCred;

use super::problem::Problem;

/// Characters of what a sender says about itself that are kept.
const NOTE_LEN_MAX: usize = 64;

/// Who sent a request, as records and logs name them: `uid:1000` or `token`. Never a text that the sender chose alone.
#[derive(Debug, Clone)]
pub(super) struct Sender(Arc<str>);

impl Sender {
    /// A process on this machine.
    pub(super) fn peer(credentials: UCred) -> Self {
        Self(format!("uid:{}", credentials.uid()).into())
    }

    /// Who asks by way of another host, as that host names it: hosts of a lattice trust each other.
    pub(super) fn of_lattice(caller: &str) -> Self {
        // It may have come by way of several.
        let caller: String = caller
            .strip_prefix("lattice:")
            .unwrap_or(caller)
            .chars()
            .filter(|c| !c.is_control())
            .take(NOTE_LEN_MAX)
            .collect();
        Self(format!("lattice:{caller}").into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The sender with what it says about itself beside: `uid:1000 (release 7)`.
    pub(super) fn noted(&self, note: Option<&str>) -> String {
        let note: String = note
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control() && !"()".contains(*c))
            .take(NOTE_LEN_MAX)
            .collect();
        match note.trim() {
            "" => self.0.to_string(),
            note => format!("{} ({note})", self.0),
        }
    }
}

/// A connection carries an `Option<Sender>`, as the socket or the token told it.
impl<S: Sync> FromRequestParts<S> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        let sender = parts.extensions.get::<Option<Self>>().cloned().flatten();
        sender.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "token", "it is not known who sent this"))
    }
}

/// What a caller over TCP must show.
pub(super) struct Guard {
    pub(super) token: String,
}

pub(super) async fn authorize(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.check(request.headers()) {
        Ok(()) => {
            request.extensions_mut().insert(Some(Sender("token".into())));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Guard {
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        // A page that resolves its own name to this address still sends that name. Addresses can't be rebound.
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let bare = host.parse::<SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok();
        if !bare && host.split(':').next() != Some("localhost") {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "host",
                "the Host header must be an address or localhost",
            ));
        }
        if headers.contains_key(ORIGIN) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "origin",
                "requests of web pages are not taken",
            ));
        }
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if given.is_some_and(|given| equal_in_constant_time(given.as_bytes(), self.token.as_bytes())) {
            Ok(())
        } else {
            Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "token",
                "expected `Authorization: Bearer` with the token in the data folder's admin.token",
            ))
        }
    }
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::iter::zip(a, b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> Option<StatusCode> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        Guard {
            token: "secret".to_owned(),
        }
        .check(&headers)
        .err()
        .map(|problem| problem.status)
    }

    #[test]
    fn over_tcp_takes_the_token_and_nothing_less() {
        let bearer = ("authorization", "Bearer secret");
        assert_eq!(check(&[("host", "127.0.0.1:9000"), bearer]), None);
        assert_eq!(check(&[("host", "[::1]:9000"), bearer]), None);
        assert_eq!(check(&[("host", "localhost:9000"), bearer]), None);
        let unauthorized = Some(StatusCode::UNAUTHORIZED);
        assert_eq!(check(&[("host", "127.0.0.1:9000")]), unauthorized);
        assert_eq!(
            check(&[("host", "127.0.0.1:9000"), ("authorization", "Bearer secres")]),
            unauthorized
        );
        assert_eq!(
            check(&[("host", "127.0.0.1:9000"), ("authorization", "Bearer ")]),
            unauthorized
        );
    }

    #[test]
    fn refuses_a_page_that_was_rebound_to_this_address() {
        let bearer = ("authorization", "Bearer secret");
        let forbidden = Some(StatusCode::FORBIDDEN);
        assert_eq!(check(&[("host", "evil.example:9000"), bearer]), forbidden);
        assert_eq!(
            check(&[
                ("host", "127.0.0.1:9000"),
                ("origin", "http://127.0.0.1:9000"),
                bearer
            ]),
            forbidden
        );
        assert_eq!(check(&[bearer]), forbidden);
    }

    #[test]
    fn a_sender_can_add_to_its_name_and_not_replace_it() {
        let sender = Sender("uid:7".into());
        assert_eq!(sender.noted(None), "uid:7");
        assert_eq!(sender.noted(Some(" \n")), "uid:7");
        assert_eq!(sender.noted(Some("ci) uid:0 (\n")), "uid:7 (ci uid:0)");
        assert_eq!(sender.noted(Some(&"x".repeat(1_000))).len(), NOTE_LEN_MAX + 8);
    }
}
