//! The requests of the OCI distribution specification that a component needs.
//!
//! Owns how a registry is told who asks: at once with a token if it named a place for one, and else with name and
//! password. These go to no other host than the registry and the one that it names for tokens.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use url::Url;
use weft_http::{AllowList, Allowed, HostPattern, HttpClient, Options, ResponseBody};

use super::{MANIFEST_LEN_MAX, Problem, Reference, Registries};
use crate::digest::Digest;

/// Where registries keep bytes they often say in a redirect, and seldom in two.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an answer that is for people or holds a token.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// What is shown of what a registry says.
const SAID_LEN_MAX: usize = 300;

pub(super) struct Registry<'r> {
    http: HttpClient,
    reference: &'r Reference,
    basic: Option<String>,
    /// What is to be done, as a token's scope says it.
    actions: &'static str,
    scheme: &'static str,
    /// What was found to be the right thing to send.
    authorization: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    #[serde(default)]
    message: String,
}

impl<'r> Registry<'r> {
    pub(super) fn new(reference: &'r Reference, registries: &Registries, actions: &'static str) -> Self {
        let plain = reference.is_on_this_machine() || registries.plain.contains(&reference.registry);
        Self {
            http: HttpClient::new(Vec::new()),
            reference,
            basic: registries.credentials.basic(&reference.registry),
            actions,
            scheme: if plain { "http" } else { "https" },
            authorization: Mutex::default(),
        }
    }

    /// The manifest that the reference names.
    pub(super) async fn manifest(&self, accept: &str, len_max: usize) -> Result<Vec<u8>, Problem> {
        let reference = self.reference;
        let name = reference.digest.as_ref().unwrap_or(&reference.tag);
        let url = self.url(&format!("manifests/{name}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header(accept)?);
        let answer = self.send(Method::GET, url, headers, Bytes::new()).await?;
        let answer = self.expect(answer, StatusCode::OK).await?;
        self.body(answer, len_max).await
    }

    /// The bytes of this digest, at most `len_max`; they are not checked.
    pub(super) async fn blob(&self, digest: &str, len_max: usize) -> Result<Vec<u8>, Problem> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let answer = self
            .send(Method::GET, url, HeaderMap::new(), Bytes::new())
            .await?;
        let answer = self.expect(answer, StatusCode::OK).await?;
        self.body(answer, len_max).await
    }

    /// Puts bytes there, unless they are.
    pub(super) async fn put_blob(&self, bytes: Bytes) -> Result<(), Problem> {
        let digest = Digest::of(&bytes).to_string();
        let url = self.url(&format!("blobs/{digest}"))?;
        let there = self
            .send(Method::HEAD, url, HeaderMap::new(), Bytes::new())
            .await?;
        if there.status() == StatusCode::OK {
            return Ok(());
        }
        let url = self.url("blobs/uploads/")?;
        let begun = self
            .send(Method::POST, url.clone(), HeaderMap::new(), Bytes::new())
            .await?;
        let begun = self.expect(begun, StatusCode::ACCEPTED).await?;
        let mut to = location(&url, begun.headers())?;
        self.check_scheme(&to)?;
        to.query_pairs_mut().append_pair("digest", &digest);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, header("application/octet-stream")?);
        let put = self.send(Method::PUT, to, headers, bytes).await?;
        self.expect(put, StatusCode::CREATED).await.map(drop)
    }

    /// Gives the reference's tag to a manifest.
    pub(super) async fn put_manifest(&self, media_type: &str, bytes: Bytes) -> Result<(), Problem> {
        let url = self.url(&format!("manifests/{}", self.reference.tag))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, header(media_type)?);
        let put = self.send(Method::PUT, url, headers, bytes).await?;
        self.expect(put, StatusCode::CREATED).await.map(drop)
    }

    fn url(&self, rest: &str) -> Result<Url, Problem> {
        let host = match self.reference.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let text = format!("{}://{host}/v2/{}/{rest}", self.scheme, self.reference.repository);
        Url::parse(&text).map_err(|error| Problem::Unexpected(format!("{text} is no URL ({error})")))
    }

    /// Sends a request, and once more as who one is if the registry asks for that. Follows redirects of what only reads.
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<ResponseBody>, Problem> {
        let mut url = url;
        let own = url.origin();
        let (mut asked, mut redirects) = (false, 0);
        loop {
            let mut headers = headers.clone();
            if url.origin() == own
                && let Some(authorization) = self.authorization()
            {
                headers.insert(AUTHORIZATION, header(&authorization)?);
            }
            let answer = self.exchange(method.clone(), &url, headers, body.clone()).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !asked && url.origin() == own {
                asked = true;
                if self.authorize(answer.headers()).await? {
                    continue;
                }
            }
            let reads = method == Method::GET || method == Method::HEAD;
            if !reads || !status.is_redirection() || redirects == REDIRECTS_MAX {
                return Ok(answer);
            }
            redirects += 1;
            url = location(&url, answer.headers())?;
            self.check_scheme(&url)?;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<ResponseBody>, Problem> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .body(Full::new(body))
            .map_err(|error| Problem::Unexpected(format!("{url} can't be asked ({error})")))?;
        *request.headers_mut() = headers;
        // Whoever runs the command may go anywhere; what is sent without TLS is checked apart.
        let anywhere = AllowList(vec![Allowed {
            scheme: None,
            host: HostPattern::Any,
            port: None,
            private: true,
        }]);
        let answered = self.http.send(&anywhere, request, Options::default()).await;
        answered.map_err(|error| Problem::Http(error, self.scheme))
    }

    /// Whom the registry wants to hear. Whether there is something new to say.
    async fn authorize(&self, headers: &HeaderMap) -> Result<bool, Problem> {
        let challenges = headers.get_all(WWW_AUTHENTICATE);
        let challenges: Vec<_> = challenges
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let scheme = |wanted: &str| {
            let found = challenges
                .iter()
                .filter_map(|challenge| challenge.split_once(' '));
            found
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, rest)| rest)
                .next()
        };
        let found = match (scheme("bearer"), scheme("basic")) {
            (Some(challenge), _) => Some(format!("Bearer {}", self.token(challenge).await?)),
            (None, Some(_)) => self.basic.clone(),
            (None, None) => None,
        };
        let is_new = found.is_some();
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(is_new)
    }

    fn authorization(&self) -> Option<String> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A token from where the challenge says.
    async fn token(&self, challenge: &str) -> Result<String, Problem> {
        let wanted = |name| parameter(challenge, name);
        let no_realm = || {
            Problem::Unexpected(format!(
                "it asks for a token without a place to get one: {challenge}"
            ))
        };
        let mut url = Url::parse(wanted("realm").ok_or_else(no_realm)?).map_err(|_| no_realm())?;
        self.check_scheme(&url)?;
        let scope = format!("repository:{}:{}", self.reference.repository, self.actions);
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = wanted("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", wanted("scope").unwrap_or(&scope));
        }
        let mut headers = HeaderMap::new();
        if let Some(basic) = &self.basic {
            headers.insert(AUTHORIZATION, header(basic)?);
        }
        let answer = self.exchange(Method::GET, &url, headers, Bytes::new()).await?;
        let answer = self.expect(answer, StatusCode::OK).await?;
        let text = self.body(answer, ANSWER_LEN_MAX).await?;
        let token: Option<Token> = serde_json::from_slice(&text).ok();
        token
            .and_then(|token| token.token.or(token.access_token))
            .ok_or_else(|| {
                Problem::Unexpected(format!("{} gives no token", url.host_str().unwrap_or_default()))
            })
    }

    /// Without TLS only what was without TLS to begin with.
    fn check_scheme(&self, url: &Url) -> Result<(), Problem> {
        match url.scheme() {
            "https" => Ok(()),
            scheme if scheme == self.scheme => Ok(()),
            _ => Err(Problem::Unexpected(format!(
                "it leads to {}, which is not over TLS",
                url.origin().ascii_serialization()
            ))),
        }
    }

    async fn body(&self, answer: Response<ResponseBody>, len_max: usize) -> Result<Vec<u8>, Problem> {
        let whole = Limited::new(answer.into_body(), len_max).collect().await;
        whole.map(|whole| whole.to_bytes().into()).map_err(|error| {
            Problem::Unexpected(format!(
                "its answer broke off, or has more than the {len_max} bytes that it should ({error})"
            ))
        })
    }

    async fn expect(
        &self,
        answer: Response<ResponseBody>,
        wanted: StatusCode,
    ) -> Result<Response<ResponseBody>, Problem> {
        let status = answer.status();
        if status == wanted {
            return Ok(answer);
        }
        let text = self.body(answer, MANIFEST_LEN_MAX).await.unwrap_or_default();
        let said: Option<Errors> = serde_json::from_slice(&text).ok();
        let said = said
            .and_then(|said| said.errors.into_iter().next())
            .map_or(String::new(), |said| {
                let said = format!(" ({}: {})", said.code, said.message);
                said.chars()
                    .filter(|c| !c.is_control())
                    .take(SAID_LEN_MAX)
                    .collect()
            });
        let remedy = match status.as_u16() {
            401 => {
                "name a user with --registry-user and WEFT_REGISTRY_PASSWORD, or `docker login` without a credential store"
            }
            403 => "may this user do that in this repository?",
            404 => "are the repository and the tag right?",
            429 | 500.. => "try again later",
            _ => "does it keep components, by the OCI distribution specification?",
        };
        Err(Problem::Answer { status, said, remedy })
    }
}

fn header(text: &str) -> Result<http::HeaderValue, Problem> {
    text.parse()
        .map_err(|_| Problem::Unexpected("a header can't be sent as it has control characters".to_owned()))
}

fn location(url: &Url, headers: &HeaderMap) -> Result<Url, Problem> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let joined = location.and_then(|location| url.join(location).ok());
    joined.ok_or_else(|| Problem::Unexpected("it leads on without saying where".to_owned()))
}

/// The value of one parameter of a challenge: `realm="...",service="..."`.
fn parameter<'c>(challenge: &'c str, name: &str) -> Option<&'c str> {
    let mut rest = challenge;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_challenge_s_parameters_are_found_by_their_names() {
        let challenge =
            r#"realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push", error=x"#;
        assert_eq!(parameter(challenge, "realm"), Some("https://auth.example/token"));
        assert_eq!(parameter(challenge, "scope"), Some("repository:a/b:pull,push"));
        assert_eq!(parameter(challenge, "Error"), Some("x"));
        assert_eq!(parameter(challenge, "none"), None);
    }

    proptest! {
        #[test]
        fn whatever_a_registry_asks_is_read_to_its_end(challenge in "[a-c=\", ]{0,40}") {
            parameter(&challenge, "d");
        }
    }
}
