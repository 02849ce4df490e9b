//! The manifest of an app: its actors, providers, links, routes, subscriptions and watches, written in YAML.
//!
//! Owns the model and the step from text to model and back. It must not know components: whether an actor has the
//! exports that a link needs is the host's to check, with [`Manifest::fault`] to say where it does not.
//! The keys are in `keys`, the YAML in `tree`, the checks in `read`.

mod keys;
mod read;
pub(crate) mod tree;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use keys::{ACTOR_LINK, HTTP_LINK, MANIFEST, Object, PROVIDER_LINK, Shape};
pub use read::parse;

use crate::capability::Capability;
use crate::fault::{Fault, FaultKind, Span, Spanned};
use crate::limits::Limits;
use crate::link::{DEFAULT_LINK, LinkKey};
use crate::name::{ActorName, AppName, DEFAULT_NAMESPACE, NameError, ProviderName};
use crate::record::{CommandRecord, LinkTarget};
use crate::route::{self, Claim};
use crate::scope::AppPattern;
use crate::secret::SecretSource;

/// The version of the manifest's form.
pub const API_VERSION: &str = "weft/v1";

/// An app as its authors wrote it. Places don't count when two are compared.
///
/// [`parse`] makes one of which all checks hold that need no component; who fills one in by hand passes it through
/// [`Manifest::to_yaml`] and [`parse`] to have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The file as the user named it, for faults.
    pub file: Arc<str>,
    /// Namespace and name.
    pub app: Spanned<AppName>,
    /// The app's version, free text.
    pub version: Option<String>,
    /// What the app is, for people.
    pub description: Option<String>,
    /// Root calls that each host keeps places for; None leaves it a fair part.
    pub reserve: Option<u32>,
    /// Actors by their name in the app.
    pub actors: BTreeMap<String, Actor>,
    /// Providers by their name in the app.
    pub providers: BTreeMap<String, Provider>,
    /// Routes, in the order in which they were written.
    pub routes: Vec<Route>,
    /// Subscriptions, in the order in which they were written.
    pub subscriptions: Vec<Subscription>,
    /// Watches, in the order in which they were written.
    pub watches: Vec<Watch>,
}

/// An actor of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Its full name, at the place where the actor starts.
    pub name: Spanned<ActorName>,
    /// What runs.
    pub component: Spanned<ComponentRef>,
    /// What it reads as its configuration.
    pub config: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Functions that may be called again, as `INTERFACE.FUNCTION`, in order and each once.
    pub idempotent: Vec<Spanned<String>>,
    /// What its imports resolve to.
    pub links: BTreeMap<LinkKey, Link>,
    /// What it reads as its secrets: its own names, and where each comes from.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Which other apps may link to it, in order and each once.
    pub allow_from: Vec<AppPattern>,
}

/// Where a component is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentRef {
    /// A file, relative to the manifest's folder.
    Path(String),
    /// `sha256:` and 64 lower-case hexadecimal digits.
    Digest(String),
    /// In a registry: `oci://` and a name. What it means is decided by whoever deploys, and the record has the digest.
    Oci(String),
}

/// What an import resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where its interface was written.
    pub interface: Spanned<()>,
    /// Where it goes; never [`LinkTarget::Removed`]. The patterns of an allow-list are in order and each once.
    pub target: Spanned<LinkTarget>,
}

/// A provider of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its full name, at the place where the provider starts.
    pub name: Spanned<ProviderName>,
    /// What it serves.
    pub capability: Capability,
    /// What serves it.
    pub backend: Spanned<String>,
    /// What is set on the backend.
    pub config: BTreeMap<String, String>,
    /// Which other apps may link to it, in order and each once.
    pub allow_from: Vec<AppPattern>,
    /// Of an outside one: its process, if a host is to start that.
    pub command: Option<CommandRecord>,
}

/// Which requests go to an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which actor.
    pub actor: Spanned<ActorName>,
    /// A lower-case host name or `*.suffix`; None for any host.
    pub host: Option<String>,
    /// A path that takes itself and what is below it in whole segments, without a slash at its end.
    pub path: String,
    /// Upper-case methods in order and each once; none for any.
    pub methods: Vec<String>,
    /// Headers with lower-case names, that a request must have.
    pub headers: BTreeMap<String, String>,
    /// Whether the actor sees the path without the route's own, which it is told as `X-Forwarded-Prefix`.
    pub strip_prefix: bool,
}

/// Which messages go to an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Where they come from.
    pub provider: Spanned<ProviderName>,
    /// What is listened to, which may have wildcards.
    pub subject: String,
    /// Who handles them.
    pub actor: Spanned<ActorName>,
    /// Of all that subscribe as one group, one gets each message.
    pub group: String,
    /// Whether subjects are those of all apps on the provider, and not the app's own.
    pub shared: bool,
}

/// Which changes of keys an actor is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The store.
    pub provider: Spanned<ProviderName>,
    /// Its bucket, as an actor opens it.
    pub bucket: String,
    /// What the keys begin with; empty for all.
    pub keys: String,
    /// Who is told.
    pub actor: Spanned<ActorName>,
    /// Whether the bucket is one of all apps on the provider, and not the app's own.
    pub shared: bool,
}

impl Manifest {
    /// An app without anything in it.
    ///
    /// # Errors
    /// The name is not a DNS label.
    pub fn new(file: &str, namespace: Option<&str>, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            file: file.into(),
            app: AppName::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name)?.into(),
            version: None,
            description: None,
            reserve: None,
            actors: BTreeMap::new(),
            providers: BTreeMap::new(),
            routes: Vec::new(),
            subscriptions: Vec::new(),
            watches: Vec::new(),
        })
    }

    /// A fault of this manifest at a place in it, for a check that knows more than this crate.
    pub fn fault(&self, span: Span, kind: FaultKind) -> Fault {
        Fault {
            file: self.file.clone(),
            span,
            kind,
        }
    }

    /// The canonical text: short, in a fixed order, without what is the default. It parses to an equal manifest.
    pub fn to_yaml(&self) -> String {
        write::yaml(self)
    }
}

impl Actor {
    /// An actor with nothing but a component.
    pub fn new(name: ActorName, component: ComponentRef) -> Self {
        Self {
            name: name.into(),
            component: component.into(),
            config: BTreeMap::new(),
            limits: Limits::default(),
            idempotent: Vec::new(),
            links: BTreeMap::new(),
            secrets: BTreeMap::new(),
            allow_from: Vec::new(),
        }
    }

    /// The default link of an import, for example `wasi:keyvalue/store@0.2.0-draft`.
    pub fn link(&self, import: &str) -> Option<(&LinkKey, &Link)> {
        self.link_named(DEFAULT_LINK, import)
    }

    /// The link of an import that has this name: of those that match, the one that says most.
    pub fn link_named(&self, name: &str, import: &str) -> Option<(&LinkKey, &Link)> {
        let matches = |key: &LinkKey| key.name() == name && key.interface.matches(import);
        let matching = self.links.iter().filter(|(key, _)| matches(key));
        matching.max_by_key(|(key, _)| key.interface.specificity())
    }

    /// The names that its links have, in order and each once.
    pub fn link_names(&self) -> BTreeSet<&str> {
        self.links.keys().map(LinkKey::name).collect()
    }
}

impl Link {
    /// A link to a target.
    pub fn new(target: LinkTarget) -> Self {
        Self {
            interface: ().into(),
            target: target.into(),
        }
    }
}

impl Route {
    /// A route that takes all requests to an actor.
    pub fn new(actor: ActorName) -> Self {
        Self {
            actor: actor.into(),
            host: None,
            path: "/".to_owned(),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            strip_prefix: false,
        }
    }

    /// What the route takes, one claim for each method.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        route::claims(self.host.as_deref(), &self.path, &self.methods, &self.headers)
    }
}

impl std::fmt::Display for ComponentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(text) | Self::Digest(text) | Self::Oci(text) => f.write_str(text),
        }
    }
}
