//! Threads that serve connections, one for each core.
//!
//! Owns the threads. A connection stays on the thread that it was given: its buffers, its timers and the instances
//! that serve it are then in one core's cache, which serves a fifth more requests than threads that take each other's
//! work (docs/performance.md). A guest that computes for long is moved to threads of its kind; see [`super::busy`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::memory;

/// The threads.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: AtomicU32,
}

impl Workers {
    /// Starts `count` threads, which end once `end` is cancelled.
    ///
    /// # Errors
    /// If the system gives no thread, or no means to wait for I/O.
    pub fn start(count: usize, end: &CancellationToken) -> io::Result<Arc<Self>> {
        let workers = (0..count).map(|number| Worker::start(number, end.clone()));
        Ok(Arc::new(Self(workers.collect::<io::Result<_>>()?)))
    }

    /// Serves a connection on the thread that has the fewest. `serve` is called there.
    pub fn spawn<F>(self: &Arc<Self>, tasks: &TaskTracker, serve: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some((at, worker)) =
            std::iter::zip(0.., &self.0).min_by_key(|(_, worker)| worker.connections.load(Ordering::Relaxed))
        else {
            return;
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            workers: self.clone(),
            at,
        };
        let task = async move {
            let _open = open;
            serve().await;
        };
        tasks.spawn_on(task, &worker.runtime);
    }
}

impl Workers {
    /// Has each thread look for work, and wait again.
    pub fn wake(&self, tasks: &TaskTracker) {
        for worker in &self.0 {
            tasks.spawn_on(std::future::ready(()), &worker.runtime);
        }
    }

    /// Tasks that are alive on these threads.
    pub fn alive_tasks(&self) -> usize {
        let alive = self
            .0
            .iter()
            .map(|worker| worker.runtime.metrics().num_alive_tasks());
        alive.sum()
    }
}

impl Worker {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .on_thread_park(memory::on_thread_park)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("weft-http-{number}"))
            .spawn(move || {
                // The first call into a guest on a thread would else pay for it.
                wasmtime::Engine::tls_eager_initialize();
                runtime.block_on(end.cancelled());
            })?;
        Ok(Self {
            runtime: handle,
            connections: AtomicU32::new(0),
        })
    }
}

/// One connection of a thread.
struct Open {
    workers: Arc<Workers>,
    at: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.workers.0[self.at]
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}
