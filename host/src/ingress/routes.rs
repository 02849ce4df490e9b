//! Which actor answers which request.
//!
//! Owns the table of one snapshot and its order: the more specific host first, then the longer path, then a named
//! method before any, then more headers. It is an index: ten thousand routes are found as fast as one.

use std::collections::HashMap;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::state::Callee;

/// The longest name that DNS has; no route's host is longer, and what is longer in a request is not looked up.
const HOST_LEN_MAX: usize = 253;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// A host name, `*.` and the end of one, or `None` for any; in lower case, without a port.
    pub host: Option<String>,
    /// `/`, or a path without a slash at its end. Matches itself and everything below it.
    pub path: String,
    /// None for any.
    pub methods: Vec<Method>,
    /// Headers that a request must have, with these values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the actor sees the path only from the route's own on, and the rest as `X-Forwarded-Prefix`.
    pub strip_prefix: bool,
    /// Who answers.
    pub target: Callee,
}

impl Route {
    fn matches(&self, request: &Request<impl Sized>) -> bool {
        let path = request.uri().path();
        let below = self.path == "/"
            || path
                .strip_prefix(self.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        below
            && (self.methods.is_empty() || self.methods.contains(request.method()))
            && self
                .headers
                .iter()
                .all(|(name, value)| request.headers().get(name) == Some(value))
    }

    /// Takes the route's path off a request that matched, if the route says so.
    pub fn rewrite(&self, head: &mut Parts) {
        if self.strip_prefix && self.path != "/" {
            strip_prefix(&self.path, &mut head.uri, &mut head.headers);
        }
    }
}

fn strip_prefix(prefix: &str, uri: &mut Uri, headers: &mut HeaderMap) {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let rest = if rest.starts_with('/') {
        rest.to_owned()
    } else {
        format!("/{rest}")
    };
    let mut parts = uri.clone().into_parts();
    // A part of a valid path is a valid path, and so is the prefix of one.
    if let (Ok(rest), Ok(prefix)) = (PathAndQuery::try_from(rest), HeaderValue::from_str(prefix)) {
        parts.path_and_query = Some(rest);
        if let Ok(rewritten) = Uri::from_parts(parts) {
            *uri = rewritten;
            headers.insert(X_FORWARDED_PREFIX, prefix);
        }
    }
}

/// The routes of one snapshot. Finding one takes as many look-ups as its path and its host have parts, however many
/// routes there are.
#[derive(Default)]
pub struct Routes {
    exact: HashMap<String, Group>,
    /// By the part after the `*`, which starts with a dot.
    wildcard: HashMap<String, Group>,
    any: Group,
}

/// The routes of one host, each path's own in the order in which they are tried.
#[derive(Default)]
struct Group {
    by_path: HashMap<String, Vec<Route>>,
    /// Bytes of the longest path: what is longer in a request is not looked up.
    path_len_max: usize,
}

impl Group {
    fn add(&mut self, route: Route) {
        self.path_len_max = self.path_len_max.max(route.path.len());
        self.by_path.entry(route.path.clone()).or_default().push(route);
    }

    fn sort(&mut self) {
        for same_path in self.by_path.values_mut() {
            same_path
                .sort_by_key(|route| std::cmp::Reverse((!route.methods.is_empty(), route.headers.len())));
        }
    }

    fn find(&self, request: &Request<impl Sized>) -> Option<&Route> {
        let path = request.uri().path();
        // The whole path, what is before its last slash, before the one before that, and at last the root.
        let before_slashes = path.rmatch_indices('/').map(|(at, _)| at);
        std::iter::once(path.len())
            .chain(before_slashes)
            .filter(|len| (1..=self.path_len_max).contains(len))
            .map(|len| &path[..len])
            .chain(["/"])
            .filter_map(|path| self.by_path.get(path))
            .flatten()
            .find(|route| route.matches(request))
    }
}

impl Routes {
    /// A table of `routes`; of those that say the same, the first is taken.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut table = Self::default();
        for route in routes {
            let group = match route.host.as_deref().map(|host| (host, host.strip_prefix('*'))) {
                None => &mut table.any,
                Some((_, Some(suffix))) => table.wildcard.entry(suffix.to_owned()).or_default(),
                Some((host, None)) => table.exact.entry(host.to_owned()).or_default(),
            };
            group.add(route);
        }
        let groups = table.exact.values_mut().chain(table.wildcard.values_mut());
        groups.chain([&mut table.any]).for_each(Group::sort);
        table
    }

    /// The route of a request.
    pub fn find(&self, request: &Request<impl Sized>) -> Option<&Route> {
        if !self.exact.is_empty() || !self.wildcard.is_empty() {
            let host = host(request).unwrap_or_default().to_ascii_lowercase();
            if let Some(route) = self.exact.get(&host).and_then(|group| group.find(request)) {
                return Some(route);
            }
            // From the first dot on, then from the next: the longest end of the name first. `*` is not nothing.
            let looked_up = |at: &usize| *at > 0 && host.len() - at <= HOST_LEN_MAX;
            let ends = host.match_indices('.').filter(|(at, _)| looked_up(at));
            let mut ends = ends.filter_map(|(at, _)| self.wildcard.get(&host[at..]));
            if let Some(route) = ends.find_map(|group| group.find(request)) {
                return Some(route);
            }
        }
        self.any.find(request)
    }

    /// All routes.
    pub fn all(&self) -> impl Iterator<Item = &Route> {
        let groups = self.exact.values().chain(self.wildcard.values());
        groups
            .chain([&self.any])
            .flat_map(|group| group.by_path.values().flatten())
    }
}

/// The host that a request is for, without its port.
fn host(request: &Request<impl Sized>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = request.headers().get(HOST)?.to_str().ok()?;
    match host.rsplit_once(':') {
        // An address of version 6 has colons of its own, within brackets.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => Some(name),
        _ => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use weft_compose::ActorName;

    use super::*;
    use crate::state::indices;

    fn route(
        target: usize,
        host: Option<&str>,
        path: &str,
        method: Option<Method>,
        header: Option<&'static str>,
    ) -> Route {
        let names: Vec<ActorName> = (0..8)
            .map(|n| ActorName::new("a", "b", &format!("n{n}")).unwrap())
            .collect();
        let target = indices(names.iter())[&names[target]];
        Route {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            methods: method.into_iter().collect(),
            headers: header
                .map(|value| {
                    (
                        HeaderName::from_static("x-tenant"),
                        HeaderValue::from_static(value),
                    )
                })
                .into_iter()
                .collect(),
            strip_prefix: false,
            target: Callee::Here(target),
        }
    }

    fn request(method: Method, host: &str, path: &str, tenant: Option<&str>) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant", tenant);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_more_specific_host_wins_then_the_longer_path_then_the_method_then_more_headers() {
        let routes = [
            route(0, None, "/", None, None),
            route(1, Some("shop.example"), "/", None, None),
            route(2, Some("*.example"), "/", None, None),
            route(3, None, "/api", None, None),
            route(4, None, "/api", Some(Method::POST), None),
            route(5, None, "/api", Some(Method::POST), Some("blue")),
        ];
        let targets: Vec<_> = routes.iter().map(|route| route.target).collect();
        let table = Routes::new(routes.into());
        let found = |request: Request<()>| table.find(&request).map(|route| route.target);
        let expect = |at: usize| Some(targets[at]);
        assert_eq!(
            found(request(Method::GET, "shop.example:8080", "/api", None)),
            expect(1)
        );
        assert_eq!(found(request(Method::GET, "SHOP.EXAMPLE", "/", None)), expect(1));
        assert_eq!(found(request(Method::GET, "www.example", "/", None)), expect(2));
        assert_eq!(found(request(Method::GET, "other.test", "/", None)), expect(0));
        assert_eq!(
            found(request(Method::GET, "other.test", "/api/x", None)),
            expect(3)
        );
        assert_eq!(
            found(request(Method::POST, "other.test", "/api/x", None)),
            expect(4)
        );
        assert_eq!(
            found(request(Method::POST, "other.test", "/api", Some("blue"))),
            expect(5)
        );
        assert_eq!(
            found(request(Method::POST, "other.test", "/apix", None)),
            expect(0)
        );
    }

    #[test]
    fn a_request_that_no_route_takes_finds_none() {
        let table = Routes::new(vec![route(0, Some("*.example"), "/a", None, None)]);
        assert!(
            table
                .find(&request(Method::GET, ".example", "/a", None))
                .is_none()
        );
        assert!(
            table
                .find(&request(Method::GET, "a.example", "/b", None))
                .is_none()
        );
        assert!(
            table
                .find(&request(Method::GET, "[::1]:80", "/a", None))
                .is_none()
        );
    }

    #[test]
    fn a_stripped_prefix_is_told_in_a_header() {
        let mut route = route(0, None, "/shop", None, None);
        route.strip_prefix = true;
        let (mut head, ()) = request(Method::GET, "a", "/shop/item?x=1", None).into_parts();
        route.rewrite(&mut head);
        assert_eq!(head.uri, "/item?x=1");
        assert_eq!(head.headers[X_FORWARDED_PREFIX], "/shop");
    }

    /// What [`Routes::find`] is to find: of all routes that take the request, the first in the documented order.
    fn find_in_order(routes: &[Route], request: &Request<()>) -> Option<Callee> {
        let host = host(request).unwrap_or_default().to_ascii_lowercase();
        let host_rank = |route: &Route| match route.host.as_deref() {
            None => Some((0, 0)),
            Some(own) => match own.strip_prefix('*') {
                Some(end) => (host.len() > end.len() && host.ends_with(end)).then_some((1, end.len())),
                None => (own == host).then_some((2, 0)),
            },
        };
        let mut found: Vec<_> = routes
            .iter()
            .filter(|route| route.matches(request))
            .filter_map(|route| Some((host_rank(route)?, route)))
            .collect();
        found.sort_by_key(|(host, route)| {
            let named = !route.methods.is_empty();
            std::cmp::Reverse((*host, route.path.len(), named, route.headers.len()))
        });
        found.first().map(|(_, route)| route.target)
    }

    proptest::proptest! {
        #[test]
        fn finds_what_a_look_at_all_routes_in_their_order_finds(
            routes in proptest::collection::vec(
                (
                    proptest::option::of("(\\*\\.)?(a|b)(\\.a){0,2}"),
                    "/|(/[ab]{1,2}){1,3}",
                    proptest::bool::ANY,
                    proptest::option::of(proptest::sample::select(vec!["blue", "red"])),
                ),
                0..24,
            ),
            host in "[abA]?(\\.[ab]){0,3}(:80)?",
            path in "(/[ab]{0,2}){1,4}",
            post in proptest::bool::ANY,
            tenant in proptest::option::of(proptest::sample::select(vec!["blue", "red"])),
        ) {
            let names: Vec<ActorName> = (0..routes.len())
                .map(|n| ActorName::new("a", "b", &format!("n{n}")).unwrap())
                .collect();
            let indices = indices(names.iter());
            let routes: Vec<Route> = std::iter::zip(&names, routes)
                .map(|(name, (host, path, post, header))| Route {
                    target: Callee::Here(indices[name]),
                    ..route(0, host.as_deref(), &path, post.then_some(Method::POST), header)
                })
                .collect();
            let method = if post { Method::POST } else { Method::GET };
            let request = request(method, &host, &path, tenant);
            let found = Routes::new(routes.clone()).find(&request).map(|route| route.target);
            proptest::prop_assert_eq!(found, find_in_order(&routes, &request));
        }
    }
}
