//! Requests that are fenced to one namespace: what they may ask, and what they see.
//!
//! Owns the fence. Who is fenced is said by the host that took the request, in a header that goes along to the host that
//! answers; a sender that says it of itself only sees less. What is not named here is refused, so that a new route is
//! closed until somebody has thought about it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, Method, StatusCode, request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use weft_compose::Manifest;
use weft_compose::record::LinkTarget;

use super::Admin;
use super::names;
use super::problem::Problem;
use crate::deploy::Deployed;
use crate::reconcile::{Condition, Progress};

/// The header that names the namespace.
pub const NAMESPACE: &str = "weft-namespace";

/// What a request is fenced to, if it is.
#[derive(Debug, Clone)]
pub(super) struct Scope(Option<Arc<str>>);

impl<S: Sync> FromRequestParts<S> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers)
    }
}

/// Refuses what a fenced request may not ask.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let scope = match Scope::of(request.headers()) {
        Ok(scope) => scope,
        Err(problem) => return problem.into_response(),
    };
    if let Some(namespace) = &scope.0
        && !is_open(request.method(), request.uri().path())
    {
        let detail = format!(
            "this is of the whole lattice, and the sender has rights for the namespace `{namespace}` alone: it needs the \
             rights of a host"
        );
        return denied(detail).into_response();
    }
    next.run(request).await
}

/// Routes that are of one namespace, or look into one.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    match (method.as_str(), path) {
        (
            "GET",
            "/v1/apps" | "/v1/actors" | "/v1/providers" | "/v1/links" | "/v1/subscriptions" | "/v1/watches"
            | "/v1/secrets" | "/v1/conditions" | "/v1/logs" | "/v1/openapi.json",
        ) => true,
        ("POST", "/v1/deploy" | "/v1/call" | "/v1/moves") => true,
        ("PUT" | "DELETE", "/v1/links" | "/v1/placements" | "/v1/secrets") => true,
        ("DELETE", path) => path == "/v1/moves" || path.starts_with("/v1/apps/"),
        // Bytes are no namespace's: who names them by their digest has them.
        ("HEAD" | "PUT", path) => path.starts_with("/v1/artifacts/"),
        _ => false,
    }
}

fn denied(detail: String) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "denied", detail)
}

impl Scope {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let named = headers.get(NAMESPACE).map(|value| value.to_str());
        match named.transpose() {
            Ok(name) => Ok(Self(name.map(Arc::from))),
            Err(_) => Err(denied(format!("the header {NAMESPACE} names no namespace"))),
        }
    }

    /// The namespace that it is fenced to, if it is.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether lines of the log are seen: those of an actor, or without one the host's own.
    pub(super) fn has_lines_of(&self, actor: Option<&str>) -> bool {
        match (&self.0, actor) {
            (None, _) => true,
            (Some(own), Some(actor)) => actor.split('/').next() == Some(own),
            (Some(_), None) => false,
        }
    }

    /// Whether what is in `namespace` is seen and may be changed.
    pub(super) fn has(&self, namespace: &str) -> bool {
        self.0.as_deref().is_none_or(|own| own == namespace)
    }

    /// # Errors
    /// `namespace` is another one.
    pub(super) fn allows(&self, namespace: &str) -> Result<(), Problem> {
        match self.0.as_deref() {
            Some(own) if own != namespace => Err(denied(format!(
                "the sender has rights for the namespace `{own}` alone, and this is in `{namespace}`"
            ))),
            _ => Ok(()),
        }
    }

    /// The same for all that an app names.
    ///
    /// # Errors
    /// It is in another namespace, or links to what is in one.
    pub(super) fn allows_app(&self, manifest: &Manifest) -> Result<(), Problem> {
        self.allows(manifest.app.value.namespace())?;
        for link in manifest.actors.values().flat_map(|actor| actor.links.values()) {
            self.allows_target(&link.target.value)?;
        }
        for subscription in &manifest.subscriptions {
            self.allows(subscription.provider.value.namespace())?;
        }
        for watch in &manifest.watches {
            self.allows(watch.provider.value.namespace())?;
        }
        Ok(())
    }

    /// # Errors
    /// A link would lead into another namespace.
    pub(super) fn allows_target(&self, target: &LinkTarget) -> Result<(), Problem> {
        match target {
            LinkTarget::Provider { name, .. } => self.allows(name.namespace()),
            LinkTarget::Actor { name } => self.allows(name.namespace()),
            LinkTarget::Http { .. } | LinkTarget::Removed => Ok(()),
        }
    }

    /// The one of `known` that `text` stands for, as [`names::complete`] says; names of other namespaces don't count.
    ///
    /// # Errors
    /// None does, or several do, or it is in another namespace.
    pub(super) fn complete<'a, N>(
        &self,
        kind: &str,
        text: &str,
        known: impl Iterator<Item = &'a N> + Clone,
    ) -> Result<N, Problem>
    where
        N: Clone + std::fmt::Display + 'a,
    {
        // An app's name has two parts, all others three.
        let parts = if kind == "app" { 2 } else { 3 };
        if let Some((namespace, _)) = text.split_once('/').filter(|_| text.split('/').count() == parts) {
            self.allows(namespace)?;
        }
        names::complete(kind, text, known)
    }

    /// Those that are seen.
    pub(super) fn conditions(&self, mut conditions: Vec<Condition>) -> Vec<Condition> {
        conditions.retain(|condition| match &condition.app {
            Some(app) => self.has(app.namespace()),
            None => self.0.is_none(),
        });
        conditions
    }

    /// A change, as it may be told.
    pub(super) fn shown(&self, deployed: Deployed) -> Deployed {
        Deployed {
            conditions: self.conditions(deployed.conditions),
            ..deployed
        }
    }
}

impl Admin {
    /// How far this host has come, with the records that are seen.
    pub(super) fn progress(&self, scope: &Scope) -> Progress {
        let progress = self.status.deployer.progress();
        match &scope.0 {
            None => progress,
            Some(namespace) => Progress {
                desired: Arc::new(progress.desired.of_namespace(namespace)),
                conditions: scope.conditions(progress.conditions),
                ..progress
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fenced() -> Scope {
        Scope(Some("team".into()))
    }

    #[test]
    fn a_name_of_another_namespace_is_denied_and_a_short_one_is_looked_for_in_the_own() {
        use weft_compose::ActorName;
        let known: Vec<ActorName> = ["team/shop/cart"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let complete = |text: &str| {
            let found = fenced().complete("actor", text, known.iter());
            found.map(|name| name.to_string()).map_err(|problem| problem.code)
        };
        assert_eq!(complete("cart"), Ok("team/shop/cart".to_owned()));
        assert_eq!(complete("other/shop/cart"), Err("denied"));
        assert_eq!(complete("cash"), Err("unknown-name"));
    }

    #[test]
    fn an_app_whose_links_lead_into_another_namespace_is_denied() {
        let app = |namespace: &str, provider: &str| {
            let text = format!(
                "apiVersion: weft/v1\nnamespace: {namespace}\nname: shop\nactors:\n  cart:\n    component: a.wasm\n    \
                 links:\n      wasi:keyvalue: {{ provider: {provider} }}\n"
            );
            let manifest = weft_compose::manifest::parse("app.yaml", &text).unwrap();
            fenced().allows_app(&manifest).map_err(|problem| problem.code)
        };
        assert_eq!(app("team", "team/stores/carts"), Ok(()));
        assert_eq!(app("team", "other/stores/carts"), Err("denied"));
        assert_eq!(app("other", "other/stores/carts"), Err("denied"));
    }
}
