//! How many requests an upstream has in flight, and the turns of those that wait for a place.
//!
//! An upstream with `max_parallel` takes that many requests at once. A request that finds all of its
//! upstreams full waits in one queue, in order of arrival. A place that becomes free is handed to the first
//! waiting request that can use it, so that no later request takes it. The wait is bounded, and ends when
//! the client disconnects. Invariant: a place is given back exactly once, also by a panic.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Result};
use crate::net::{cancel, worker_pool};
use crate::observe::lock::lock;

/// The places of one upstream.
#[derive(Debug)]
pub(crate) struct Slots {
    in_flight: AtomicUsize,
    /// The most requests at once; 0 is no limit.
    max_parallel: usize,
    queue: Arc<SlotQueue>,
}

/// The requests that wait, in order of arrival; one queue for all upstreams.
#[derive(Debug, Default)]
pub(crate) struct SlotQueue(Mutex<VecDeque<Waiter>>);

#[derive(Debug)]
struct Waiter {
    /// The upstreams that it may go to.
    slots: Vec<Arc<Slots>>,
    /// Gets the place.
    sender: Sender<Slot>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(max_parallel: usize, queue: Arc<SlotQueue>) -> Arc<Self> {
        Arc::new(Self { in_flight: AtomicUsize::new(0), max_parallel, queue })
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a place, if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        if self.max_parallel == 0 {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return Some(Slot(self.clone()));
        }
        // Under the lock, so that no place becomes free between a look at it and the wait for it.
        let _queue = lock(&self.queue.0);
        self.take().then(|| Slot(self.clone()))
    }

    /// Gives the free places to requests that wait for one, in the order of their arrival. For an upstream
    /// that is able again, too.
    pub(crate) fn hand_over(self: &Arc<Self>) {
        let mut queue = lock(&self.queue.0);
        let wants = |waiter: &Waiter| waiter.slots.iter().any(|slots| Arc::ptr_eq(slots, self));
        while let Some(at) = queue.iter().position(wants) {
            if !self.take() {
                return;
            }
            let Some(waiter) = queue.remove(at) else { return };
            if let Err(error) = waiter.sender.try_send(Slot(self.clone())) {
                // It gave up. Not dropped as a place: that would ask for the lock again.
                std::mem::forget(error.into_inner());
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Under the lock of the queue, if there is a limit.
    fn take(&self) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let is_free = self.max_parallel == 0 || in_flight < self.max_parallel;
        if is_free {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        is_free
    }
}

impl Slot {
    /// Whether it is one of this upstream.
    pub(crate) fn is_of(&self, slots: &Arc<Slots>) -> bool {
        Arc::ptr_eq(&self.0, slots)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.0;
        if slots.max_parallel == 0 {
            slots.in_flight.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        slots.in_flight.fetch_sub(1, Ordering::Relaxed);
        slots.hand_over();
    }
}

impl SlotQueue {
    /// Waits for a place at one of these upstreams, which all have a limit and were full, or at one of those
    /// that were out, once [`Slots::hand_over`] says that it is able again.
    ///
    /// # Errors
    /// [`Error::Busy`] if `max_waiting` requests wait or no place became free in time;
    /// [`Error::ClientDisconnected`].
    pub(crate) fn wait(
        &self,
        (full, out): (Vec<Arc<Slots>>, Vec<Arc<Slots>>),
        max_waiting: usize,
        timeout: Duration,
    ) -> Result<Slot> {
        let (receiver, sender) = match self.join(full, out, max_waiting)? {
            Joined::Free(slot) => return Ok(slot),
            Joined::Waiting(receiver, sender) => (receiver, sender),
        };
        let waited = worker_pool::yield_slot(|| {
            let deadline = Instant::now() + timeout;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match receiver.recv_timeout(left.min(cancel::POLL_INTERVAL)) {
                    Ok(slot) => return Ok(slot),
                    Err(RecvTimeoutError::Disconnected) => return Err(Error::Busy),
                    Err(RecvTimeoutError::Timeout) if cancel::is_cancelled() => {
                        return Err(Error::ClientDisconnected);
                    }
                    Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Error::Busy),
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        });
        // A place that was handed over in this moment is given back with the receiver.
        waited.inspect_err(|_| {
            lock(&self.0).retain(|waiter| !waiter.sender.same_channel(&sender));
        })
    }

    fn join(
        &self,
        mut slots: Vec<Arc<Slots>>,
        out: Vec<Arc<Slots>>,
        max_waiting: usize,
    ) -> Result<Joined> {
        let mut queue = lock(&self.0);
        if let Some(free) = slots.iter().find(|slots| slots.take()) {
            return Ok(Joined::Free(Slot(free.clone())));
        }
        if queue.len() >= max_waiting {
            return Err(Error::Busy);
        }
        slots.extend(out);
        let (sender, receiver) = bounded(1);
        queue.push_back(Waiter { slots, sender: sender.clone() });
        Ok(Joined::Waiting(receiver, sender))
    }

    /// Requests that wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

enum Joined {
    Free(Slot),
    Waiting(Receiver<Slot>, Sender<Slot>),
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn wait_until_waiting(queue: &SlotQueue, count: usize) {
        while queue.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_place_is_counted_until_it_is_dropped() {
        let queue = Arc::new(SlotQueue::default());
        let (limited, unlimited) = (Slots::new(1, queue.clone()), Slots::new(0, queue));
        let first = limited.try_acquire().expect("a place");
        assert!(limited.try_acquire().is_none() && first.is_of(&limited));
        drop(first);
        assert!(limited.try_acquire().is_some());
        let many: Vec<_> = (0..100).map(|_| unlimited.try_acquire().expect("no limit")).collect();
        assert_eq!(unlimited.in_flight(), 100);
        drop(many);
        assert_eq!((unlimited.in_flight(), limited.in_flight()), (0, 0));
    }

    #[test]
    fn places_go_to_those_that_wait_in_the_order_of_their_arrival() {
        let queue = Arc::new(SlotQueue::default());
        let (one, other) = (Slots::new(1, queue.clone()), Slots::new(1, queue.clone()));
        let (held, held_too) =
            (one.try_acquire().expect("free"), other.try_acquire().expect("free"));
        let (sender, served) = bounded(3);
        let spawn = |name: &'static str, slots: Vec<Arc<Slots>>| {
            let out = Vec::new();
            let (queue, sender, before) = (queue.clone(), sender.clone(), queue.len());
            let thread = thread::spawn({
                let queue = queue.clone();
                move || sender.send((name, queue.wait((slots, out), 9, LONG).expect("a place")))
            });
            wait_until_waiting(&queue, before + 1);
            thread
        };
        let threads = [
            spawn("first", vec![one.clone()]),
            spawn("second", vec![one.clone(), other.clone()]),
            spawn("third", vec![other.clone()]),
        ];
        drop(held_too);
        let (name, slot) = served.recv().expect("somebody");
        assert!(name == "second" && slot.is_of(&other));
        assert!(one.try_acquire().is_none() && other.try_acquire().is_none(), "handed over");
        drop(held);
        let (name, of_first) = served.recv().expect("somebody");
        assert!(name == "first" && of_first.is_of(&one));
        drop(slot);
        assert_eq!(served.recv().expect("somebody").0, "third");
        for thread in threads {
            thread.join().expect("no panic").expect("a receiver");
        }
    }

    fn only(slots: &Arc<Slots>) -> (Vec<Arc<Slots>>, Vec<Arc<Slots>>) {
        (vec![slots.clone()], Vec::new())
    }

    #[test]
    fn an_upstream_that_is_able_again_serves_those_that_wait() {
        let queue = Arc::new(SlotQueue::default());
        let (full, limited) = (Slots::new(1, queue.clone()), Slots::new(1, queue.clone()));
        let unlimited = Slots::new(0, queue.clone());
        for out in [limited, unlimited] {
            let held = full.try_acquire().expect("free");
            let waiting = thread::spawn({
                let (queue, both) = (queue.clone(), (vec![full.clone()], vec![out.clone()]));
                move || queue.wait(both, 9, LONG).expect("a place")
            });
            wait_until_waiting(&queue, 1);
            assert_eq!(out.in_flight(), 0, "it is out");
            out.hand_over();
            assert!(waiting.join().expect("no panic").is_of(&out));
            drop(held);
            assert_eq!((out.in_flight(), full.in_flight(), queue.len()), (0, 0, 0));
        }
    }

    #[test]
    fn a_wait_is_bounded_and_one_that_gave_up_gets_no_place() {
        let queue = Arc::new(SlotQueue::default());
        let slots = Slots::new(1, queue.clone());
        let held = slots.try_acquire().expect("free");
        let busy = |result: Result<Slot>| matches!(result, Err(Error::Busy));
        assert!(busy(queue.wait(only(&slots), 0, LONG)), "no place in the queue");
        assert!(busy(queue.wait(only(&slots), 1, Duration::ZERO)), "not in time");
        drop(held);
        assert_eq!((slots.in_flight(), queue.len()), (0, 0));
        assert!(queue.wait(only(&slots), 0, LONG).is_ok(), "a free place needs no wait");
    }
}
