//! Changes of what is deployed: apps and links.
//!
//! Owns the checks that need the components (does a target export what is imported, with the same types) and the
//! writing of records. Nothing here touches what runs: it writes, and [`crate::reconcile`] makes it so.
//! Secrets are no part of an app's records and are written by `secrets`.

mod secrets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use weft_compose::deploy::{self, Change, CurrentApp, Stored};
use weft_compose::diff::{Line, Sign};
use weft_compose::fault::Collector;
use weft_compose::key::Key;
use weft_compose::manifest::{Actor as ActorManifest, ComponentRef};
use weft_compose::moving::{MoveRecord, Place, Step};
use weft_compose::record::{AppRecord, LinkTarget, decode, encode};
use weft_compose::{ActorName, AppName, FaultKind, Faults, HostName, LinkKey, Manifest, QuotaRecord, key};
use weft_lattice::control::{CommitError, ControlStore, Entry, Expected, Index, ReadError, Transaction};
use weft_observability::HostMetrics;

use crate::artifact::{ArtifactError, Components, Pins};
use crate::component::ComponentBytes;
use crate::component::description::Interface;
use crate::component::inspect::{self, Provision, provision};
use crate::component::lazy::LazyComponent;
use crate::config::Deployment;
use crate::desired::{Desired, read_all};
use crate::digest::Digest;
use crate::front::lattice;
use crate::ingress::{messages, watches};
use crate::link::check;
use crate::reconcile::{Condition, Progress};

/// How often a change is planned anew because another came between. Each try sees a later state, so more than a few
/// mean a writer that never stops.
const TRIES_MAX: usize = 5;
/// How long a change may take to be applied by this host. Loading compiles nothing, as that was done before.
const APPLY_MAX: Duration = Duration::from_secs(30);

/// Who deploys an app that `weft up` makes of component files.
pub const BY_COMPONENT: &str = "weft up COMPONENT";
/// Who deploys a manifest that `weft up` was given.
pub const BY_MANIFEST: &str = "weft up";

/// Writes changes of what is deployed.
#[derive(Clone)]
pub struct Deployer {
    control: Arc<dyn ControlStore>,
    components: Arc<Components>,
    metrics: HostMetrics,
    progress: watch::Receiver<Progress>,
}

/// What became of a change.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Deployed {
    /// The moment of the control store that holds it.
    pub index: u64,
    /// Whether anything had to be written.
    pub changed: bool,
    /// What was written, for people, a line each.
    pub summary: Vec<String>,
    /// What this host can't make so.
    pub conditions: Vec<Condition>,
}

impl Deployed {
    fn new(index: Index, change: &Change, conditions: Vec<Condition>) -> Self {
        Self {
            index: index.0,
            changed: !change.is_empty(),
            summary: change.summary.0.iter().map(ToString::to_string).collect(),
            conditions,
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The manifest, or what it asks for, is wrong.
    #[error("{0}")]
    Faults(Faults),
    /// What is asked for is wrong.
    #[error("{0}")]
    Refused(FaultKind),
    /// A component can't be run.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The control store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record in the control store can't be read.
    #[error(transparent)]
    Record(#[from] weft_compose::record::RecordError),
    /// A secret can't be sealed anew.
    #[error(transparent)]
    Seal(#[from] weft_secrets::SealError),
    /// The control store took nothing.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Deployer {
    /// A deployer that writes to `control`, and follows by `progress` what becomes of it.
    pub fn new(
        control: Arc<dyn ControlStore>,
        components: Arc<Components>,
        metrics: HostMetrics,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        let pinning = progress.clone();
        components.pin_by(move || pins(&pinning.borrow().desired));
        Self {
            control,
            components,
            metrics,
            progress,
        }
    }

    /// How far this host has come.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// The components of this host.
    pub fn components(&self) -> &Arc<Components> {
        &self.components
    }

    /// Deploys an app: loads its components, checks its links, writes its records.
    ///
    /// `files` are the components that the manifest names by their paths, by actor; one that is named by its digest
    /// has to be here already.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn deploy(
        &self,
        manifest: &Manifest,
        files: BTreeMap<String, ComponentBytes>,
        by: &str,
    ) -> Result<Deployed, DeployError> {
        let components = self.load(manifest, files, &BTreeMap::new()).await?;
        self.deploy_loaded(manifest, components, by, false).await
    }

    /// Deploys an app whose components were all kept here before: `digests` has those of the actors whose component
    /// the manifest names by its path. A `dry_run` only tells what would be written.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn deploy_kept(
        &self,
        manifest: &Manifest,
        digests: &BTreeMap<String, Digest>,
        by: &str,
        dry_run: bool,
    ) -> Result<Deployed, DeployError> {
        let components = self.load(manifest, BTreeMap::new(), digests).await?;
        self.deploy_loaded(manifest, components, by, dry_run).await
    }

    /// `components` are held until the reconciler has taken them.
    async fn deploy_loaded(
        &self,
        manifest: &Manifest,
        components: BTreeMap<String, Arc<LazyComponent>>,
        by: &str,
        dry_run: bool,
    ) -> Result<Deployed, DeployError> {
        let desired = self.desired().await?;
        self.check(manifest, &components, &desired).await?;
        let digests = components
            .iter()
            .map(|(actor, component)| (actor.clone(), component.digest.to_string()))
            .collect();
        let app = manifest.app.value.clone();
        let plan = |current: &CurrentApp, foreign: &deploy::Claims| {
            let change = deploy::plan(
                manifest,
                &digests,
                current,
                foreign,
                by,
                &Timestamp::now().to_string(),
            )
            .map_err(DeployError::Faults)?;
            Ok(match change.is_empty() {
                true => taken_over(current, by),
                false => change,
            })
        };
        if dry_run {
            let (change, index) = self.planned(&app, &plan).await?;
            return Ok(Deployed::new(index, &change, Vec::new()));
        }
        self.write(&app, by, plan).await
    }

    /// Links an import of an actor, until the app's next changed deploy.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn put_link(
        &self,
        actor: &ActorName,
        interface: &LinkKey,
        target: LinkTarget,
        by: &str,
    ) -> Result<Deployed, DeployError> {
        let desired = self.desired().await?;
        if !desired.allows(&actor.app_name(), &target) {
            let refused = not_allowed(actor, target.name().unwrap_or_default());
            return Err(DeployError::Refused(refused));
        }
        if !interface.is_default()
            && let Some(component) = self.deployed(actor, &desired).await?
            && !component.description.chooses_links()
        {
            return Err(DeployError::Refused(FaultKind::Found(never_chosen(
                actor.name(),
                interface,
            ))));
        }
        if let LinkTarget::Actor { name } = &target {
            self.check_link(actor, interface, name, &desired).await?;
        }
        let plan = |current: &CurrentApp, _: &deploy::Claims| {
            deploy::put_link(current, actor, interface, target.clone(), by).map_err(DeployError::Refused)
        };
        self.write(&actor.app_name(), by, plan).await
    }

    /// Takes a link away, until the app's next changed deploy.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn delete_link(
        &self,
        actor: &ActorName,
        interface: &LinkKey,
        by: &str,
    ) -> Result<Deployed, DeployError> {
        let plan = |current: &CurrentApp, _: &deploy::Claims| {
            deploy::delete_link(current, actor, interface, by).map_err(DeployError::Refused)
        };
        self.write(&actor.app_name(), by, plan).await
    }

    /// Places an actor on a host, or with `placed` false takes it off.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn place(
        &self,
        actor: &ActorName,
        host: &HostName,
        placed: bool,
        by: &str,
    ) -> Result<Deployed, DeployError> {
        let plan = |current: &CurrentApp, _: &deploy::Claims| {
            let change = match placed {
                true => deploy::place(current, actor, host, by),
                false => deploy::unplace(current, actor, host),
            };
            change.map_err(DeployError::Refused)
        };
        self.write(&actor.app_name(), by, plan).await
    }

    /// Deletes an app's records. What its providers stored stays on disk.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn delete_app(&self, app: &AppName, by: &str) -> Result<Deployed, DeployError> {
        let plan = |current: &CurrentApp, _: &deploy::Claims| match &current.app {
            Some(_) => Ok(deploy::delete_app(current)),
            None => Err(DeployError::Refused(FaultKind::NotDeployed(
                current.name.to_string(),
            ))),
        };
        self.write(app, by, plan).await
    }

    /// Puts the quota of a namespace, in place of the one that it has.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn put_quota(&self, quota: &QuotaRecord) -> Result<Deployed, DeployError> {
        let mut change = Change::default();
        change.puts.push((key::quota(&quota.namespace), encode(quota)));
        self.write_quota(Sign::Changed, change, &quota.namespace, &quota.by)
            .await
    }

    /// Takes away the quota of a namespace.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn delete_quota(&self, namespace: &str, by: &str) -> Result<Deployed, DeployError> {
        if !self.desired().await?.quotas.contains_key(namespace) {
            let none =
                format!("the namespace `{namespace}` has no quota: `weft get quotas` lists those that have");
            return Err(DeployError::Refused(FaultKind::Found(none)));
        }
        let mut change = Change::default();
        change.deletes.push(key::quota(namespace));
        self.write_quota(Sign::Removed, change, namespace, by).await
    }

    async fn write_quota(
        &self,
        sign: Sign,
        mut change: Change,
        namespace: &str,
        by: &str,
    ) -> Result<Deployed, DeployError> {
        change.summary.0.push(Line {
            sign,
            what: format!("quota {namespace}"),
            details: Vec::new(),
        });
        let index = self.commit(&change, by).await?;
        tracing::info!(namespace, by, %index, "changed a quota");
        Ok(self.applied(index, &change).await)
    }

    /// Deletes the apps that an earlier start made of component files, but for those that `deployments` hold: a bare
    /// component is served for as long as it is named.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn retire(&self, deployments: &[Deployment]) -> Result<(), DeployError> {
        let (entries, _) = read_all(&*self.control, &[key::APPS]).await?;
        for Entry { key, value, .. } in &entries {
            // One that can't be read is told by the reconciler.
            let (Some(Key::App(name)), Ok(record)) = (key::parse(key), decode::<AppRecord>(key, value))
            else {
                continue;
            };
            let named = deployments
                .iter()
                .any(|deployment| deployment.manifest.app.value == name);
            if record.by == BY_COMPONENT && !named {
                self.delete_app(&name, BY_COMPONENT).await?;
            }
        }
        Ok(())
    }

    /// Plans a change of `app` by what the store holds and writes it, anew if another change came between; then waits
    /// until this host has applied it.
    async fn write(
        &self,
        app: &AppName,
        by: &str,
        plan: impl Fn(&CurrentApp, &deploy::Claims) -> Result<Change, DeployError>,
    ) -> Result<Deployed, DeployError> {
        let mut tries = 1;
        loop {
            let (change, index) = self.planned(app, &plan).await?;
            if change.is_empty() {
                return Ok(self.applied(index, &change).await);
            }
            match self.commit(&change, by).await {
                Ok(index) => {
                    // In one line: the log is read by lines.
                    let summary = change.summary.to_string().replace('\n', "; ");
                    tracing::info!(app = app.as_str(), by, %index, summary, "changed what is deployed");
                    return Ok(self.applied(index, &change).await);
                }
                Err(CommitError::Conflict { .. }) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn commit(&self, change: &Change, by: &str) -> Result<Index, CommitError> {
        let started = Instant::now();
        let committed = self.control.commit(transaction(change, by)).await;
        self.metrics.committed(committed.is_ok(), started.elapsed());
        committed
    }

    /// What has to be written, by what the store holds now.
    async fn planned(
        &self,
        app: &AppName,
        plan: impl Fn(&CurrentApp, &deploy::Claims) -> Result<Change, DeployError>,
    ) -> Result<(Change, Index), DeployError> {
        // The app's own, and all claims of routes.
        let kinds = [
            key::ACTORS,
            key::PROVIDERS,
            key::LINKS,
            key::PLACEMENTS,
            key::SUBSCRIPTIONS,
            key::WATCHES,
        ];
        let own = kinds.map(|kind| key::of(kind, app));
        let app_key = key::app(app);
        let mut prefixes = vec![app_key.as_str(), key::ROUTES];
        prefixes.extend(own.iter().map(String::as_str));
        let (entries, index) = read_all(&*self.control, &prefixes).await?;
        let entries = entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.modified.0, entry.value.as_ref()));
        let (current, foreign) = CurrentApp::read(app.clone(), entries)?;
        Ok((plan(&current, &foreign)?, index))
    }

    /// What is wanted now: mostly what this host knows already.
    async fn desired(&self) -> Result<Arc<Desired>, ReadError> {
        let known = {
            let progress = self.progress.borrow();
            (progress.rounds > 0).then(|| progress.desired.clone())
        };
        match known.and_then(|known| known.follow(&*self.control)) {
            Some(desired) => Ok(Arc::new(desired)),
            None => Ok(Arc::new(Desired::read(&*self.control).await?)),
        }
    }

    /// Waits until this host serves the moment `index`.
    async fn applied(&self, index: Index, change: &Change) -> Deployed {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.applied >= index);
        let conditions = match tokio::time::timeout(APPLY_MAX, reached).await {
            Ok(Ok(progress)) => [progress.conditions.clone(), progress.unplaced()].concat(),
            _ => vec![Condition {
                app: None,
                subject: "host".to_owned(),
                reason: format!(
                    "this host has not applied the change within {} s",
                    APPLY_MAX.as_secs()
                ),
                since: 0,
            }],
        };
        Deployed::new(index, change, conditions)
    }

    async fn load(
        &self,
        manifest: &Manifest,
        mut files: BTreeMap<String, ComponentBytes>,
        digests: &BTreeMap<String, Digest>,
    ) -> Result<BTreeMap<String, Arc<LazyComponent>>, DeployError> {
        let mut loaded = BTreeMap::new();
        for (name, actor) in &manifest.actors {
            let digest = match &actor.component.value {
                ComponentRef::Digest(text) => text.parse().ok(),
                ComponentRef::Path(_) | ComponentRef::Oci(_) => digests.get(name).copied(),
            };
            let component = match (files.remove(name), digest) {
                (Some(file), _) => self.components.add(file).await?,
                (None, Some(digest)) if self.components.has(digest) || self.components.fetches() => {
                    self.components.get(digest).await?
                }
                (None, _) => return Err(no_component(manifest, actor)),
            };
            loaded.insert(name.clone(), component);
        }
        Ok(loaded)
    }

    /// Checks what only the components show: that each import that needs a link has one, that targets export what is
    /// imported, that routes go to actors that answer HTTP, subscriptions to those that handle messages, and watches to those
    /// that are told of changes.
    async fn check(
        &self,
        manifest: &Manifest,
        components: &BTreeMap<String, Arc<LazyComponent>>,
        desired: &Desired,
    ) -> Result<(), DeployError> {
        let mut faults = Collector::new(manifest.file.clone());
        check_scope(manifest, desired, &mut faults);
        let mut targets = HashMap::new();
        for (name, actor) in &manifest.actors {
            for link in actor.links.values() {
                let LinkTarget::Actor { name: target } = &link.target.value else {
                    continue;
                };
                let own = (target.app_name() == manifest.app.value).then(|| components.get(target.name()));
                let component = match own.flatten() {
                    Some(component) => Some(component.clone()),
                    None => self.deployed(target, desired).await?,
                };
                match component {
                    Some(component) => drop(targets.insert(target.clone(), component)),
                    None => faults.push(link.target.span, || {
                        FaultKind::Found(format!(
                            "the actor {target}, which {name} is linked to, is not deployed"
                        ))
                    }),
                }
            }
        }
        for (name, actor) in &manifest.actors {
            let Some(component) = components.get(name) else {
                continue;
            };
            let chooses = component.description.chooses_links();
            for (key, link) in actor
                .links
                .iter()
                .filter(|(key, _)| !key.is_default() && !chooses)
            {
                faults.push(link.interface.span, || FaultKind::Found(never_chosen(name, key)));
            }
            let names = actor.link_names();
            let links = |import: &str| {
                let named = names.iter().filter_map(|name| actor.link_named(name, import));
                named.map(|(_, link)| link).collect::<Vec<_>>()
            };
            // One that chooses may do without a default link.
            let is_linked =
                |import: &str| actor.link(import).is_some() || chooses && !links(import).is_empty();
            for import in &component.description.actor_imports {
                if !is_linked(&import.interface) {
                    faults.push(actor.name.span, || {
                        FaultKind::Found(unlinked(name, &import.interface, "actor: NAME"))
                    });
                }
                for link in links(&import.interface) {
                    if let LinkTarget::Actor { name: target } = &link.target.value
                        && let Some(component) = targets.get(target)
                        && let Err(difference) = check::exports(import, &component.description)
                    {
                        faults.push(link.target.span, || {
                            FaultKind::Found(format!("{name} can't be linked to {target}: {difference}"))
                        });
                    }
                }
            }
            for import in component.description.provider_imports() {
                if !is_linked(import) {
                    faults.push(actor.name.span, || {
                        FaultKind::Found(unlinked(name, import, "provider: NAME"))
                    });
                }
            }
        }
        for provider in manifest.providers.values() {
            let wanted = Place {
                backend: provider.backend.value.clone(),
                config: provider.config.clone(),
            };
            let name = &provider.name.value;
            let is_moving = |moving: &&Arc<MoveRecord>| moving.is_on() && moving.step < Step::Switched;
            if let Some(moving) = desired.moves.get(name).filter(is_moving)
                && moving.from != wanted
            {
                faults.push(provider.backend.span, || {
                    FaultKind::Found(format!(
                        "the data of {name} is being moved to {}: wait for its end, which `weft get providers` shows, or \
                         give it up by `weft provider cancel {name}`",
                        moving.to.backend
                    ))
                });
            }
        }
        for route in &manifest.routes {
            let target = components.get(route.actor.value.name());
            if target.is_some_and(|component| !component.description.http) {
                faults.push(route.actor.span, || {
                    FaultKind::Found(format!(
                        "{} exports no {}@0.2, so it can't answer a route; `weft inspect` lists what it exports",
                        route.actor.value,
                        inspect::INCOMING_HANDLER
                    ))
                });
            }
        }
        for subscription in &manifest.subscriptions {
            let target = components.get(subscription.actor.value.name());
            if target.is_some_and(|component| !messages::handles(&component.description)) {
                faults.push(subscription.actor.span, || {
                    FaultKind::Found(format!(
                        "{} exports no {}, so it can't handle messages; `weft inspect` lists what it exports",
                        subscription.actor.value,
                        messages::HANDLER
                    ))
                });
            }
        }
        for watch in &manifest.watches {
            let target = components.get(watch.actor.value.name());
            if target.is_some_and(|component| !watches::watches(&component.description)) {
                faults.push(watch.actor.span, || {
                    let [one, other] = watches::WATCHERS;
                    FaultKind::Found(format!(
                        "{} exports neither {one} nor {other}, so it can't be told of changes; `weft inspect` lists what it \
                         exports",
                        watch.actor.value,
                    ))
                });
            }
        }
        faults.finish(Some(())).map_err(DeployError::Faults)
    }

    /// Checks a link from one deployed actor to another.
    async fn check_link(
        &self,
        actor: &ActorName,
        link: &LinkKey,
        target: &ActorName,
        desired: &Desired,
    ) -> Result<(), DeployError> {
        let refused = |text| DeployError::Refused(FaultKind::Found(text));
        let (Some(caller), Some(callee)) = (
            self.deployed(actor, desired).await?,
            self.deployed(target, desired).await?,
        ) else {
            // Which of them is not there is told by the plan.
            return match desired.actors.contains_key(target) {
                true => Ok(()),
                false => Err(refused(format!("the actor {target} is not deployed"))),
            };
        };
        let taken: Vec<&Interface> = caller
            .description
            .actor_imports
            .iter()
            .filter(|import| link.interface.matches(&import.interface))
            .collect();
        if taken.is_empty() {
            let imports: Vec<_> = caller
                .description
                .actor_imports
                .iter()
                .map(|import| import.interface.as_str())
                .collect();
            return Err(refused(format!(
                "{actor} imports no {} that an actor could answer; it imports {}",
                link.interface,
                if imports.is_empty() {
                    "none at all".to_owned()
                } else {
                    imports.join(", ")
                }
            )));
        }
        for import in taken {
            check::exports(import, &callee.description).map_err(|difference| {
                refused(format!("{actor} can't be linked to {target}: {difference}"))
            })?;
        }
        Ok(())
    }

    /// The component of a deployed actor.
    async fn deployed(
        &self,
        name: &ActorName,
        desired: &Desired,
    ) -> Result<Option<Arc<LazyComponent>>, ArtifactError> {
        match desired
            .actors
            .get(name)
            .and_then(|record| record.component.parse().ok())
        {
            Some(digest) => Ok(Some(self.components.get(digest).await?)),
            None => Ok(None),
        }
    }
}

/// Checks that what is another app's lets this one use it.
fn check_scope(manifest: &Manifest, desired: &Desired, faults: &mut Collector) {
    let app = &manifest.app.value;
    for actor in manifest.actors.values() {
        for link in actor.links.values() {
            let target = &link.target.value;
            if !desired.allows(app, target) {
                faults.push(link.target.span, || {
                    not_allowed(&actor.name.value, target.name().unwrap_or_default())
                });
            }
        }
    }
    let subscribed = manifest
        .subscriptions
        .iter()
        .map(|one| (&one.provider, &one.actor));
    let watched = manifest.watches.iter().map(|one| (&one.provider, &one.actor));
    for (provider, actor) in subscribed.chain(watched) {
        let known = desired.providers.get(&provider.value);
        if known.is_some_and(|known| !known.allows(app)) {
            faults.push(provider.span, || {
                not_allowed(&actor.value, provider.value.as_str())
            });
        }
    }
}

/// Why `actor` may not use what is another app's.
pub fn not_allowed(actor: &ActorName, target: &str) -> FaultKind {
    FaultKind::NotAllowed {
        actor: actor.to_string(),
        target: target.to_owned(),
        app: actor.app_name().to_string(),
    }
}

/// What to write if `by` deploys an app as it is that a component file stood for: it is no longer one to
/// [retire](Deployer::retire).
fn taken_over(current: &CurrentApp, by: &str) -> Change {
    let mut change = Change::default();
    if let Some(Stored { revision, record }) = &current.app
        && record.by == BY_COMPONENT
        && by != BY_COMPONENT
    {
        let key = key::app(&current.name);
        let record = AppRecord {
            by: by.to_owned(),
            ..record.clone()
        };
        change.expects.push((key.clone(), Some(*revision)));
        change.puts.push((key, encode(&record)));
        change.summary.0.push(Line {
            sign: Sign::Changed,
            what: format!("app {}", current.name),
            details: vec![format!("deployed by {by}")],
        });
    }
    change
}

fn unlinked(actor: &str, import: &str, target: &str) -> String {
    let interface = import.split('@').next().unwrap_or(import);
    let key = match provision(import) {
        Provision::Link => interface.split('/').next().unwrap_or(interface),
        _ => interface,
    };
    format!(
        "actor `{actor}` imports {import}, and nothing is linked to it: add `{key}: {{ {target} }}` to its links"
    )
}

fn never_chosen(actor: &str, link: &LinkKey) -> String {
    format!(
        "actor `{actor}` does not import {}, so it can't choose the link {link} by its name: leave out `#{}`",
        lattice::INTERFACE,
        link.name()
    )
}

/// Who needs which component: the actors that run it, and the revision that an app had before, to which it may have to go
/// back.
fn pins(desired: &Desired) -> Pins {
    let mut pins = Pins::new();
    for (app, record) in &desired.apps {
        let Some(before) = &record.before else { continue };
        for (actor, component) in &before.components {
            if let Ok(digest) = component.parse() {
                let name = format!("{app}/{actor} (revision {})", before.revision);
                pins.entry(digest).or_default().push(name);
            }
        }
    }
    for (name, actor) in &desired.actors {
        if let Ok(digest) = actor.component.parse() {
            pins.entry(digest).or_default().push(name.to_string());
        }
    }
    pins
}

fn no_component(manifest: &Manifest, actor: &ActorManifest) -> DeployError {
    let kind = FaultKind::NoComponent {
        actor: actor.name.value.name().to_owned(),
    };
    DeployError::Faults(manifest.fault(actor.component.span, kind).into())
}

fn transaction(change: &Change, by: &str) -> Transaction {
    let mut transaction = Transaction::by(by);
    for (key, revision) in &change.expects {
        let expected = revision.map_or(Expected::Absent, |revision| Expected::Modified(Index(revision)));
        transaction = transaction.expect(key, expected);
    }
    for (key, value) in &change.puts {
        transaction = transaction.put(key, value.clone());
    }
    for key in &change.deletes {
        transaction = transaction.delete(key);
    }
    transaction
}
