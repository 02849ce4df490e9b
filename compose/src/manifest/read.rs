//! From the tree to the model, with all faults on the way.
//!
//! Owns what becomes of each key; single values are read in `value`, and `check` holds one part against another. A part
//! with a fault is left out of the model, and its name is kept, so that one mistake is told once.

mod check;
mod value;

use std::collections::btree_map as map;
use std::collections::{BTreeMap, BTreeSet};

use crate::capability::{BACKENDS, Capability, OUTSIDE, OptionValue, backend};
use crate::fault::{Collector, FaultKind, Faults, Near, Spanned, one_of, repeated};
use crate::key;
use crate::limits::Limits;
use crate::link::{LinkKey, check_beside, check_interface};
use crate::manifest::keys::{self, ACTOR_LINK, HTTP_LINK, LINK, MANIFEST, PROVIDER_LINK};
use crate::manifest::read::value::Fields;
use crate::manifest::tree::{self, Entry, Node};
use crate::manifest::{
    API_VERSION, Actor, ComponentRef, Link, Manifest, Provider, Route, Subscription, Watch,
};
use crate::name::{ActorName, AppName, DEFAULT_NAMESPACE, HostName, ProviderName};
use crate::record::{CommandRecord, LinkTarget};
use crate::route::{self, METHODS};
use crate::scope::AppPattern;
use crate::secret::{SecretSource, Template};
use crate::subscription::{is_group, is_subject};
use crate::watch::{is_bucket, is_prefix};

/// Reads a manifest. `file_name` is what faults call it.
///
/// # Errors
/// All that is wrong, up to [`crate::fault::FAULTS_MAX`] faults.
pub fn parse(file_name: &str, text: &str) -> Result<Manifest, Faults> {
    let mut reader = Reader {
        faults: Collector::new(file_name.into()),
        namespace: DEFAULT_NAMESPACE.to_owned(),
        app: String::new(),
        actors: BTreeSet::new(),
        providers: BTreeSet::new(),
    };
    let manifest = tree::read(text, &mut reader.faults).and_then(|root| reader.manifest(file_name, &root));
    reader.faults.finish(manifest)
}

struct Reader {
    faults: Collector,
    namespace: String,
    app: String,
    /// Names of the app's actors, those with faults too.
    actors: BTreeSet<String>,
    providers: BTreeSet<String>,
}

impl Reader {
    fn manifest(&mut self, file: &str, root: &Node) -> Option<Manifest> {
        let fields = self.object(root.span, root, &MANIFEST)?;
        if let Some(entry) = fields.get("apiVersion") {
            self.api_version(entry);
        }
        if let Some(name) = fields.get("namespace").and_then(|entry| self.label(&entry.node)) {
            self.namespace = name;
        }
        let name = fields
            .get("name")
            .and_then(|entry| Some(Spanned::new(self.label(&entry.node)?, entry.node.span)));
        // Without a name the rest is read as if there were one: it may have faults, too.
        self.app = name
            .as_ref()
            .map_or_else(|| "app".to_owned(), |name| name.value.clone());
        let version = fields
            .get("version")
            .and_then(|e| self.line(e, keys::VERSION_LEN_MAX));
        let description = fields
            .get("description")
            .and_then(|e| self.lines(e, keys::DESCRIPTION_LEN_MAX));

        let reserve = fields
            .get("reserve")
            .and_then(|e| self.count(e, &crate::limits::RESERVE))
            .map(narrow);

        let (actors, providers) = (
            self.entries(fields.get("actors")),
            self.entries(fields.get("providers")),
        );
        self.actors = actors.iter().map(|entry| entry.key.clone()).collect();
        self.providers = providers.iter().map(|entry| entry.key.clone()).collect();
        let providers = providers
            .iter()
            .filter_map(|e| Some((e.key.clone(), self.provider(e)?)))
            .collect();
        let actors = actors
            .iter()
            .filter_map(|e| Some((e.key.clone(), self.actor(e)?)))
            .collect();
        let routes = self.items(fields.get("routes"));
        let routes: Vec<_> = routes
            .iter()
            .filter_map(|node| Some((self.route(node)?, node.span)))
            .collect();
        let subscriptions = self.items(fields.get("subscriptions"));
        let subscriptions: Vec<_> = subscriptions
            .iter()
            .filter_map(|node| Some((self.subscription(node)?, node.span)))
            .collect();
        let watches = self.items(fields.get("watches"));
        let watches: Vec<_> = watches
            .iter()
            .filter_map(|node| Some((self.watch(node)?, node.span)))
            .collect();
        self.check_links(&actors, &providers);
        self.check_routes(&routes);
        self.check_subscriptions(&subscriptions, &providers);
        self.check_watches(&watches, &providers);
        Some(Manifest {
            file: file.into(),
            app: Spanned::new(AppName::new(&self.namespace, &self.app).ok()?, name?.span),
            version,
            description,
            reserve,
            actors,
            providers,
            routes: routes.into_iter().map(|(route, _)| route).collect(),
            subscriptions: subscriptions.into_iter().map(|(one, _)| one).collect(),
            watches: watches.into_iter().map(|(one, _)| one).collect(),
        })
    }

    fn api_version(&mut self, entry: &Entry) {
        if let Some(text) = self.text("apiVersion", &entry.node)
            && text != API_VERSION
        {
            let version = repeated(text);
            self.faults.push(entry.node.span, || FaultKind::ApiVersion {
                version,
                expected: API_VERSION,
            });
        }
    }

    fn actor(&mut self, entry: &Entry) -> Option<Actor> {
        let name = self.name_of(entry, ActorName::new);
        let fields = self.object(entry.key_span, &entry.node, &keys::ACTOR)?;
        let component = fields.get("component").and_then(|e| self.component(e));
        let config = self.config(fields.get("config"));
        let limits = self.limits(fields.get("limits"));
        let mut idempotent = Vec::new();
        for node in self.items(fields.get("idempotent")) {
            idempotent.extend(self.function(node));
        }
        idempotent.sort_by(|a, b| a.value.cmp(&b.value));
        idempotent.dedup();
        let mut links: BTreeMap<LinkKey, Link> = BTreeMap::new();
        for entry in self.entries(fields.get("links")) {
            let Some((key, link)) = self.link(entry) else {
                continue;
            };
            let differing = links.iter().find_map(|(other, of)| {
                check_beside((&key, &link.target.value), (other, &of.target.value)).err()
            });
            if let Some(kind) = differing {
                self.faults.push(entry.key_span, || kind);
            }
            match links.entry(key) {
                map::Entry::Vacant(free) => drop(free.insert(link)),
                // `#default` says what is so without it.
                map::Entry::Occupied(taken) => {
                    let (key, first) = (taken.key().to_string(), taken.get().interface.span.line);
                    self.faults
                        .push(entry.key_span, || FaultKind::DuplicateKey { key, first });
                }
            }
        }
        let secrets = self.secrets(fields.get("secrets"));
        let allow_from = self.allow_from(fields.get("allowFrom"));
        Some(Actor {
            name: name?,
            component: component?,
            config,
            limits,
            idempotent,
            links,
            secrets,
            allow_from,
        })
    }

    fn allow_from(&mut self, entry: Option<&Entry>) -> Vec<AppPattern> {
        let mut apps = BTreeSet::new();
        for node in self.items(entry) {
            let Some(text) = self.text("allowFrom", node) else {
                continue;
            };
            match AppPattern::read(text, &self.namespace) {
                Ok(pattern) => drop(apps.insert(pattern)),
                Err(error) => self.faults.push(node.span, || FaultKind::AllowFrom(error)),
            }
        }
        apps.into_iter().collect()
    }

    fn component(&mut self, entry: &Entry) -> Option<Spanned<ComponentRef>> {
        let text = self.text("component", &entry.node)?;
        let digest = text.strip_prefix("sha256:");
        let is_hex =
            |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_path = (1..=keys::COMPONENT_LEN_MAX).contains(&text.len())
            && !text.contains("://")
            && !text.contains(|c: char| c.is_control());
        let is_oci = |text: &str| {
            text.len() <= keys::COMPONENT_LEN_MAX
                && text
                    .strip_prefix("oci://")
                    .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
        };
        let component = match digest {
            Some(hex) if is_hex(hex) => ComponentRef::Digest(text.to_owned()),
            None if is_oci(text) => ComponentRef::Oci(text.to_owned()),
            None if is_path => ComponentRef::Path(text.to_owned()),
            _ => {
                let text = repeated(text);
                self.faults
                    .push(entry.node.span, || FaultKind::Component { text });
                return None;
            }
        };
        Some(Spanned::new(component, entry.node.span))
    }

    fn config(&mut self, entry: Option<&Entry>) -> BTreeMap<String, String> {
        let mut config = BTreeMap::new();
        for entry in self.entries(entry) {
            let value = self.text(&entry.key, &entry.node);
            if self.fits("the key", &entry.key, keys::CONFIG_KEY_LEN_MAX, entry.key_span)
                && let Some(value) = value
                && self.fits(&entry.key, value, keys::CONFIG_VALUE_LEN_MAX, entry.node.span)
            {
                config.insert(entry.key.clone(), value.to_owned());
            }
        }
        config
    }

    fn secrets(&mut self, entry: Option<&Entry>) -> BTreeMap<String, SecretSource> {
        let mut secrets = BTreeMap::new();
        for entry in self.entries(entry) {
            let source = self.text(&entry.key, &entry.node).map(str::parse::<SecretSource>);
            if !self.fits("the key", &entry.key, keys::CONFIG_KEY_LEN_MAX, entry.key_span) {
                continue;
            }
            match source {
                Some(Ok(source)) => drop(secrets.insert(entry.key.clone(), source)),
                Some(Err(error)) => self
                    .faults
                    .push(entry.node.span, || FaultKind::SecretSource(error.to_string())),
                None => {}
            }
        }
        secrets
    }

    fn limits(&mut self, entry: Option<&Entry>) -> Limits {
        use crate::limits as range;
        let mut limits = Limits::default();
        let Some(entry) = entry else { return limits };
        let Some(fields) = self.object(entry.key_span, &entry.node, &keys::LIMITS) else {
            return limits;
        };
        for entry in fields.all() {
            match entry.key.as_str() {
                "concurrency" => set(
                    &mut limits.concurrency,
                    self.count(entry, &range::CONCURRENCY).map(narrow),
                ),
                "queue" => set(
                    &mut limits.queue_len,
                    self.count(entry, &range::QUEUE_LEN).map(narrow),
                ),
                "queueWait" => set(&mut limits.queue_wait, self.duration(entry, &range::QUEUE_WAIT)),
                "timeout" => set(&mut limits.timeout, self.duration(entry, &range::TIMEOUT)),
                "streamTimeout" => set(
                    &mut limits.stream_timeout,
                    self.duration(entry, &range::STREAM_TIMEOUT),
                ),
                "cpuTime" => set(&mut limits.cpu_time, self.duration(entry, &range::CPU_TIME)),
                "memory" => set(&mut limits.memory_bytes, self.size(entry, &range::MEMORY_BYTES)),
                "requestBody" => set(
                    &mut limits.request_body_bytes,
                    self.size(entry, &range::REQUEST_BODY_BYTES),
                ),
                "log" => set(&mut limits.log_bytes, self.size(entry, &range::LOG_BYTES)),
                "reuse" => set(&mut limits.reuse, self.count(entry, &range::REUSE).map(narrow)),
                "reuseIdle" => set(&mut limits.reuse_idle, self.duration(entry, &range::REUSE_IDLE)),
                _ => {}
            }
        }
        limits
    }

    fn link(&mut self, entry: &Entry) -> Option<(LinkKey, Link)> {
        let target = self.target(entry);
        let key = entry.key.parse::<LinkKey>().map_err(FaultKind::from);
        match key.and_then(|key| check_interface(&key.interface).map(|()| key)) {
            Ok(key) => {
                let at = Spanned::new((), entry.key_span);
                Some((
                    key,
                    Link {
                        interface: at,
                        target: target?,
                    },
                ))
            }
            Err(kind) => {
                self.faults.push(entry.key_span, || kind);
                None
            }
        }
    }

    fn target(&mut self, entry: &Entry) -> Option<Spanned<LinkTarget>> {
        let entries = self.entries(Some(entry));
        let kind = |entry: &Entry| match entry.key.as_str() {
            "provider" => Some(&PROVIDER_LINK),
            "actor" => Some(&ACTOR_LINK),
            "allow" => Some(&HTTP_LINK),
            _ => None,
        };
        let kinds: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some((kind(entry)?, entry)))
            .collect();
        if entries.is_empty() && !entry.node.is_empty() {
            return None;
        }
        let [(object, to)] = kinds[..] else {
            for entry in entries.iter().filter(|entry| !LINK.has(&entry.key)) {
                self.unknown_key(entry, LINK.place, LINK.names());
            }
            let found = if kinds.is_empty() {
                "there is none of them"
            } else {
                "there are several"
            };
            self.faults
                .push(entry.key_span, || FaultKind::LinkTarget { found });
            return None;
        };
        let fields = self.object(entry.key_span, &entry.node, object)?;
        let target = match to.key.as_str() {
            "provider" => LinkTarget::Provider {
                name: self.target_name(to, ProviderName::new)?,
                bucket: fields
                    .get("bucket")
                    .and_then(|e| self.line(e, keys::BUCKET_LEN_MAX)),
                shared: fields
                    .get("shared")
                    .and_then(|e| self.truth(e))
                    .unwrap_or_default(),
            },
            "actor" => LinkTarget::Actor {
                name: self.target_name(to, ActorName::new)?,
            },
            _ => {
                let patterns = self.items(Some(to)).iter().filter_map(|node| self.allow(node));
                let patterns: BTreeSet<_> = patterns.collect();
                LinkTarget::Http {
                    allow: patterns.into_iter().collect(),
                }
            }
        };
        Some(Spanned::new(target, to.node.span))
    }

    fn provider(&mut self, entry: &Entry) -> Option<Provider> {
        let name = self.name_of(entry, ProviderName::new);
        let fields = self.object(entry.key_span, &entry.node, &keys::PROVIDER)?;
        let capability = fields.get("capability").and_then(|e| self.capability(e))?;
        let chosen = fields.get("backend")?;
        let text = self.text("backend", &chosen.node)?;
        let Some(backend) = backend(capability, text) else {
            let known = || {
                BACKENDS
                    .iter()
                    .filter(|b| b.capability == capability)
                    .map(|b| b.name)
            };
            self.faults.push(chosen.node.span, || FaultKind::UnknownBackend {
                capability: capability.to_string(),
                backend: repeated(text),
                expected: one_of(known()),
                near: Near::of(text, known()),
            });
            return None;
        };
        let mut config = BTreeMap::new();
        for entry in self.entries(fields.get("config")) {
            match backend.options.iter().find(|option| option.name == entry.key) {
                Some(option) => {
                    let value = match option.value {
                        OptionValue::Number { min, max } => {
                            self.count(entry, &(min..=max)).map(|number| number.to_string())
                        }
                        OptionValue::Text => self.template(option.name, &entry.node),
                    };
                    config.extend(value.map(|value| (entry.key.clone(), value)));
                }
                None => self.unknown_key(
                    entry,
                    "the config of this backend",
                    backend.options.iter().map(|o| o.name),
                ),
            }
        }
        Some(Provider {
            name: name?,
            capability,
            backend: Spanned::new(text.to_owned(), chosen.node.span),
            config,
            allow_from: self.allow_from(fields.get("allowFrom")),
            command: self.command(text, &fields),
        })
    }

    /// The process of an outside provider.
    fn command(&mut self, backend: &str, fields: &Fields<'_>) -> Option<CommandRecord> {
        let given = ["command", "env", "host", "hostLabels"].map(|key| fields.get(key));
        let first = given.into_iter().flatten().next()?;
        let [command, env, host, labels] = given;
        let (Some(command), true) = (command, host.is_some() || labels.is_some()) else {
            self.faults.push(first.key_span, || FaultKind::Command {
                reason: "`command` needs `host` or `hostLabels`, and those and `env` need it: add what is missing, or remove them",
            });
            return None;
        };
        if backend != OUTSIDE {
            self.faults.push(first.key_span, || FaultKind::Command {
                reason: "it is for the backend `outside`, whose providers are processes of their own: remove it",
            });
            return None;
        }
        if let (Some(_), Some(labels)) = (host, labels) {
            self.faults.push(labels.key_span, || FaultKind::Command {
                reason: "`host` is one host, and `hostLabels` are all that have them: remove one of the two",
            });
            return None;
        }
        let mut args = Vec::new();
        for node in self.items(Some(command)) {
            let text = self.text("command", node)?;
            if self.fits("command", text, keys::ARGUMENT_LEN_MAX, node.span) {
                args.push(text.to_owned());
            }
        }
        let is_file =
            |name: &String| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        if !args.first().is_some_and(is_file) || args.len() > keys::ARGUMENTS_MAX {
            self.faults.push(command.node.span, || FaultKind::Command {
                reason: "expected a list of at most 64: the name of a file in the host's folder of programs, without a slash, and its arguments",
            });
            return None;
        }
        let env = self.env(env);
        let host_labels = self.host_labels(labels);
        let host = match host {
            None => None,
            Some(entry) => match self.text("host", &entry.node)?.parse::<HostName>() {
                Ok(host) => Some(host),
                Err(error) => {
                    self.faults
                        .push(entry.node.span, || FaultKind::Name(error, Near::default()));
                    return None;
                }
            },
        };
        Some(CommandRecord {
            args,
            env,
            host,
            host_labels,
        })
    }

    /// The environment of a process, whose values may refer to secrets.
    fn env(&mut self, entry: Option<&Entry>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for entry in self.entries(entry) {
            if !self.fits("the key", &entry.key, keys::CONFIG_KEY_LEN_MAX, entry.key_span) {
                continue;
            }
            if !is_variable(&entry.key) {
                self.faults.push(entry.key_span, || FaultKind::EnvName {
                    text: repeated(&entry.key),
                });
            }
            if let Some(value) = self.template(&entry.key, &entry.node)
                && self.fits(&entry.key, &value, keys::CONFIG_VALUE_LEN_MAX, entry.node.span)
            {
                env.insert(entry.key.clone(), value);
            }
        }
        env
    }

    /// What the hosts that start a process have as labels.
    fn host_labels(&mut self, entry: Option<&Entry>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let Some(given) = entry else { return labels };
        let found = self.faults.count();
        for label in self.entries(entry) {
            let value = self.text(&label.key, &label.node);
            if self.fits("the key", &label.key, keys::HOST_LABEL_LEN_MAX, label.key_span)
                && let Some(value) = value
                && self.fits(&label.key, value, keys::HOST_LABEL_LEN_MAX, label.node.span)
            {
                labels.insert(label.key.clone(), value.to_owned());
            }
        }
        let is_one = |text: &String| !text.is_empty() && !text.contains(char::is_control);
        let are_labels = (1..=keys::HOST_LABELS_MAX).contains(&labels.len())
            && labels.iter().all(|(key, value)| is_one(key) && is_one(value));
        if !are_labels && self.faults.count() == found {
            self.faults.push(given.node.span, || FaultKind::Command {
                reason: "expected 1 to 32 labels of hosts, as `weft host --label KEY=VALUE` gives them: KEY: VALUE",
            });
        }
        labels
    }

    /// A text that may refer to secrets, as it is written.
    fn template(&mut self, what: &str, node: &Node) -> Option<String> {
        let text = self.text(what, node)?;
        match text.parse::<Template>() {
            Ok(_) => Some(text.to_owned()),
            Err(error) => {
                self.faults
                    .push(node.span, || FaultKind::SecretSource(error.to_string()));
                None
            }
        }
    }

    fn capability(&mut self, entry: &Entry) -> Option<Capability> {
        let text = self.text("capability", &entry.node)?;
        let capability = text.parse().ok();
        if capability.is_none() {
            let names = || Capability::NAMES.iter().copied();
            self.faults
                .push(entry.node.span, || FaultKind::UnknownCapability {
                    capability: repeated(text),
                    expected: one_of(names()),
                    near: Near::of(text, names()),
                });
        }
        capability
    }

    fn route(&mut self, node: &Node) -> Option<Route> {
        let found = self.faults.count();
        let fields = self.object(node.span, node, &keys::ROUTE)?;
        let actor = self.actor_of(&fields);
        let host = fields.get("host").and_then(|entry| {
            let text = self.text("host", &entry.node)?;
            let host = route::host(text);
            if host.is_none() {
                self.faults
                    .push(entry.node.span, || FaultKind::Host { text: repeated(text) });
            }
            host
        });
        let path = fields.get("path").and_then(|entry| {
            let text = self.text("path", &entry.node)?;
            let path = route::path(text);
            if path.is_none() {
                let near = route::path(&format!("/{text}")).map_or_else(Near::default, Near::is);
                self.faults.push(entry.node.span, || FaultKind::Path {
                    text: repeated(text),
                    near,
                });
            }
            path
        });
        let methods = self.items(fields.get("methods"));
        let methods: BTreeSet<_> = methods.iter().filter_map(|node| self.method(node)).collect();
        let headers = self.headers(fields.get("headers"));
        let strip_prefix = fields
            .get("stripPrefix")
            .and_then(|e| self.truth(e))
            .unwrap_or_default();
        // A part with a fault would make the route look like another one.
        if self.faults.count() > found {
            return None;
        }
        let route = Route {
            actor: actor?,
            host,
            path: path.unwrap_or_else(|| "/".to_owned()),
            methods: methods.into_iter().collect(),
            headers,
            strip_prefix,
        };
        let len = route.claims().map(|claim| key::route(&claim).len()).max()?;
        if len > route::CLAIM_LEN_MAX {
            let max = route::CLAIM_LEN_MAX;
            self.faults
                .push(node.span, || FaultKind::RouteTooLong { len, max });
            return None;
        }
        Some(route)
    }

    fn subscription(&mut self, node: &Node) -> Option<Subscription> {
        let found = self.faults.count();
        let fields = self.object(node.span, node, &keys::SUBSCRIPTION)?;
        let (provider, actor) = (self.provider_of(&fields), self.actor_of(&fields));
        let mut checked = |key: &str, is_one: fn(&str) -> bool, fault: fn(String) -> FaultKind| {
            let entry = fields.get(key)?;
            let text = self.text(key, &entry.node)?;
            if !is_one(text) {
                self.faults.push(entry.node.span, || fault(repeated(text)));
            }
            Some(text.to_owned())
        };
        let subject = checked("subject", is_subject, |text| FaultKind::Subject { text });
        let group = checked("group", is_group, |text| FaultKind::Group { text });
        let shared = fields.get("shared").and_then(|e| self.truth(e));
        // A part with a fault would make it look like another one.
        if self.faults.count() > found {
            return None;
        }
        let actor = actor?;
        Some(Subscription {
            provider: provider?,
            subject: subject?,
            group: group.unwrap_or_else(|| actor.value.name().to_owned()),
            actor,
            shared: shared.unwrap_or_default(),
        })
    }

    fn watch(&mut self, node: &Node) -> Option<Watch> {
        let found = self.faults.count();
        let fields = self.object(node.span, node, &keys::WATCH)?;
        let (provider, actor) = (self.provider_of(&fields), self.actor_of(&fields));
        let bucket = fields.get("bucket").and_then(|entry| {
            let text = self.text("bucket", &entry.node)?;
            if !is_bucket(text) {
                self.faults.push(entry.node.span, || FaultKind::WatchBucket {
                    text: repeated(text),
                });
            }
            Some(text.to_owned())
        });
        let keys = fields.get("keys").and_then(|entry| {
            let text = self.text("keys", &entry.node)?;
            if !is_prefix(bucket.as_deref().unwrap_or_default(), text) {
                self.faults
                    .push(entry.node.span, || FaultKind::WatchKeys { text: repeated(text) });
            }
            Some(text.to_owned())
        });
        let shared = fields.get("shared").and_then(|e| self.truth(e));
        // A part with a fault would make it look like another one.
        if self.faults.count() > found {
            return None;
        }
        Some(Watch {
            provider: provider?,
            bucket: bucket?,
            keys: keys.unwrap_or_default(),
            actor: actor?,
            shared: shared.unwrap_or_default(),
        })
    }

    /// Where what is listened to comes from.
    fn provider_of(&mut self, fields: &Fields<'_>) -> Option<Spanned<ProviderName>> {
        let entry = fields.get("provider")?;
        let name = self.target_name(entry, ProviderName::new)?;
        Some(Spanned::new(name, entry.node.span))
    }

    /// Which actor of this app it is for.
    fn actor_of(&mut self, fields: &Fields<'_>) -> Option<Spanned<ActorName>> {
        let entry = fields.get("actor")?;
        let name = self.label(&entry.node)?;
        self.known_actor(&name, entry.node.span);
        let name = ActorName::new(&self.namespace, &self.app, &name).ok()?;
        Some(Spanned::new(name, entry.node.span))
    }

    fn method(&mut self, node: &Node) -> Option<String> {
        let text = self.text("methods", node)?;
        let known = METHODS.contains(&text);
        if !known {
            self.faults.push(node.span, || FaultKind::UnknownMethod {
                method: repeated(text),
                expected: one_of(METHODS.iter().copied()),
                near: Near::of(text, METHODS.iter().copied()),
            });
        }
        known.then(|| text.to_owned())
    }

    fn headers(&mut self, entry: Option<&Entry>) -> BTreeMap<String, String> {
        let mut headers: BTreeMap<String, (String, u32)> = BTreeMap::new();
        for entry in self.entries(entry) {
            let value = self.text(&entry.key, &entry.node);
            let name = route::header_name(&entry.key);
            if name.is_none() {
                self.faults.push(entry.key_span, || FaultKind::Header {
                    text: entry.key.clone(),
                });
            }
            let (Some(name), Some(value)) = (name, value) else {
                continue;
            };
            if !route::is_header_value(value) {
                self.faults.push(entry.node.span, || FaultKind::Header {
                    text: repeated(value),
                });
            } else if let Some((_, first)) = headers.get(&name) {
                let first = *first;
                self.faults
                    .push(entry.key_span, || FaultKind::DuplicateKey { key: name, first });
            } else {
                headers.insert(name, (value.to_owned(), entry.key_span.line));
            }
        }
        headers
            .into_iter()
            .map(|(name, (value, _))| (name, value))
            .collect()
    }
}

/// Whether a manifest may set a variable of a process: none of the host's, and none by which other code is loaded.
fn is_variable(name: &str) -> bool {
    let refused = ["WEFT_", "LD_", "DYLD_"];
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && name != "PATH"
        && !refused.iter().any(|start| name.starts_with(start))
}

/// A count that is in its range.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}
