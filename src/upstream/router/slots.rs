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

/// How often a waiting request looks whether its client has disconnected.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(200);

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

    fn take(&self) -> bool {
        let is_free = self.in_flight.load(Ordering::Relaxed) < self.max_parallel;
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
        let mut queue = lock(&slots.queue.0);
        slots.in_flight.fetch_sub(1, Ordering::Relaxed);
        // A waiter that gave up has dropped its receiver.
        while let Some(at) =
            queue.iter().position(|it| it.slots.iter().any(|s| Arc::ptr_eq(s, slots)))
        {
            let Some(waiter) = queue.remove(at) else { return };
            slots.in_flight.fetch_add(1, Ordering::Relaxed);
            match waiter.sender.try_send(Slot(slots.clone())) {
                Ok(()) => return,
                Err(error) => {
                    // Not dropped as a place: that would ask for the lock again.
                    std::mem::forget(error.into_inner());
                    slots.in_flight.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl SlotQueue {
    /// Waits for a place at one of these upstreams, which all have a limit and were full.
    ///
    /// # Errors
    /// [`Error::Busy`] if `max_waiting` requests wait or no place became free in time;
    /// [`Error::ClientDisconnected`].
    pub(crate) fn wait(
        &self,
        slots: Vec<Arc<Slots>>,
        max_waiting: usize,
        timeout: Duration,
    ) -> Result<Slot> {
        let (receiver, sender) = match self.join(slots, max_waiting)? {
            Joined::Free(slot) => return Ok(slot),
            Joined::Waiting(receiver, sender) => (receiver, sender),
        };
        let waited = worker_pool::yield_slot(|| {
            let deadline = Instant::now() + timeout;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match receiver.recv_timeout(left.min(CANCEL_POLL_INTERVAL)) {
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

    fn join(&self, slots: Vec<Arc<Slots>>, max_waiting: usize) -> Result<Joined> {
        let mut queue = lock(&self.0);
        if let Some(free) = slots.iter().find(|slots| slots.take()) {
            return Ok(Joined::Free(Slot(free.clone())));
        }
        if queue.len() >= max_waiting {
            return Err(Error::Busy);
        }
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
            let (queue, sender, before) = (queue.clone(), sender.clone(), queue.len());
            let thread = thread::spawn({
                let queue = queue.clone();
                move || sender.send((name, queue.wait(slots, 9, LONG).expect("a place")))
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

    #[test]
    fn a_wait_is_bounded_and_one_that_gave_up_gets_no_place() {
        let queue = Arc::new(SlotQueue::default());
        let slots = Slots::new(1, queue.clone());
        let held = slots.try_acquire().expect("free");
        let busy = |result: Result<Slot>| matches!(result, Err(Error::Busy));
        assert!(busy(queue.wait(vec![slots.clone()], 0, LONG)), "no place in the queue");
        assert!(busy(queue.wait(vec![slots.clone()], 1, Duration::ZERO)), "not in time");
        drop(held);
        assert_eq!((slots.in_flight(), queue.len()), (0, 0));
        assert!(queue.wait(vec![slots.clone()], 0, LONG).is_ok(), "a free place needs no wait");
    }
}
