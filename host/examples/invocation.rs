//! A yardstick for `cargo xtask bench`: one invocation in process, in Weft and in bare wasmtime.
//!
//! Both instantiate the guest `reply` in the same engine, call `reply("16 bytes of text")` and drop the instance. Weft
//! adds what an invocation is: admission, identity, memory account, processor-time account, metrics. The bare loop has
//! a WASI context and limits, as anyone's would. Rounds alternate; the result is one line of JSON.

#![expect(clippy::print_stdout, reason = "the result is what this program prints")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, ComponentExportIndex, Instance, Linker, ResourceTable};
use wasmtime::error::Context as _;
use wasmtime::{Result, Store, StoreLimits, StoreLimitsBuilder, ensure};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use weft_compose::{ActorName, Limits};
use weft_host::actor::{Actor, ActorInfo};
use weft_host::admission::RootPlaces;
use weft_host::call::{Step, run};
use weft_host::component::aot::AotCache;
use weft_host::component::compile::Compiler;
use weft_host::component::{ComponentBytes, LoadedComponent, Loader};
use weft_host::data::DataDir;
use weft_host::engine::{Engine, Profile};
use weft_host::ingress::routes::Routes;
use weft_host::invocation::{Call, Metered};
use weft_host::link::LinkTable;
use weft_host::state::{ActorIndex, ActorState, State};
use weft_host::store::InstanceState;
use weft_host::system::SystemFacts;
use weft_observability::{LogFormat, Telemetry, TelemetryConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TEXT: &str = "16 bytes of text";
const INTERFACE: &str = "weft:test/reply@0.1.0";
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(500);
const COLD_STARTS: usize = 200;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let (weft, guest, data) = (args.next(), args.next(), args.next());
    let weft = weft.context("usage: invocation WEFT GUEST DATA")?;
    let guest = guest.context("the second argument is the guest reply.wasm")?;
    let data = DataDir::open(&data.context("the third argument is a data folder")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(measure(weft, &guest, &data))?;
    println!("{result}");
    Ok(())
}

async fn measure(weft: PathBuf, guest: &Path, data: &DataDir) -> Result<serde_json::Value> {
    let telemetry = Telemetry::init(TelemetryConfig {
        service_version: "bench",
        host_id: "bench".to_owned(),
        lattice: "bench".to_owned(),
        log_format: LogFormat::Text,
        extra_layer: None,
    })?;
    let metrics = telemetry.metrics();
    let engine = Engine::new(Profile::Fast, None, &SystemFacts::read())?;
    let cache = AotCache::new(
        data.aot(),
        *data.host_key(),
        Compiler::new(weft, metrics.clone()),
        metrics.clone(),
    );
    let loader = Loader::new(
        engine.clone(),
        weft_host::front::linker(&engine)?,
        cache,
        metrics.clone(),
    );
    let loaded = loader.load(ComponentBytes::read(guest)?).await?;

    let info = ActorInfo::new(
        ActorName::new("bench", "bench", "reply")?,
        Limits::default(),
        metrics.actor("bench"),
    );
    let ours = Arc::new(Ours::new(info, &engine, loaded)?);
    let machine_code = machine_code(data)?;
    let bare = Arc::new(Bare::new(engine.wasmtime(), &machine_code)?);

    let mut one = Pairs::default();
    let mut two = Pairs::default();
    for _ in 0..ROUNDS {
        one.add(rate(1, &bare, Bare::invoke)?, rate(1, &ours, Ours::invoke)?);
        two.add(rate(2, &bare, Bare::invoke)?, rate(2, &ours, Ours::invoke)?);
    }
    let (cold_bare, cold_ours) = cold_starts(&loader, guest, &engine, &machine_code).await?;
    Ok(serde_json::json!({
        "one_thread": one.report(),
        "two_threads": two.report(),
        "first_call_from_disk_us": { "bare": cold_bare, "weft": cold_ours },
    }))
}

/// Invocations a second of both sides, round by round.
#[derive(Default)]
struct Pairs {
    bare: Vec<f64>,
    weft: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, bare: f64, weft: f64) {
        self.bare.push(bare);
        self.weft.push(weft);
    }

    /// Time a call is threads over rate, so the ratio of times is the inverse of that of rates.
    fn report(&self) -> serde_json::Value {
        let ratios = std::iter::zip(&self.bare, &self.weft)
            .map(|(bare, weft)| bare / weft)
            .collect();
        serde_json::json!({
            "bare_per_s": median(self.bare.clone()),
            "weft_per_s": median(self.weft.clone()),
            "time_ratio": median(ratios),
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Calls a second of `invoke` on so many threads, each with a runtime of its own.
fn rate<T: Send + Sync + 'static>(
    threads: usize,
    subject: &Arc<T>,
    invoke: fn(&T) -> Ran<'_>,
) -> Result<f64> {
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let subject = subject.clone();
            std::thread::spawn(move || -> Result<f64> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let started = Instant::now();
                    let mut calls = 0_u32;
                    while started.elapsed() < ROUND {
                        for _ in 0..100 {
                            invoke(&subject).await?;
                        }
                        calls += 100;
                    }
                    Ok(f64::from(calls) / started.elapsed().as_secs_f64())
                })
            })
        })
        .collect();
    let mut sum = 0.0;
    for worker in workers {
        sum += worker
            .join()
            .map_err(|_| wasmtime::format_err!("a worker panicked"))??;
    }
    Ok(sum)
}

type Ran<'a> = std::pin::Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// An invocation as the host makes it.
struct Ours {
    state: Arc<State>,
    at: ActorIndex,
    function: ComponentExportIndex,
}

/// Calls `reply`.
struct Reply;

impl Step for Reply {
    type Output = ();

    async fn run(
        self,
        store: &mut Store<InstanceState>,
        instance: &Instance,
        export: &ComponentExportIndex,
    ) -> Result<()> {
        let function = instance.get_typed_func::<(&str,), (String,)>(&mut *store, export)?;
        let (reply,) = function.call_async(store, (TEXT,)).await?;
        ensure!(reply == TEXT, "the guest replied {reply}");
        Ok(())
    }
}

impl Ours {
    fn new(info: Arc<ActorInfo>, engine: &Engine, loaded: LoadedComponent) -> Result<Self> {
        let function = function(loaded.pre.component())?;
        let name = info.name.clone();
        let root = RootPlaces::of_pool(engine.slots());
        let actor = ActorState {
            actor: Arc::new(Actor::new(info, 1, Arc::new(loaded), root)),
            links: LinkTable::default(),
        };
        let state = Arc::new(State::new(vec![actor], Routes::default()));
        let at = state.find(&name).context("the actor is in its own state")?;
        Ok(Self { state, at, function })
    }

    fn invoke(&self) -> Ran<'_> {
        Box::pin(async move {
            let call = Call::root(self.state.clone(), self.at, Instant::now(), None);
            Metered::new(call.clone(), run(call, &self.function, Reply)).await?;
            Ok(())
        })
    }
}

/// An invocation in bare wasmtime.
struct Bare {
    pre: wasmtime::component::InstancePre<BareState>,
    function: ComponentExportIndex,
}

struct BareState {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for BareState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl Bare {
    fn new(engine: &wasmtime::Engine, machine_code: &Path) -> Result<Self> {
        // SAFETY: the file was compiled by this run's own compile child.
        let component = unsafe { Component::deserialize_file(engine, machine_code)? };
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        let function = function(&component)?;
        Ok(Self {
            pre: linker.instantiate_pre(&component)?,
            function,
        })
    }

    fn invoke(&self) -> Ran<'_> {
        Box::pin(async move {
            let limits = StoreLimitsBuilder::new().memory_size(256 << 20).build();
            let state = BareState {
                wasi: WasiCtx::builder().build(),
                table: ResourceTable::new(),
                limits,
            };
            let mut store = Store::new(self.pre.engine(), state);
            store.limiter(|state| &mut state.limits);
            store.epoch_deadline_async_yield_and_update(1);
            let instance = self.pre.instantiate_async(&mut store).await?;
            let function = instance.get_typed_func::<(&str,), (String,)>(&mut store, &self.function)?;
            let (reply,) = function.call_async(&mut store, (TEXT,)).await?;
            ensure!(reply == TEXT, "the guest replied {reply}");
            Ok(())
        })
    }
}

fn function(component: &Component) -> Result<ComponentExportIndex> {
    let interface = component
        .get_export_index(None, INTERFACE)
        .context("the guest exports no weft:test/reply")?;
    component
        .get_export_index(Some(&interface), "reply")
        .context("the guest exports no function `reply`")
}

/// The one file of machine code in the data folder.
fn machine_code(data: &DataDir) -> Result<PathBuf> {
    let folder = std::fs::read_dir(data.aot())?
        .next()
        .context("the cache is empty")??
        .path();
    let files = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut code = files.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
    code.next().context("the cache holds no machine code")
}

/// From a file on disk to the first reply, in microseconds, medians of both sides.
async fn cold_starts(
    loader: &Loader,
    guest: &Path,
    engine: &Engine,
    machine_code: &Path,
) -> Result<(f64, f64)> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..COLD_STARTS {
        let started = Instant::now();
        Bare::new(engine.wasmtime(), machine_code)?.invoke().await?;
        bare.push(started.elapsed().as_secs_f64() * 1e6);

        let started = Instant::now();
        let loaded = loader.load(ComponentBytes::read(guest)?).await?;
        let metrics = weft_observability::HostMetrics::noop().actor("bench");
        let info = ActorInfo::new(
            ActorName::new("bench", "bench", "reply")?,
            Limits::default(),
            metrics,
        );
        Ours::new(info, engine, loaded)?.invoke().await?;
        ours.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok((median(bare), median(ours)))
}
