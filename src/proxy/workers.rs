//! Threads that relay: each has an event loop of its own, and a session stays on one. Nothing wakes a session but its
//! sockets, so that sessions need no locks, no queue and no other thread's attention.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::busy_poll::{ANOTHER_LOAD, BusyPoll, Next};

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
    /// Starts `count` threads; 0: one for each core. A thread without work waits awake for at most `busy_poll`
    /// ([`BusyPoll`]); not on a machine of one core, where the others could do nothing meanwhile.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(count: usize, busy_poll: Duration) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let count = if count == 0 { cores } else { count };
        let busy_poll = if cores == 1 { Duration::ZERO } else { busy_poll };
        let stop = CancellationToken::new();
        let start = |number| Worker::start(number, busy_poll, stop.clone());
        let threads = (0..count).map(start).collect::<io::Result<_>>()?;
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
    fn start(number: usize, busy_poll: Duration, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        if !busy_poll.is_zero() {
            drop(runtime.spawn(wait_awake(busy_poll)));
        }
        thread::Builder::new().name(format!("relay-{number}")).spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { runtime: handle, sessions: Arc::default() })
    }
}

thread_local! {
    /// Reads of sockets on this thread.
    static READS: Cell<u64> = const { Cell::new(0) };
    /// Reads at which [`WAITING`] is woken.
    static WAKE_AT: Cell<u64> = const { Cell::new(u64::MAX) };
    static WAITING: RefCell<Option<Waker>> = const { RefCell::new(None) };
    /// The last read of a thread that rests.
    static LAST_READ: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A session on this thread has read from one of its sockets.
pub fn note_read() {
    let reads = READS.get() + 1;
    READS.set(reads);
    let wake_at = WAKE_AT.get();
    if reads >= wake_at || (wake_at < u64::MAX && was_long_ago(Instant::now())) {
        WAKE_AT.set(u64::MAX);
        if let Some(waker) = WAITING.take() {
            waker.wake();
        }
    }
}

/// Whether the read before this one was so long ago that this is another load.
fn was_long_ago(now: Instant) -> bool {
    LAST_READ.replace(Some(now)).is_some_and(|last| now.saturating_duration_since(last) >= ANOTHER_LOAD)
}

/// A task of each thread that lets the event loop look at the sockets again, as long as [`BusyPoll`] says so. It is no
/// part of the event loop's root future: to wake that costs a system call.
async fn wait_awake(window: Duration) {
    let mut busy = BusyPoll::new(window, Instant::now());
    loop {
        match busy.next(READS.get(), Instant::now()) {
            Next::Ask => tokio::task::yield_now().await,
            Next::Sleep { reads } => {
                let until = READS.get() + reads;
                sleep_until(until).await;
                if READS.get() < until {
                    busy.begin_again();
                }
            }
        }
    }
}

/// Until so many reads were made, or the first one behind [`ANOTHER_LOAD`] without any.
async fn sleep_until(reads: u64) {
    WAKE_AT.set(reads);
    LAST_READ.set(Some(Instant::now()));
    poll_fn(|context| {
        if READS.get() >= reads || WAKE_AT.get() == u64::MAX {
            WAKE_AT.set(u64::MAX);
            return Poll::Ready(());
        }
        WAITING.set(Some(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_sleeps_until_so_many_reads_were_made() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let start = READS.get();
            let waiting = tokio::spawn(sleep_until(start + 2));
            tokio::task::yield_now().await;
            note_read();
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "one read is not two");
            note_read();
            waiting.await.unwrap();
            // What has happened already is not waited for.
            sleep_until(start + 1).await;
            let resting = tokio::spawn(sleep_until(start + 1_000));
            tokio::task::yield_now().await;
            note_read();
            tokio::task::yield_now().await;
            assert!(!resting.is_finished());
            LAST_READ.set(Instant::now().checked_sub(ANOTHER_LOAD));
            note_read();
            resting.await.unwrap();
        });
    }
}
