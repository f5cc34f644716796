//! Threads that relay: each has an event loop of its own, and a session stays on one. Nothing wakes a session but its
//! sockets, so that sessions need no locks, no queue and no other thread's attention.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The threads; they end when this is dropped, and with them what still runs on them.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Sessions on it.
    sessions: Arc<AtomicUsize>,
}

/// One session's place on a thread.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `count` threads; 0: one for each core.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = if count == 0 { thread::available_parallelism().map_or(1, NonZero::get) } else { count };
        let stop = CancellationToken::new();
        let threads = (0..count).map(|number| Worker::start(number, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { threads, _stop: stop.drop_guard() })
    }

    /// Runs a session on the thread that has the fewest. `tracker` knows of it until it ends.
    pub fn spawn(&self, tracker: &TaskTracker, session: impl Future<Output = ()> + Send + 'static) {
        let Some(worker) = self.threads.iter().min_by_key(|worker| worker.sessions.load(Ordering::Relaxed)) else {
            return;
        };
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&worker.sessions));
        let session = async move {
            session.await;
            drop(seat);
        };
        tracker.spawn_on(session, &worker.runtime);
    }
}

impl Worker {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("relay-{number}")).spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { runtime: handle, sessions: Arc::default() })
    }
}
