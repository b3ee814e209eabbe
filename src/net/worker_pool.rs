//! A bounded pool of named threads with a bounded queue.
//!
//! Knows nothing of HTTP: a job is a closure. A job that panics is logged and its worker continues.
//! A caller first reserves a place ([`WorkerPool::try_reserve`]), so that a refused job never leaves
//! its owner. [`WorkerPool::drain`] closes the pool and waits for queued and running jobs.
//!
//! A job goes to the worker that became idle last, whose memory is warm; without an idle worker it
//! is queued. A thread starts when a job first needs it, so that a quiet process stays small. An idle
//! worker sleeps on a condition variable of its own: a blocking receive of crossbeam-channel calls
//! `sched_yield` several times first, which costs two busy cores a seventh of their time. A worker that
//! has been idle for 20 s ends, unless it is one of the last 4; those sleep on without waking up.
//!
//! A job that waits for a slow client yields its slot ([`yield_slot`]). While many jobs do so
//! ([`Overcommit::update`]), extra threads take the yielded slots, and end once the jobs that yielded
//! resume. A job that sleeps before it asks an upstream again yields its slot, too ([`sleep_yielding`]), and
//! is replaced at once: an upstream that lets everybody wait takes no worker from the others, and at most half
//! of the places. Invariant: at most the configured number of jobs run without having yielded their slot,
//! and no job is queued while a worker is idle.
//!
//! Threads have a stack of 512 KiB, of which a live stream touches a small part. Dropping the pool
//! closes the queue and ends the threads after the jobs that remain.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::sys;
use crate::observe::lock::lock;
use crate::observe::system_error;

/// Bytes of stack for each worker: ample for TLS and nested JSON; only touched pages cost memory.
const STACK_BYTES: usize = 512 * 1024;

/// How long a worker is idle before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Threads that stay although they are idle.
const KEPT_THREADS: usize = 4;

/// Idle threads that end before free memory is given back to the system, which takes some milliseconds.
const THREADS_PER_TRIM: usize = 64;

thread_local! {
    /// The pool whose worker this thread is.
    static CURRENT_POOL: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

type Job = Box<dyn FnOnce() + Send>;

/// The workers and their queue. Dropping it lets queued jobs finish and then ends the threads.
pub struct WorkerPool {
    shared: Arc<Shared>,
    /// Disconnected when the last thread has ended.
    all_ended: Receiver<()>,
}

/// A place for one job; returned to the pool if it is dropped unused.
#[must_use]
pub struct Permit<'a>(&'a WorkerPool);

/// What the pool shares with its threads.
struct Shared {
    name: &'static str,
    /// Most jobs that run without having yielded their slot.
    max_active: usize,
    /// Most jobs that run or wait, and most threads.
    capacity: usize,
    idle_timeout: Duration,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    queue: VecDeque<Job>,
    /// The worker that became idle last is the last one.
    idle: Vec<Arc<IdleWorker>>,
    /// Threads that run or are idle; without those told to end.
    threads: usize,
    next_thread_id: usize,
    /// Threads that ended since memory was last given back.
    ended_threads: usize,
    /// Jobs that run or wait, and reserved places.
    load: usize,
    yielded_slots: usize,
    /// Jobs that sleep, and those of them that sleep long.
    sleepers: usize,
    long_sleepers: usize,
    /// Whether a yielded slot is filled at once.
    overcommit: bool,
    /// Each thread holds a clone; `None` once the pool is closed.
    alive: Option<Sender<()>>,
}

/// Where an idle worker waits for what to do next.
#[derive(Default)]
struct IdleWorker {
    /// `Some(None)` tells the worker to end.
    next: Mutex<Option<Option<Job>>>,
    changed: Condvar,
}

impl WorkerPool {
    /// Starts a pool of up to `workers` threads, named after `name`, with room for `queue` waiting
    /// jobs. Only the first thread starts now. If the system refuses further threads later, the pool
    /// continues with those that it has.
    ///
    /// # Errors
    /// If the system refuses the first thread.
    pub fn start(name: &'static str, workers: usize, queue: usize) -> io::Result<Self> {
        Self::start_with(name, workers, queue, IDLE_TIMEOUT)
    }

    /// Like [`WorkerPool::start`]; idle threads end after `idle_timeout`.
    fn start_with(
        name: &'static str,
        workers: usize,
        queue: usize,
        idle_timeout: Duration,
    ) -> io::Result<Self> {
        let (alive, all_ended) = bounded(0);
        let state = Mutex::new(PoolState { alive: Some(alive), ..PoolState::default() });
        let (max_active, capacity) = (workers, workers + queue);
        let shared = Arc::new(Shared { name, max_active, capacity, idle_timeout, state });
        shared.spawn_thread(&mut lock(&shared.state))?;
        Ok(Self { shared, all_ended })
    }

    /// A place for one more job; `None` when workers and queue are full. Never waits.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Permit<'_>> {
        let mut state = lock(&self.shared.state);
        if state.load >= self.shared.capacity {
            return None;
        }
        state.load += 1;
        Some(Permit(self))
    }

    /// Jobs that run or wait.
    pub fn load(&self) -> usize {
        lock(&self.shared.state).load
    }

    /// The control of the extra threads that take yielded slots.
    pub fn overcommit(&self) -> Overcommit {
        Overcommit(self.shared.clone())
    }

    /// Closes the pool and waits for running and queued jobs; `false` if some are not done in time.
    #[must_use]
    pub fn drain(self, grace: Duration) -> bool {
        self.shared.close();
        self.all_ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Permit<'_> {
    /// Runs a job on an idle worker, or queues it.
    pub fn run(self, job: impl FnOnce() + Send + 'static) {
        self.0.shared.assign(Box::new(job));
        // The worker returns the place after the job.
        mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        lock(&self.0.shared.state).load -= 1;
    }
}

/// Controls the extra threads that take yielded slots.
pub struct Overcommit(Arc<Shared>);

impl Overcommit {
    /// Takes the number of jobs that currently wait for a slow client. From half of the workers on,
    /// extra threads take their slots.
    pub fn update(&self, stalled: usize) {
        let overcommit = stalled > 0 && stalled * 2 >= self.0.max_active;
        let mut state = lock(&self.0.state);
        state.overcommit = overcommit;
        self.0.fill_slots(&mut state);
    }
}

/// Runs `wait`, which waits for a slow client, and lets other jobs use this worker's slot meanwhile.
/// On a thread that is no worker it only runs `wait`.
pub fn yield_slot<T>(wait: impl FnOnce() -> T) -> T {
    /// Takes the slot back, also when `wait` panics.
    struct ReclaimSlot(Arc<Shared>);
    impl Drop for ReclaimSlot {
        fn drop(&mut self) {
            self.0.reclaim_slot();
        }
    }
    let pool = CURRENT_POOL.with_borrow(Clone::clone);
    let _reclaim = pool.map(|pool| {
        pool.give_up_slot();
        ReclaimSlot(pool)
    });
    wait()
}

/// Runs `sleep`, which waits for nothing but time, and lets other jobs use this worker's slot meanwhile.
/// `None`, without a sleep, if too many jobs sleep already: half as many as there are workers may sleep long, and
/// no more than workers, nor than half of all places, at all. On a thread that is no worker it only runs `sleep`.
pub fn sleep_yielding<T>(is_long: bool, sleep: impl FnOnce() -> T) -> Option<T> {
    /// Takes the slot back, also when `sleep` panics.
    struct Sleeper(Arc<Shared>, bool);
    impl Drop for Sleeper {
        fn drop(&mut self) {
            let mut state = lock(&self.0.state);
            state.sleepers -= 1;
            state.long_sleepers -= usize::from(self.1);
            drop(state);
            self.0.reclaim_slot();
        }
    }
    let _sleeper = match CURRENT_POOL.with_borrow(Clone::clone) {
        Some(pool) if !pool.begin_sleep(is_long) => return None,
        pool => pool.map(|pool| Sleeper(pool, is_long)),
    };
    Some(sleep())
}

impl Shared {
    fn begin_sleep(self: &Arc<Self>, is_long: bool) -> bool {
        let mut state = lock(&self.state);
        let most = (self.capacity / 2).min(self.max_active).max(1);
        let most_long = (self.max_active / 2).max(1);
        if state.sleepers >= most || (is_long && state.long_sleepers >= most_long) {
            return false;
        }
        state.sleepers += 1;
        state.long_sleepers += usize::from(is_long);
        state.yielded_slots += 1;
        self.fill_slots(&mut state);
        true
    }

    fn give_up_slot(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.yielded_slots += 1;
        self.fill_slots(&mut state);
    }

    fn reclaim_slot(&self) {
        let mut state = lock(&self.state);
        state.yielded_slots -= 1;
        // A surplus worker that is idle would not notice by itself.
        if !state.idle.is_empty() && self.retire_surplus(&mut state) {
            state.idle.swap_remove(0).send(None);
        }
    }

    /// Gives a job to an idle worker, or queues it and starts a thread if there may be one more.
    fn assign(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        if let Some(worker) = state.idle.pop() {
            drop(state);
            worker.send(Some(job));
            return;
        }
        state.queue.push_back(job);
        if state.threads < self.max_active
            && let Err(error) = self.spawn_thread(&mut state)
        {
            log::warn!(
                "cannot start another worker thread: {}",
                system_error::describe_spawn(&error)
            );
        }
        self.fill_slots(&mut state);
    }

    /// Starts threads for queued jobs, as far as yielded slots may be filled.
    fn fill_slots(self: &Arc<Self>, state: &mut PoolState) {
        if state.overcommit || state.sleepers > 0 {
            let slots = self.max_active.saturating_sub(state.active());
            let most = if state.overcommit { usize::MAX } else { self.max_active + state.sleepers };
            let room = self.capacity.min(most).saturating_sub(state.threads);
            let count = slots.min(room).min(state.queue.len());
            // Without more threads, those that there are serve the queue.
            let _ = (0..count).try_for_each(|_| self.spawn_thread(state));
        }
    }

    /// Starts one more thread.
    fn spawn_thread(self: &Arc<Self>, state: &mut PoolState) -> io::Result<()> {
        let Some(alive) = state.alive.clone() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let name = format!("{}-{}", self.name, state.next_thread_id);
        state.next_thread_id += 1;
        let shared = self.clone();
        let run = move || {
            let _alive = alive;
            CURRENT_POOL.set(Some(shared.clone()));
            shared.run_worker();
            // The thread-local value would outlive `_alive`.
            CURRENT_POOL.set(None);
        };
        thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(run)?;
        state.threads += 1;
        Ok(())
    }

    fn run_worker(&self) {
        let worker = Arc::new(IdleWorker::default());
        while let Some(job) = self.next_job(&worker) {
            if panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a request handler panicked; the worker continues");
            }
            let mut state = lock(&self.state);
            state.load -= 1;
            if self.retire_surplus(&mut state) {
                return;
            }
        }
    }

    /// The next job, for which the worker waits if none is queued; `None` when the worker has to end.
    fn next_job(&self, worker: &Arc<IdleWorker>) -> Option<Job> {
        let mut state = lock(&self.state);
        if let Some(job) = state.queue.pop_front() {
            return Some(job);
        }
        state.alive.as_ref()?;
        state.idle.push(worker.clone());
        drop(state);
        if let Some(next) = worker.wait_at_most(self.idle_timeout) {
            return next;
        }
        if self.retire_idle(worker) { None } else { worker.wait() }
    }

    /// Counts a worker out that has been idle for long, unless it has to stay, or was just given a job.
    /// Behind many that have ended it gives the memory back that they used.
    fn retire_idle(&self, worker: &Arc<IdleWorker>) -> bool {
        let is_due = {
            let mut state = lock(&self.state);
            let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, worker));
            let Some(place) = place.filter(|_| state.threads > KEPT_THREADS) else { return false };
            state.idle.remove(place);
            state.threads -= 1;
            state.is_trim_due()
        };
        if is_due {
            sys::release_free_memory();
        }
        true
    }

    /// Counts one worker out if more are active than may be; that worker then has to end.
    fn retire_surplus(&self, state: &mut PoolState) -> bool {
        let surplus = state.active() > self.max_active;
        state.threads -= usize::from(surplus);
        surplus
    }

    /// Lets each worker end once no job is queued.
    fn close(&self) {
        let mut state = lock(&self.state);
        state.alive = None;
        state.idle.drain(..).for_each(|worker| worker.send(None));
    }
}

impl PoolState {
    /// Threads that have not yielded their slot.
    fn active(&self) -> usize {
        self.threads.saturating_sub(self.yielded_slots)
    }

    /// Counts a thread that has ended; whether memory should be given back now.
    fn is_trim_due(&mut self) -> bool {
        self.ended_threads += 1;
        let is_last = self.threads <= KEPT_THREADS && self.ended_threads > KEPT_THREADS;
        let is_due = is_last || self.ended_threads >= THREADS_PER_TRIM;
        if is_due {
            self.ended_threads = 0;
        }
        is_due
    }
}

impl IdleWorker {
    /// Wakes the worker with a job, or with `None` to end it.
    fn send(&self, job: Option<Job>) {
        *lock(&self.next) = Some(job);
        self.changed.notify_one();
    }

    /// What to do next; `None` if that is not known in time.
    fn wait_at_most(&self, timeout: Duration) -> Option<Option<Job>> {
        let next = lock(&self.next);
        let waited = self.changed.wait_timeout_while(next, timeout, |next| next.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    fn wait(&self) -> Option<Job> {
        let next = self.changed.wait_while(lock(&self.next), |next| next.is_none());
        next.unwrap_or_else(PoisonError::into_inner).take().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(workers: usize, queue: usize) -> WorkerPool {
        WorkerPool::start("worker", workers, queue).expect("threads")
    }

    /// Whether the job was admitted.
    fn submit(pool: &WorkerPool, job: impl FnOnce() + Send + 'static) -> bool {
        pool.try_reserve().map(|permit| permit.run(job)).is_some()
    }

    impl WorkerPool {
        fn state(&self) -> std::sync::MutexGuard<'_, PoolState> {
            lock(&self.shared.state)
        }
    }

    /// A job that says when it runs and ends when it is told to.
    fn held(started: &Sender<()>, release: &Receiver<()>) -> Job {
        let (started, release) = (started.clone(), release.clone());
        Box::new(move || {
            started.send(()).expect("the test listens");
            let _ = release.recv();
        })
    }

    #[test]
    fn exactly_workers_and_queue_are_admitted() {
        let pool = pool(2, 1);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        let admitted = (0..5).filter(|_| submit(&pool, held(&started, &held_back))).count();
        assert_eq!(admitted, 3);
        for _ in 0..2 {
            starts.recv().expect("two run");
        }
        drop(release);
        starts.recv().expect("the third follows");
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn without_a_queue_idle_workers_still_take_jobs() {
        let pool = pool(1, 0);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        assert!(submit(&pool, held(&started, &held_back)));
        assert!(!submit(&pool, held(&started, &held_back)));
        starts.recv().expect("the first runs");
        drop(release);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn a_panic_costs_no_worker() {
        let pool = pool(1, 4);
        let (sender, done) = bounded(1);
        assert!(submit(&pool, || panic!("on purpose")));
        assert!(submit(&pool, move || sender.send(1).expect("the test listens")));
        assert_eq!(done.recv(), Ok(1));
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn a_drain_gives_up_after_its_grace() {
        let pool = pool(1, 0);
        let (started, starts) = bounded(1);
        let (release, held_back) = bounded::<()>(0);
        assert!(submit(&pool, held(&started, &held_back)));
        starts.recv().expect("it runs");
        assert!(!pool.drain(Duration::ZERO));
        drop(release);
    }

    /// A job that lends its place until it is told to go on.
    fn lending(started: &Sender<()>, release: &Receiver<()>) -> Job {
        let job = held(started, release);
        Box::new(|| yield_slot(job))
    }

    /// A job that sleeps until it is told to go on, and says whether it might.
    fn sleeping(is_long: bool, slept: &Sender<bool>, release: &Receiver<()>) -> Job {
        let (slept, release) = (slept.clone(), release.clone());
        Box::new(move || {
            let done = sleep_yielding(is_long, || {
                slept.send(true).expect("the test listens");
                let _ = release.recv();
            });
            if done.is_none() {
                slept.send(false).expect("the test listens");
            }
        })
    }

    #[test]
    fn jobs_that_sleep_take_no_worker_and_at_most_half_of_the_places() {
        for (workers, queue, is_long, most) in
            [(4, 8, true, 2), (4, 8, false, 4), (4, 0, false, 2), (1, 0, true, 1), (1, 3, false, 1)]
        {
            let pool = pool(workers, queue);
            let (slept, sleeps) = bounded(16);
            let (release, held_back) = bounded::<()>(0);
            for _ in 0..most {
                assert!(submit(&pool, sleeping(is_long, &slept, &held_back)));
                assert_eq!(sleeps.recv(), Ok(true));
            }
            let places = workers + queue - most;
            if places > 0 {
                assert!(submit(&pool, sleeping(is_long, &slept, &held_back)));
                assert_eq!(sleeps.recv(), Ok(false), "one more does not sleep");
            }
            while pool.load() > most {
                thread::yield_now();
            }
            // All workers are there for other jobs.
            let (started, starts) = bounded(8);
            for _ in 0..workers.min(places) {
                assert!(submit(&pool, held(&started, &held_back)));
                starts.recv().expect("it runs");
            }
            drop(release);
            while pool.load() > 0 {
                thread::yield_now();
            }
            let state = pool.state();
            assert_eq!((state.sleepers, state.long_sleepers, state.yielded_slots), (0, 0, 0));
            assert!(state.threads <= workers, "the extra ones have ended: {}", state.threads);
            drop(state);
            assert!(pool.drain(Duration::from_secs(60)));
        }
    }

    #[test]
    fn places_that_are_lent_are_filled_and_given_back() {
        let pool = pool(2, 8);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        for _ in 0..4 {
            assert!(submit(&pool, lending(&started, &held_back)));
        }
        (0..2).for_each(|_| starts.recv().expect("two run"));
        assert_eq!(pool.state().queue.len(), 2);
        let overcommit = pool.overcommit();
        overcommit.update(0);
        assert_eq!(pool.state().queue.len(), 2, "nobody is stalled");
        // Each that is hired lends its place at once, and is followed by another.
        overcommit.update(2);
        (0..2).for_each(|_| starts.recv().expect("their places are filled"));
        let (done, ends) = bounded(1);
        assert!(submit(&pool, move || done.send(()).expect("the test listens")));
        overcommit.update(4);
        ends.recv().expect("a job that waits for nobody runs");
        drop(release);
        drop(started);
        while pool.load() > 0 {
            thread::yield_now();
        }
        for _ in 0..8 {
            let (done, ends) = bounded(1);
            let job = move || done.send(()).expect("the test listens");
            assert!(submit(&pool, job));
            ends.recv().expect("it runs");
        }
        assert_eq!(pool.state().yielded_slots, 0);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn a_worker_is_hired_when_it_is_needed_and_the_last_one_to_rest_works_next() {
        let pool = pool(8, 8);
        let names = |count: usize| -> Vec<String> {
            let ((told, names), (release, held_back)) = (bounded(8), bounded::<()>(0));
            for _ in 0..count {
                let (told, held_back) = (told.clone(), held_back.clone());
                let job = move || {
                    let name = thread::current().name().map(str::to_owned);
                    told.send(name.unwrap_or_default()).expect("the test listens");
                    let _ = held_back.recv();
                };
                assert!(submit(&pool, job));
            }
            let names = (0..count).map(|_| names.recv().expect("it runs")).collect();
            drop(release);
            while pool.load() > 0 || pool.state().idle.len() < count {
                thread::yield_now();
            }
            names
        };
        while pool.state().idle.is_empty() {
            thread::yield_now();
        }
        for _ in 0..5 {
            assert_eq!(names(1), ["worker-0"]);
        }
        let mut three = names(3);
        three.sort();
        assert_eq!(three, ["worker-0", "worker-1", "worker-2"]);
        let last = || pool.state().idle.last().cloned().expect("three are idle");
        let before = last();
        names(1);
        while pool.state().idle.len() < 3 {
            thread::yield_now();
        }
        assert!(Arc::ptr_eq(&before, &last()), "another one was taken and is the last now");
        assert_eq!(pool.state().threads, 3);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn workers_end_with_their_pool() {
        let pool = pool(2, 2);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        for _ in 0..2 {
            assert!(submit(&pool, held(&started, &held_back)));
            starts.recv().expect("it runs");
        }
        let ended = pool.all_ended.clone();
        drop(pool);
        assert!(ended.recv_timeout(Duration::ZERO).is_err_and(|error| error.is_timeout()));
        drop(release);
        assert!(ended.recv().is_err(), "all are gone");
    }

    #[test]
    fn spare_workers_go_when_the_places_they_took_are_back() {
        let pool = pool(1, 8);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        assert!(submit(&pool, lending(&started, &held_back)));
        starts.recv().expect("it runs");
        let (done, ends) = bounded(1);
        let job = move || done.send(()).expect("the test listens");
        assert!(submit(&pool, job));
        pool.overcommit().update(1);
        ends.recv().expect("a spare one works");
        while pool.state().idle.is_empty() {
            thread::yield_now();
        }
        assert_eq!(pool.state().threads, 2);
        drop(release);
        while pool.load() > 0 {
            thread::yield_now();
        }
        assert_eq!(pool.state().threads, 1);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn never_more_work_than_may() {
        let pool = pool(1, 8);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        assert!(submit(&pool, lending(&started, &held_back)));
        starts.recv().expect("it runs");
        for _ in 0..2 {
            assert!(submit(&pool, held(&started, &held_back)));
        }
        let overcommit = pool.overcommit();
        overcommit.update(1);
        starts.recv().expect("its place is filled");
        overcommit.update(1);
        assert_eq!(pool.state().queue.len(), 1, "one works, and one has lent its place");
        drop(release);
        starts.recv().expect("the last follows");
        assert!(pool.drain(Duration::from_secs(60)));
    }

    /// Lets this many jobs run at once, and waits until all have ended.
    fn run_at_once(pool: &WorkerPool, count: usize) {
        let (started, starts) = bounded(count);
        let (release, held_back) = bounded::<()>(0);
        for _ in 0..count {
            assert!(submit(pool, held(&started, &held_back)));
        }
        (0..count).for_each(|_| starts.recv().expect("all run"));
        drop(release);
        while pool.load() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn threads_of_a_burst_end_and_come_back() {
        let pool = WorkerPool::start_with("worker", 32, 0, Duration::ZERO).expect("threads");
        for _ in 0..3 {
            run_at_once(&pool, 32);
            while pool.state().threads > KEPT_THREADS {
                thread::yield_now();
            }
        }
        while pool.state().idle.len() < KEPT_THREADS {
            thread::yield_now();
        }
        assert_eq!(pool.state().threads, KEPT_THREADS);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn no_job_is_lost_to_a_thread_that_ends() {
        let pool = WorkerPool::start_with("worker", 8, 0, Duration::ZERO).expect("threads");
        // A job that nobody runs would let the others of its round wait for ever.
        (0..200).for_each(|_| run_at_once(&pool, 8));
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn memory_is_given_back_behind_many_threads_and_behind_the_last_one() {
        let due = |threads: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            let mut state = PoolState::default();
            let mut is_due = |left: &usize| {
                state.threads = *left;
                state.is_trim_due()
            };
            threads.filter(|left| is_due(left)).collect()
        };
        assert_eq!(due(&mut (4..150).rev()), [86, 22, 4]);
        assert!(due(&mut (4..8).rev()).is_empty(), "too few");
    }

    #[test]
    fn idle_threads_stay_until_their_time_is_over() {
        let pool = pool(16, 0);
        run_at_once(&pool, 16);
        while pool.state().idle.len() < 16 {
            thread::yield_now();
        }
        assert_eq!(pool.state().threads, 16);
    }
}
