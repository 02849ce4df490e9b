//! Actors as a host has them, without its ingress and its control store.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};
use wasmtime::error::Context as _;
use wasmtime::{Result, Store, ensure};
use weft_compose::record::{LinkRecord, LinkTarget, VERSION};
use weft_compose::{ActorName, Limits, ProviderName};
use weft_host::actor::{Actor, ActorInfo};
use weft_host::admission::Places;
use weft_host::call::{Step, run};
use weft_host::component::aot::AotCache;
use weft_host::component::compile::Compiler;
use weft_host::component::lazy::LazyComponent;
use weft_host::component::{ComponentBytes, Loader};
use weft_host::data::DataDir;
use weft_host::digest::Digest;
use weft_host::engine::{Engine, Profile};
use weft_host::ingress::routes::Routes;
use weft_host::instance::KeptPlaces;
use weft_host::invocation::{Call, Metered};
use weft_host::link::{LinkTable, Targets};
use weft_host::provider::Provider;
use weft_host::state::{ActorIndex, ActorState, State, indices};
use weft_host::store::InstanceState;
use weft_host::system::SystemFacts;
use weft_http::HttpClient;
use weft_observability::{HostMetrics, LogFormat, Telemetry, TelemetryConfig};

/// The app that all actors here belong to.
const APP: &str = "bench";

/// An engine, and a loader of components into it.
pub(crate) struct Weft {
    pub(crate) engine: Arc<Engine>,
    loader: Loader,
    metrics: HostMetrics,
    guests: PathBuf,
    data: DataDir,
    _telemetry: Telemetry,
}

/// Open providers.
pub(crate) type Providers = HashMap<ProviderName, Arc<Provider>>;

/// Where an import of an actor goes: the actor, the interface, the target.
pub(crate) type Link<'a> = (&'a str, &'a str, LinkTarget);

impl Weft {
    /// `weft` is the program that compiles.
    pub(crate) fn new(weft: PathBuf, guests: PathBuf, data: &Path) -> Result<Self> {
        let data = DataDir::open(data)?;
        let telemetry = Telemetry::init(TelemetryConfig {
            service_version: "bench",
            host_id: "bench".to_owned(),
            lattice: "bench".to_owned(),
            log_format: LogFormat::Text,
            extra_layer: None,
        })?;
        let metrics = telemetry.metrics().clone();
        let engine = Engine::new(Profile::Fast, None, &SystemFacts::read())?;
        let compiler = Compiler::new(weft, metrics.clone());
        let cache = AotCache::new(data.aot(), *data.host_key(), compiler, metrics.clone());
        let linker = weft_host::front::linker(&engine)?;
        Ok(Self {
            loader: Loader::new(engine.clone(), linker, cache, metrics.clone()),
            engine,
            metrics,
            guests,
            data,
            _telemetry: telemetry,
        })
    }

    /// From the file to what can be instantiated.
    pub(crate) async fn load(&self, guest: &str) -> Result<Arc<LazyComponent>> {
        let component = ComponentBytes::read(&self.guests.join(format!("{guest}.wasm")))?;
        let loaded = self.loader.load(&component).await?;
        let description = loaded.describe(&self.engine, component.bytes.len());
        Ok(LazyComponent::pinned(loaded, description))
    }

    /// The file that [`load`](Self::load) maps.
    pub(crate) fn machine_code(&self, digest: Digest) -> PathBuf {
        let folder = self.data.aot().join(self.engine.fingerprint());
        folder.join(format!("{}.cwasm", digest.to_hex()))
    }

    /// A snapshot of `guests`, each an actor of its own name, with all of `links` resolved.
    pub(crate) fn state(
        &self,
        guests: Vec<(&str, Arc<LazyComponent>)>,
        links: &[Link<'_>],
        providers: &Providers,
    ) -> Result<Arc<State>> {
        let places = Places::of_pool(self.engine.slots());
        let kept = KeptPlaces::of_pool(self.engine.slots());
        let mut actors = Vec::new();
        for (guest, component) in guests {
            let info = ActorInfo::new(actor_name(guest)?, Limits::default(), self.metrics.actor(guest));
            let actor = Actor::new(info, 1, component, places.clone(), kept.clone());
            actors.push((guest, Arc::new(actor)));
        }
        let index = indices(actors.iter().map(|(_, actor)| &actor.info.name));
        let known = actors.iter().map(|(_, actor)| {
            let name = &actor.info.name;
            (name.clone(), (index[name], actor.component.clone()))
        });
        let known = known.collect();
        let http = HttpClient::new(Vec::new());
        let targets = Targets {
            http: &http,
            providers,
            actors: &known,
            remotes: &Default::default(),
            quotas: &Default::default(),
        };
        let mut states = Vec::new();
        for (guest, actor) in actors {
            let own = links.iter().filter(|(from, ..)| *from == guest);
            let own: Vec<_> = own.map(link_record).collect::<Result<_>>()?;
            let component = &actor.component.description;
            let (links, faults) = LinkTable::resolve(&actor.info.name, component, [], &own, &targets);
            ensure!(faults.is_empty(), "{}", faults.join("; "));
            states.push(ActorState {
                actor,
                links,
                elsewhere: None,
                allow_from: Vec::new(),
            });
        }
        Ok(Arc::new(State::new(states, Vec::new(), Routes::default())))
    }
}

pub(crate) fn actor_name(guest: &str) -> Result<ActorName> {
    Ok(ActorName::new(APP, APP, guest)?)
}

pub(crate) fn provider_name(name: &str) -> Result<ProviderName> {
    Ok(ProviderName::new(APP, APP, name)?)
}

fn link_record((actor, interface, target): &Link<'_>) -> Result<LinkRecord> {
    Ok(LinkRecord {
        v: VERSION,
        actor: actor_name(actor)?,
        interface: interface.parse()?,
        revision: 1,
        target: target.clone(),
        declared: None,
        by: APP.to_owned(),
    })
}

/// Where an exported function is.
pub(crate) fn function(component: &Component, interface: &str, name: &str) -> Result<ComponentExportIndex> {
    let at = component
        .get_export_index(None, interface)
        .with_context(|| format!("the guest exports no {interface}"))?;
    component
        .get_export_index(Some(&at), name)
        .with_context(|| format!("{interface} has no function {name}"))
}

/// An actor's function.
pub(crate) struct Target {
    state: Arc<State>,
    at: ActorIndex,
    function: usize,
}

impl Target {
    pub(crate) fn new(state: &Arc<State>, guest: &str, (interface, name): (&str, &str)) -> Result<Self> {
        let at = state.find(&actor_name(guest)?).context("no such actor")?;
        let component = &state.actor(at).actor.component.description;
        Ok(Self {
            function: component
                .position(interface, name)
                .with_context(|| format!("{interface} has no function {name}"))?,
            state: state.clone(),
            at,
        })
    }

    /// An invocation as the host makes it.
    pub(crate) async fn call<P, R>(&self, params: P) -> Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: Lift + Send + Sync + 'static,
        (R,): ComponentNamedList,
    {
        let call = Call::root(self.state.clone(), self.at, Instant::now(), None);
        let step = Typed(params, PhantomData);
        Ok(Metered::new(call.clone(), run(call, self.function, step)).await?)
    }
}

struct Typed<P, R>(P, PhantomData<fn() -> R>);

impl<P, R> Step for Typed<P, R>
where
    P: ComponentNamedList + Lower + Send + Sync,
    R: Lift + Send + Sync + 'static,
    (R,): ComponentNamedList,
{
    type Output = R;

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> Result<R> {
        let function = instance.get_typed_func::<P, (R,)>(&mut *store, export)?;
        let (result,) = function.call_async(store, self.0).await?;
        Ok(result)
    }
}
