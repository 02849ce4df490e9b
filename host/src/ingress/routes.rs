//! Which actor answers which request.
//!
//! Owns the table, a snapshot that is swapped as a whole while requests run. So far a route is a path prefix;
//! hosts, methods and headers join it with manifests.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::actor::Actor;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// One route.
#[derive(Clone)]
pub struct Route {
    /// `/`, or a path without a slash at its end. Matches itself and everything below it; the actor sees the path
    /// from there on, and the prefix as `X-Forwarded-Prefix`.
    pub prefix: String,
    /// Who answers.
    pub actor: Arc<Actor>,
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        self.prefix == "/"
            || path
                .strip_prefix(self.prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Takes the prefix off a request that matched.
    pub fn rewrite(&self, uri: &mut Uri, headers: &mut HeaderMap) {
        if self.prefix == "/" {
            return;
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let rest = path.strip_prefix(self.prefix.as_str()).unwrap_or(path);
        let rest = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        let mut parts = uri.clone().into_parts();
        // A part of a valid path is a valid path, and so is the prefix of one.
        if let (Ok(rest), Ok(prefix)) = (PathAndQuery::try_from(rest), HeaderValue::from_str(&self.prefix)) {
            parts.path_and_query = Some(rest);
            if let Ok(rewritten) = Uri::from_parts(parts) {
                *uri = rewritten;
                headers.insert(X_FORWARDED_PREFIX, prefix);
            }
        }
    }
}

/// The routes of a host.
#[derive(Default)]
pub struct Routes(ArcSwap<Vec<Arc<Route>>>);

impl Routes {
    /// Replaces all routes. Requests that are running keep the actor they have.
    pub fn replace(&self, mut routes: Vec<Route>) {
        // The longest prefix that matches wins.
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        self.0.store(Arc::new(routes.into_iter().map(Arc::new).collect()));
    }

    /// The route for `path`.
    pub fn find(&self, path: &str) -> Option<Arc<Route>> {
        self.0.load().iter().find(|route| route.matches(path)).cloned()
    }

    /// All routes, the longest prefix first.
    pub fn all(&self) -> Guard<Arc<Vec<Arc<Route>>>> {
        self.0.load()
    }
}
