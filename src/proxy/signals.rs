//! What ends a session that its sockets do not end: the process shuts down, or its time is over.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFuture;

/// Why the session is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// At rest, if it gets there.
    Drain,
    /// At once: shutdown cannot wait any longer.
    Kill,
    /// At once: [`Signals::end_within`].
    Deadline,
}

/// The signals of one session.
pub(super) struct Signals<'a, 'b> {
    drain: Pin<&'a mut WaitForCancellationFuture<'b>>,
    kill: Pin<&'a mut WaitForCancellationFuture<'b>>,
    deadline: Option<Pin<Box<Sleep>>>,
    draining: bool,
    bell: Arc<Bell>,
}

/// Wakes the session's task, and says that it was no socket that did: to ask the signals takes a lock that all sessions
/// share, and a session is woken for each message.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    fn new(task: Waker) -> Arc<Self> {
        Arc::new(Self { rung: AtomicBool::new(true), task })
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<'a, 'b> Signals<'a, 'b> {
    pub(super) fn new(
        drain: Pin<&'a mut WaitForCancellationFuture<'b>>,
        kill: Pin<&'a mut WaitForCancellationFuture<'b>>,
    ) -> Self {
        Self { drain, kill, deadline: None, draining: false, bell: Bell::new(Waker::noop().clone()) }
    }

    /// Sets the deadline, once.
    pub(super) fn end_within(&mut self, time: Duration) {
        if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(time)));
            self.bell.rung.store(true, Ordering::Release);
        }
    }

    /// Each signal once; else the task is woken for the next one.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Signal> {
        if !self.bell.task.will_wake(context.waker()) {
            self.bell = Bell::new(context.waker().clone());
        }
        if !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before they are asked: one that comes meanwhile rings again.
        self.bell.rung.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.bell));
        self.ask(&mut Context::from_waker(&waker))
    }

    fn ask(&mut self, context: &mut Context<'_>) -> Poll<Signal> {
        if self.kill.as_mut().poll(context).is_ready() {
            return Poll::Ready(Signal::Kill);
        }
        if !self.draining && self.drain.as_mut().poll(context).is_ready() {
            self.draining = true;
            // The others have not been asked.
            self.bell.rung.store(true, Ordering::Release);
            return Poll::Ready(Signal::Drain);
        }
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(context).map(|()| Signal::Deadline),
            None => Poll::Pending,
        }
    }
}
