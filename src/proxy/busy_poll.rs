//! Whether a thread without work asks its sockets again instead of sleeping.
//!
//! To be woken costs a query more than all that Turnstile does with it: the sender interrupts an idle processor, which
//! takes tens of microseconds on virtual machines, and is paid by the server's process and the client's. A thread that
//! waits awake for a moment spares them that. It pays where one query follows the other at once, on few connections.
//! Where the sockets give much at a time, nothing for long, or where others want the processor, the thread sleeps.

use std::time::{Duration, Instant};

/// What the thread does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask the sockets again.
    Ask,
    /// Sleep, and do not wait awake before so many further reads of sockets.
    Sleep {
        /// At least 1.
        reads: u64,
    },
}

/// The decision for one thread. Pure: it is told the time.
#[derive(Debug)]
pub struct BusyPoll {
    /// Longest wait awake.
    window: Duration,
    /// Reads so far, when it was asked last.
    reads: u64,
    /// When the wait at hand began; `None` behind a sleep.
    began: Option<Instant>,
    /// When it was asked last.
    asked: Instant,
    /// Waits that paid, less those that did not.
    credit: u32,
    /// Reads without waiting awake, when the credit is spent the next time.
    rest: u64,
}

/// Waits that may not pay, two for each, before the thread rests.
const CREDIT_MAX: u32 = 8;

const REST_READS_MIN: u64 = 64;

/// A thread that has no use of waiting awake tries it once in so many reads: soon enough that it notices within a second
/// when many clients have left one to itself, and seldom enough that what is tried in vain among many hardly shows.
const REST_READS_MAX: u64 = 4_096;

/// Where nothing was read for so long, the load that comes then is another one. Short enough that one client behind a load of
/// many is noticed at once, long enough that what is tried in vain then costs a thread a thousandth of its time.
pub const ANOTHER_LOAD: Duration = Duration::from_millis(500);

/// A longer pause between two looks means that another process had the processor.
const CONTENDED: Duration = Duration::from_micros(20);

impl BusyPoll {
    /// Of a thread that has not read yet, and waits awake for at most `window`.
    #[must_use]
    pub const fn new(window: Duration, now: Instant) -> Self {
        Self { window, reads: 0, began: None, asked: now, credit: CREDIT_MAX, rest: REST_READS_MIN }
    }

    /// Asked behind each look at the sockets, and behind a sleep; `reads` counts all reads so far.
    pub fn next(&mut self, reads: u64, now: Instant) -> Next {
        let read = reads.saturating_sub(self.reads);
        let contended = now.saturating_duration_since(self.asked) > CONTENDED;
        self.reads = reads;
        self.asked = now;
        let Some(began) = self.began else {
            self.began = Some(now);
            return Next::Ask;
        };
        match read {
            0 if !contended && now.saturating_duration_since(began) < self.window => Next::Ask,
            1 => {
                self.began = Some(now);
                self.earn();
                Next::Ask
            }
            // Several at once: there is work enough to be woken for it together.
            _ => self.spend(),
        }
    }

    /// The rest is over, since nothing was read for [`ANOTHER_LOAD`]: what comes now may be worth waiting for.
    pub const fn begin_again(&mut self) {
        self.rest = REST_READS_MIN;
    }

    fn earn(&mut self) {
        self.credit = (self.credit + 1).min(CREDIT_MAX);
        if self.credit == CREDIT_MAX {
            self.rest = REST_READS_MIN;
        }
    }

    fn spend(&mut self) -> Next {
        self.began = None;
        self.credit = self.credit.saturating_sub(2);
        if self.credit > 0 {
            return Next::Sleep { reads: 1 };
        }
        let reads = self.rest;
        self.rest = (self.rest * 2).min(REST_READS_MAX);
        // One more try behind the rest.
        self.credit = 2;
        Next::Sleep { reads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(100);
    const LOOK: Duration = Duration::from_micros(2);

    struct Thread {
        busy: BusyPoll,
        now: Instant,
        reads: u64,
    }

    impl Thread {
        fn new() -> Self {
            let now = Instant::now();
            let mut thread = Self { busy: BusyPoll::new(WINDOW, now), now, reads: 0 };
            assert_eq!(thread.look(0), Next::Ask, "a wait begins");
            thread
        }

        fn look(&mut self, read: u64) -> Next {
            self.look_after(LOOK, read)
        }

        fn look_after(&mut self, pause: Duration, read: u64) -> Next {
            self.now += pause;
            self.reads += read;
            self.busy.next(self.reads, self.now)
        }

        /// Looks in vain until it sleeps; returns the time that it took and the rest.
        fn wait(&mut self) -> (Duration, u64) {
            let start = self.now;
            loop {
                if let Next::Sleep { reads } = self.look(0) {
                    return (self.now - start, reads);
                }
            }
        }

        /// The reads that wake it, and the look behind them.
        fn wake(&mut self, reads: u64) {
            assert_eq!(self.look_after(WINDOW * 10, reads), Next::Ask);
        }

        /// Waits in vain, and rests; returns for how many reads.
        fn rest(&mut self) -> u64 {
            let (_, reads) = self.wait();
            self.wake(reads);
            reads
        }
    }

    #[test]
    fn one_answer_after_the_other_keeps_it_awake() {
        let mut thread = Thread::new();
        for _ in 0..1_000 {
            for _ in 0..40 {
                assert_eq!(thread.look(0), Next::Ask);
            }
            assert_eq!(thread.look(1), Next::Ask);
        }
    }

    #[test]
    fn without_work_it_sleeps_when_the_window_is_over_and_is_woken_by_the_next_read() {
        let mut thread = Thread::new();
        assert_eq!(thread.look(1), Next::Ask);
        let (took, reads) = thread.wait();
        assert!(took >= WINDOW && took <= WINDOW + LOOK, "{took:?}");
        assert_eq!(reads, 1);
    }

    #[test]
    fn waits_in_vain_become_rare() {
        let mut thread = Thread::new();
        let (mut waits, mut rest) = (0, 1);
        while thread.reads < 1_000_000 {
            rest = thread.rest();
            waits += 1;
        }
        assert_eq!(rest, REST_READS_MAX);
        assert!(waits < 300, "{waits}");
    }

    #[test]
    fn much_at_a_time_and_a_busy_processor_let_it_rest_too() {
        for (pause, read) in [(LOOK, 2), (LOOK, 7), (CONTENDED * 2, 0)] {
            let mut thread = Thread::new();
            let mut sleeps = Vec::new();
            while sleeps.len() < 8 {
                if let Next::Sleep { reads } = thread.look_after(pause, read) {
                    sleeps.push(reads);
                    thread.wake(reads);
                }
            }
            assert_eq!(sleeps, [1, 1, 1, 64, 128, 256, 512, 1_024], "{pause:?} {read}");
        }
    }

    #[test]
    fn another_load_forgets_the_long_rests_but_has_one_try() {
        let mut thread = Thread::new();
        for _ in 0..12 {
            thread.rest();
        }
        thread.busy.begin_again();
        assert_eq!(thread.rest(), REST_READS_MIN);
        assert_eq!(thread.rest(), 2 * REST_READS_MIN);
    }

    #[test]
    fn what_pays_again_forgets_the_long_rests() {
        let mut thread = Thread::new();
        for _ in 0..12 {
            thread.rest();
        }
        for _ in 0..CREDIT_MAX {
            assert_eq!(thread.look(1), Next::Ask);
        }
        let rests: Vec<u64> = (0..4).map(|_| thread.rest()).collect();
        assert_eq!(rests, [1, 1, 1, REST_READS_MIN]);
    }
}
