//! Threads for guests that compute for long: a plain request never waits for one of them.
//!
//! Owns the threads, as many as there are cores and below the others in priority, and the turns on them
//! ([`turns`]): each actor has its share, however many of its guests want one. Why so is in
//! docs/adr/0001-busy-guests.md. It must not know requests; [`super::invoke`] says who goes here.

mod turns;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::actor::ActorInfo;
use crate::memory;
use turns::{InTurn, Turns};

/// How far below the threads that serve connections. At 10 a busy thread has a tenth of the share of one of those
/// where both want the whole of a core, and all of it where the other has nothing to do.
const NICENESS: i32 = 10;

/// The threads; a cheap handle.
#[derive(Clone)]
pub struct BusyThreads {
    /// The runtime whose threads they are.
    pub runtime: Handle,
    turns: Arc<Turns>,
}

impl BusyThreads {
    /// Starts `count` threads, which end once `end` is cancelled.
    ///
    /// # Errors
    /// If the system gives no thread, or no means to wait for I/O.
    pub fn start(count: usize, end: CancellationToken) -> io::Result<Self> {
        let (tell, told) = mpsc::sync_channel(1);
        // A runtime must be dropped where waiting is allowed, so it lives on a thread that waits for its end.
        std::thread::Builder::new()
            .name("weft-busy".to_owned())
            .spawn(move || {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(count)
                    .thread_name("weft-busy")
                    .on_thread_start(|| {
                        // Of this thread alone, on Linux. Refused, guests compute at the priority of all others.
                        let _ = rustix::process::nice(NICENESS);
                        wasmtime::Engine::tls_eager_initialize();
                    })
                    .on_thread_park(memory::on_thread_park)
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        let _ = tell.send(Ok(runtime.handle().clone()));
                        runtime.block_on(end.cancelled());
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            })?;
        let runtime = told.recv().map_err(io::Error::other)??;
        Ok(Self {
            runtime,
            turns: Turns::new(count),
        })
    }

    /// A guest of `actor` whose polls take turns with those of all that compute.
    pub fn in_turn<O>(&self, guest: GuestFuture<O>, actor: &ActorInfo) -> GuestFuture<O>
    where
        O: Send + 'static,
    {
        static HASH: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Box::pin(InTurn::new(
            guest,
            self.turns.clone(),
            HASH.hash_one(actor.name.as_str()),
        ))
    }
}

/// A guest that runs.
pub type GuestFuture<O> = Pin<Box<dyn Future<Output = O> + Send>>;
