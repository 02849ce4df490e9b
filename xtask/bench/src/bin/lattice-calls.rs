//! What a call over NATS costs beside bare request and reply of async-nats on the same server.
//!
//! `lattice-calls nats://127.0.0.1:4222 LATTICE ADDRESS` starts this program again as a callee, which echoes in native
//! code, bare and behind our transport, and measures both beside the actor `default/far/callee` on the host ADDRESS, in
//! turns: one call at a time, and 256 at once (32 of 64 KiB). A line for each length and way: p50 and p99 in us, calls a
//! second, and the medians of the ratios to bare calls of all rounds.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;
use weft_lattice::codec::{Type, Value, encode_all};
use weft_lattice::envelope::Failure;
use weft_lattice::rpc::{Call, Candidate, Client, Invocation, Place, Server, Service, Stamps, Targets};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::Transport;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

// As a host has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BARE: &str = "weft.bench.bare";
const LENS: [usize; 3] = [16, 1 << 10, 64 << 10];
const ROUNDS: usize = 7;
/// Calls at once, so that what is on its way is at most 2 MiB: beyond, the server takes us for slow.
fn at_once(len: usize) -> usize {
    if len > 10_000 { 32 } else { 256 }
}

struct Echo;

impl Service for Echo {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        std::future::ready(Ok(invocation.body)).boxed()
    }

    fn load(&self) -> u32 {
        0
    }
}

fn address(of: &str) -> anyhow::Result<Address> {
    Ok(Address::new(of, 1)?)
}

async fn callee(url: &str) -> anyhow::Result<()> {
    let transport = join(url, "callee").await?;
    let server = Server::new(address("callee")?, Stamps::starting_at(0), Arc::new(Echo), None);
    let subjects = Subjects::new("bench")?;
    let _served = server.serve(&transport, &subjects, "default").await?;
    let _control = server.serve_control(&transport, &subjects).await?;
    let bare = async_nats::connect(url).await?;
    let mut requests = bare.queue_subscribe(BARE, "weft".to_owned()).await?;
    bare.flush().await?;
    while let Some(request) = requests.next().await {
        let reply = request.reply.context("a request names its inbox")?;
        bare.publish(reply, request.payload).await?;
    }
    Ok(())
}

async fn join(url: &str, host: &str) -> anyhow::Result<NatsTransport> {
    let settings = NatsSettings::new(vec![url.to_owned()], host, Role::Calls);
    Ok(NatsTransport::connect(&settings).await?)
}

/// One of the ways to call.
#[derive(Clone)]
enum Way {
    Bare(async_nats::Client),
    /// To a callee in native code, or to an actor, whose values are encoded.
    Weft(Client, Arc<Targets>, Callee),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Callee {
    Native,
    Actor,
}

impl Way {
    async fn call(&self, body: Bytes) -> anyhow::Result<()> {
        let len = body.len();
        let replied = match self {
            Self::Bare(client) => client.request(BARE, body).await?.payload,
            Self::Weft(client, targets, callee) => {
                let (target, interface, function) = match callee {
                    Callee::Native => ("default/bench/echo", "bench:echo/echo@1.0.0", "echo"),
                    Callee::Actor => ("default/far/callee", "test:call/echo", "bytes"),
                };
                let body = match callee {
                    Callee::Native => body,
                    Callee::Actor => {
                        encode_all("args", &[Type::Bytes], &[Value::Bytes(body.to_vec())])?.into()
                    }
                };
                let call = Call {
                    target: target.to_owned(),
                    interface: interface.to_owned(),
                    function: function.to_owned(),
                    body,
                    deadline: tokio::time::Instant::now() + Duration::from_secs(10),
                    hops: 0,
                    trace: None,
                    // Of the same app: another one would have to be let.
                    caller: "default/far/caller".to_owned(),
                    idempotent: false,
                    patient: false,
                    stream: None,
                };
                client.call(targets, call).await?.body
            }
        };
        anyhow::ensure!(replied.len() >= len, "another length came back");
        Ok(())
    }

    /// p50 and p99 of calls one after the other.
    async fn latency(&self, body: &Bytes, calls: usize) -> anyhow::Result<[f64; 2]> {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let begin = Instant::now();
            self.call(body.clone()).await?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
        Ok([at(50), at(99)])
    }

    /// Calls a second with many at once.
    async fn throughput(&self, body: &Bytes, calls: usize) -> anyhow::Result<f64> {
        let begin = Instant::now();
        let at_once = at_once(body.len());
        let mut callers = JoinSet::new();
        for _ in 0..at_once {
            let (way, body) = (self.clone(), body.clone());
            callers.spawn(async move {
                for _ in 0..calls / at_once {
                    way.call(body.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let calls = (calls / at_once * at_once) as f64;
        Ok(calls / begin.elapsed().as_secs_f64())
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What calls `callee` in a lattice.
async fn caller(url: &str, lattice: &str, callee: Address) -> anyhow::Result<(Client, Arc<Targets>)> {
    let transport: Arc<dyn Transport> = Arc::new(join(url, "caller").await?);
    let (subjects, stamps) = (Subjects::new(lattice)?, Stamps::starting_at(0));
    let caller = Address::new("caller", rand::random())?;
    transport.batch(subjects.answers(caller.as_str())?).await?;
    let client = Client::new(transport, subjects, caller, Place::default(), stamps, 1);
    let candidate = Candidate {
        address: callee,
        place: Place::default(),
        revision: 1,
    };
    let targets = client.targets("default", &[candidate], vec![(1, 1)])?;
    Ok((client, Arc::new(targets)))
}

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
async fn measure(url: &str, lattice: &str, actor: &str) -> anyhow::Result<()> {
    let (native, to_native) = caller(url, "bench", address("callee")?).await?;
    let (far, to_actor) = caller(url, lattice, Address::parse(actor)?).await?;
    let ways = [
        ("bare", Way::Bare(async_nats::connect(url).await?)),
        ("weft", Way::Weft(native, to_native, Callee::Native)),
        ("actor", Way::Weft(far, to_actor, Callee::Actor)),
    ];
    for (name, way) in &ways {
        let mut tries = 0;
        while let Err(error) = way.call(Bytes::new()).await {
            tries += 1;
            anyhow::ensure!(tries < 100, "{name}: the callee does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for len in LENS {
        let body = Bytes::from(vec![7; len]);
        let (calls, many) = if len > 10_000 {
            (500, 5_000)
        } else {
            (2_000, 40_000)
        };
        let mut all = [const { [const { Vec::new() }; 3] }; 3];
        for _ in 0..ROUNDS {
            for ((_, way), numbers) in ways.iter().zip(&mut all) {
                let [p50, p99] = way.latency(&body, calls).await?;
                numbers[0].push(p50);
                numbers[1].push(p99);
                numbers[2].push(way.throughput(&body, many).await?);
            }
        }
        for ((name, _), numbers) in ways.iter().zip(&all) {
            let [p50, p99, rate] = numbers.each_ref().map(|numbers| median(numbers.clone()));
            let ratio = |at: usize| {
                let pairs = std::iter::zip(&numbers[at], &all[0][at]);
                median(pairs.map(|(own, bare)| own / bare).collect())
            };
            println!(
                "{len:>6} B  {name:5}  p50 {p50:7.1} us  p99 {p99:7.1} us  {rate:8.0} calls/s  ratios {:.2} {:.2} {:.2}",
                ratio(0),
                ratio(1),
                ratio(2)
            );
        }
    }
    Ok(())
}

/// A process that ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["callee", url] => callee(url).await,
        [url, lattice, actor] => {
            let mut command = Command::new(std::env::current_exe()?);
            let callee = Process(command.args(["callee", url]).stdin(Stdio::null()).spawn()?);
            let measured = measure(url, lattice, actor).await;
            drop(callee);
            measured
        }
        _ => anyhow::bail!("usage: lattice-calls NATS-URL LATTICE ADDRESS"),
    }
}
