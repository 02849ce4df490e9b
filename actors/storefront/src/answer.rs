//! What is answered: a page, JSON, a picture, or a problem (RFC 9457).

use serde::Serialize;

use crate::shop::api::types::Error;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// Why a request was not done, in words for who sent it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Problem {
    title: &'static str,
    pub(crate) status: u16,
    detail: String,
    /// The methods that there are.
    #[serde(skip)]
    pub(crate) allow: Option<&'static str>,
}

/// Nothing from elsewhere: what is on the page is in the page, or comes from this shop.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
                           frame-ancestors 'none'";

/// The id of a picture is made of its content, so what is at an address never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

impl Answer {
    fn new(status: u16, media_type: &str, cache: &str, body: Vec<u8>) -> Self {
        let headers = vec![
            ("content-type", media_type.to_owned()),
            ("content-length", body.len().to_string()),
            ("cache-control", cache.to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
        ];
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn page(html: &str) -> Self {
        let mut answer = Self::new(200, "text/html; charset=utf-8", "no-cache", html.into());
        answer
            .headers
            .push(("content-security-policy", PAGE_POLICY.to_owned()));
        answer
    }

    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        Self::new(status, "application/json", "no-store", json_bytes(value))
    }

    /// 201, with the address of what was made.
    pub(crate) fn created(location: String, value: &impl Serialize) -> Self {
        let mut answer = Self::json(201, value);
        answer.headers.push(("location", location));
        answer
    }

    pub(crate) fn picture(media_type: &str, bytes: Vec<u8>) -> Self {
        Self::new(200, media_type, FOR_EVER, bytes)
    }
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the shop's types have only keys that are texts")
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let body = json_bytes(&problem);
        let mut answer = Self::new(problem.status, "application/problem+json", "no-store", body);
        if let Some(methods) = problem.allow {
            answer.headers.push(("allow", methods.to_owned()));
        }
        if problem.status == 503 {
            answer.headers.push(("retry-after", "1".to_owned()));
        }
        answer
    }
}

impl Problem {
    fn new(status: u16, title: &'static str, detail: String) -> Self {
        Self {
            title,
            status,
            detail,
            allow: None,
        }
    }

    /// The body is not what it should be.
    pub(crate) fn malformed(detail: String) -> Self {
        Self::new(400, "The request can't be read", detail)
    }

    pub(crate) fn not_found(detail: String) -> Self {
        Self::new(404, "Not found", detail)
    }

    pub(crate) fn method(methods: &'static str) -> Self {
        let problem = Self::new(405, "Wrong method", format!("the methods here are: {methods}"));
        Self {
            allow: Some(methods),
            ..problem
        }
    }

    pub(crate) fn too_large(len_max: usize) -> Self {
        Self::new(
            413,
            "Too large",
            format!("a body has at most {len_max} bytes here"),
        )
    }

    /// The body can be read, but asks for what can't be.
    pub(crate) fn invalid(detail: String) -> Self {
        Self::new(422, "This can't be done", detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) => Self::invalid(text),
            Error::Unavailable(cause) => {
                eprintln!("unavailable: {cause}");
                let detail = "nothing was changed; try again in a moment".to_owned();
                Self::new(503, "The shop can't do this now", detail)
            }
            Error::Uncertain(cause) => {
                eprintln!("uncertain: {cause}");
                let detail = "it may have been done or not; look before trying again".to_owned();
                Self::new(500, "It is not known how this ended", detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        let found = answer.headers.iter().find(|(found, _)| *found == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_problem_is_a_problem_document() {
        let answer = Answer::from(Problem::method("GET, PUT"));
        assert_eq!(header(&answer, "content-type"), Some("application/problem+json"));
        assert_eq!(header(&answer, "allow"), Some("GET, PUT"));
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["status"], 405);
        assert_eq!(json["detail"], "the methods here are: GET, PUT");
    }

    #[test]
    fn what_failed_below_is_for_the_log_and_not_for_the_customer() {
        let answer = Answer::from(Problem::from(Error::Unavailable("disk full".to_owned())));
        assert_eq!((answer.status, header(&answer, "retry-after")), (503, Some("1")));
        assert!(!String::from_utf8(answer.body).unwrap().contains("disk"));
    }

    #[test]
    fn what_is_unknown_is_not_called_safe_to_repeat() {
        let answer = Answer::from(Problem::from(Error::Uncertain(String::new())));
        assert_eq!((answer.status, header(&answer, "retry-after")), (500, None));
    }
}
