//! A fixed number of named threads taking jobs from a bounded queue.
//!
//! Knows nothing of HTTP: a job is a value, and what is done with it is a function given at the start.
//! A job that panics is logged and its worker lives on. Jobs are admitted by
//! an exact count of those running and waiting, because a channel alone would refuse a job while a
//! worker is just about to take one. [`WorkerPool::drain`] closes the queue and waits for what is left.
//!
//! A job goes to the worker that began to rest last, whose memory is warm, through a channel of its
//! own; only when none rests does it wait in the queue. Threads are started when they are needed first,
//! so that a quiet process is a small one. A resting worker is parked: crossbeam's own blocking receive
//! would call `sched_yield` some times before, which costs two busy cores a seventh of their time.
//!
//! A job that waits for somebody slow lends its place ([`yield_slot`]). Lent places are filled only when
//! they have to be: when [`Overcommit::update`] is told that many wait and jobs are queued, spare workers
//! are hired, and go once those whose places they took are back.
//! Invariant: never more than the fixed number of jobs run that have not lent their place; and no job
//! waits while a worker rests.

use std::cell::RefCell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::observe::lock::lock;

/// Bytes of stack for each worker: ample for TLS and nested JSON; only touched pages cost memory.
const STACK_BYTES: usize = 512 * 1024;

thread_local! {
    /// Those with whom this thread works.
    static CURRENT_POOL: RefCell<Option<Arc<dyn Slots>>> = const { RefCell::new(None) };
}

/// The workers and their queue.
pub struct WorkerPool<J> {
    /// Closed when the last worker has ended.
    done: Receiver<()>,
    load: Arc<AtomicUsize>,
    capacity: usize,
    state: Arc<PoolState<J>>,
}

/// The pool is full; the job comes back.
#[derive(Debug)]
pub struct PoolFull<J>(pub J);

/// Counts a job as long as it waits or runs, however it ends.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A job that was admitted.
type Task<J> = (J, Permit);

/// The workers of one pool.
struct PoolState<J> {
    name: &'static str,
    run_job: Box<dyn Fn(J) + Send + Sync>,
    /// How many work at once.
    max_active: usize,
    /// How many there may be with the spare ones.
    max_threads: usize,
    thread_count: AtomicUsize,
    /// How many were hired so far.
    next_thread_id: AtomicUsize,
    /// How many have lent their place.
    yielded_slots: AtomicUsize,
    /// Whether a place that is lent is filled at once.
    overcommit: AtomicBool,
    queue: (Sender<Task<J>>, Receiver<Task<J>>),
    idle: Mutex<IdleList<J>>,
}

/// Who rests. Its lock orders those who bring a job and those who look for one.
struct IdleList<J> {
    /// The one that began last is the last.
    workers: Vec<Arc<IdleWorker<J>>>,
    /// Each worker has a copy; `None` once the pool is closed.
    done_sender: Option<Sender<()>>,
}

/// Where a worker rests, and is handed its next job.
struct IdleWorker<J> {
    job_sender: Sender<Task<J>>,
    job_receiver: Receiver<Task<J>>,
    thread: Thread,
    should_exit: AtomicBool,
}

impl<J: Send + 'static> WorkerPool<J> {
    /// Makes room for `workers` threads that do `work`, and for `queue` waiting jobs beyond them. They
    /// are named after `name`; the first one is started now. Where the system gives fewer threads,
    /// those have to do.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(
        name: &'static str,
        workers: usize,
        queue: usize,
        work: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let capacity = workers + queue;
        let (done_sender, done) = bounded::<()>(0);
        let state = Arc::new(PoolState {
            name,
            run_job: Box::new(work),
            max_active: workers,
            max_threads: capacity,
            thread_count: AtomicUsize::new(1),
            next_thread_id: AtomicUsize::new(0),
            yielded_slots: AtomicUsize::new(0),
            overcommit: AtomicBool::new(false),
            queue: bounded(capacity),
            idle: Mutex::new(IdleList { workers: Vec::new(), done_sender: Some(done_sender) }),
        });
        state.spawn_thread()?;
        Ok(Self { done, load: Arc::default(), capacity, state })
    }

    /// Hands a job to the workers without waiting.
    ///
    /// # Errors
    /// [`PoolFull`] with the job when as many are running and waiting as may be.
    pub fn try_submit(&self, job: J) -> Result<(), PoolFull<J>> {
        if self.load.fetch_add(1, Ordering::AcqRel) >= self.capacity {
            self.load.fetch_sub(1, Ordering::AcqRel);
            return Err(PoolFull(job));
        }
        let permit = Permit(self.load.clone());
        self.state.assign((job, permit)).map_err(|(job, _)| PoolFull(job))
    }

    /// Jobs that are running or waiting.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Acquire)
    }

    /// Jobs that are waiting.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.state.queue.1.len()
    }

    /// What fills the places that were lent.
    #[must_use]
    pub fn overcommit(&self) -> Overcommit {
        Overcommit(self.state.clone())
    }

    /// Closes the queue and waits for running and waiting jobs; `false` when they are not done in
    /// time.
    #[must_use]
    pub fn drain(self, grace: Duration) -> bool {
        self.state.close();
        self.done.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }
}

impl<J> Drop for WorkerPool<J> {
    fn drop(&mut self) {
        self.state.close();
    }
}

/// Fills the places that were lent.
pub struct Overcommit(Arc<dyn Slots>);

impl Overcommit {
    /// To be told again and again how many jobs wait for somebody slow: where they are half of the
    /// workers or more, their places are filled.
    pub fn update(&self, stalled: usize) {
        self.0.clone().update_overcommit(stalled);
    }
}

/// Waits for somebody slow in `wait`, meanwhile lending this worker's place to others. On a thread
/// that is no worker it only waits.
pub fn yield_slot<T>(wait: impl FnOnce() -> T) -> T {
    /// Takes the place back, also when `wait` panics.
    struct ReclaimSlot(Arc<dyn Slots>);
    impl Drop for ReclaimSlot {
        fn drop(&mut self) {
            self.0.reclaim_slot();
        }
    }
    let pool = CURRENT_POOL.with_borrow(Clone::clone);
    let _back = pool.map(|crew| {
        crew.clone().yield_slot();
        ReclaimSlot(crew)
    });
    wait()
}

/// What a worker, and the relief, may do with places.
trait Slots: Send + Sync {
    fn yield_slot(self: Arc<Self>);
    fn reclaim_slot(&self);
    fn update_overcommit(self: Arc<Self>, stalled: usize);
}

impl<J: Send + 'static> Slots for PoolState<J> {
    fn yield_slot(self: Arc<Self>) {
        self.yielded_slots.fetch_add(1, Ordering::AcqRel);
        if self.overcommit.load(Ordering::Acquire) {
            self.fill_slots();
        }
    }

    fn reclaim_slot(&self) {
        self.yielded_slots.fetch_sub(1, Ordering::AcqRel);
        // One that rests and is too many now would never find out.
        let mut idle = lock(&self.idle);
        if !idle.workers.is_empty() && self.try_retire() {
            idle.workers.swap_remove(0).stop();
        }
    }

    fn update_overcommit(self: Arc<Self>, stalled: usize) {
        let eager = stalled > 0 && stalled * 2 >= self.max_active;
        self.overcommit.store(eager, Ordering::Release);
        if eager {
            self.fill_slots();
        }
    }
}

impl<J: Send + 'static> PoolState<J> {
    /// Gives a job to a worker that rests, or lets it wait; hires where there may be more.
    fn assign(self: &Arc<Self>, task: Task<J>) -> Result<(), Task<J>> {
        let mut idle = lock(&self.idle);
        if let Some(worker) = idle.workers.pop() {
            drop(idle);
            return worker.send(task);
        }
        self.queue.0.try_send(task).map_err(|error| error.into_inner())?;
        drop(idle);
        if self.reserve_thread(|alive| alive < self.max_active)
            && let Err(error) = self.spawn_reserved()
        {
            log::warn!("one more worker could not be started: {error}");
        }
        Ok(())
    }

    /// Starts the thread of a worker that was counted in, or counts it out again.
    fn spawn_reserved(self: &Arc<Self>) -> io::Result<()> {
        self.spawn_thread().inspect_err(|_| {
            self.thread_count.fetch_sub(1, Ordering::AcqRel);
        })
    }

    fn spawn_thread(self: &Arc<Self>) -> io::Result<()> {
        let Some(done_sender) = lock(&self.idle).done_sender.clone() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let name = format!("{}-{}", self.name, self.next_thread_id.fetch_add(1, Ordering::Relaxed));
        let state = self.clone();
        let run = move || {
            let _alive: Sender<()> = done_sender;
            CURRENT_POOL.set(Some(state.clone()));
            state.run_worker();
            // A thread's own values outlive its last job.
            CURRENT_POOL.set(None);
        };
        thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(run).map(drop)
    }

    /// What a worker does.
    fn run_worker(&self) {
        let (job_sender, job_receiver) = bounded(1);
        let (thread, should_exit) = (thread::current(), AtomicBool::new(false));
        let worker = Arc::new(IdleWorker { job_sender, job_receiver, thread, should_exit });
        while let Some((job, _admission)) = self.next_task(&worker) {
            if panic::catch_unwind(AssertUnwindSafe(|| (self.run_job)(job))).is_err() {
                log::error!("a job panicked; its worker goes on");
            }
            if self.try_retire() {
                return;
            }
        }
    }

    /// The next job, for which it rests where none waits; `None` when it is to end.
    fn next_task(&self, worker: &Arc<IdleWorker<J>>) -> Option<Task<J>> {
        let mut idle = lock(&self.idle);
        match self.queue.1.try_recv() {
            Ok(task) => return Some(task),
            Err(_) if idle.done_sender.is_none() => return None,
            Err(_) => idle.workers.push(worker.clone()),
        }
        drop(idle);
        worker.wait_for_job()
    }

    /// Hires until no job waits, or as many work as may.
    fn fill_slots(self: &Arc<Self>) {
        let mut left = self.queue.1.len();
        let may_be =
            |alive: usize| alive < self.max_threads && self.active_workers(alive) < self.max_active;
        while left > 0 && self.reserve_thread(may_be) && self.spawn_reserved().is_ok() {
            left -= 1;
        }
    }

    /// How many work where `alive` are there: those that have lent their place do not.
    fn active_workers(&self, alive: usize) -> usize {
        alive.saturating_sub(self.yielded_slots.load(Ordering::Acquire))
    }

    /// Counts one more worker in where there may be one. To look first and to count then would let
    /// two at once count in one too many.
    fn reserve_thread(&self, may_be: impl Fn(usize) -> bool) -> bool {
        let more = |alive| may_be(alive).then_some(alive + 1);
        self.thread_count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Whether a worker that has nothing in hand has to go; it is counted out then.
    fn try_retire(&self) -> bool {
        let fewer = |alive| (self.active_workers(alive) > self.max_active).then(|| alive - 1);
        self.thread_count.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }
}

impl<J> PoolState<J> {
    /// Lets all workers end once no job waits.
    fn close(&self) {
        let mut idle = lock(&self.idle);
        idle.done_sender = None;
        idle.workers.drain(..).for_each(|seat| seat.stop());
    }
}

impl<J> IdleWorker<J> {
    /// Hands a job to the worker that rests here.
    fn send(&self, task: Task<J>) -> Result<(), Task<J>> {
        self.job_sender.try_send(task).map_err(|error| error.into_inner())?;
        self.thread.unpark();
        Ok(())
    }

    fn stop(&self) {
        self.should_exit.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn wait_for_job(&self) -> Option<Task<J>> {
        loop {
            match self.job_receiver.try_recv() {
                Ok(task) => return Some(task),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.should_exit.load(Ordering::Acquire) => {
                    return None;
                }
                Err(TryRecvError::Empty) => thread::park(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn pool(workers: usize, queue: usize) -> WorkerPool<Job> {
        WorkerPool::start("worker", workers, queue, |job: Job| job()).expect("threads")
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
        let admitted =
            (0..5).filter(|_| pool.try_submit(held(&started, &held_back)).is_ok()).count();
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
        assert!(pool.try_submit(held(&started, &held_back)).is_ok());
        assert!(pool.try_submit(held(&started, &held_back)).is_err());
        starts.recv().expect("the first runs");
        drop(release);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn a_panic_costs_no_worker() {
        let pool = pool(1, 4);
        let (sender, done) = bounded(1);
        assert!(pool.try_submit(Box::new(|| panic!("on purpose"))).is_ok());
        assert!(
            pool.try_submit(Box::new(move || sender.send(1).expect("the test listens"))).is_ok()
        );
        assert_eq!(done.recv(), Ok(1));
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn a_drain_gives_up_after_its_grace() {
        let pool = pool(1, 0);
        let (started, starts) = bounded(1);
        let (release, held_back) = bounded::<()>(0);
        assert!(pool.try_submit(held(&started, &held_back)).is_ok());
        starts.recv().expect("it runs");
        assert!(!pool.drain(Duration::ZERO));
        drop(release);
    }

    /// A job that lends its place until it is told to go on.
    fn lending(started: &Sender<()>, release: &Receiver<()>) -> Job {
        let job = held(started, release);
        Box::new(|| yield_slot(job))
    }

    #[test]
    fn places_that_are_lent_are_filled_and_given_back() {
        let pool = pool(2, 8);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        for _ in 0..4 {
            assert!(pool.try_submit(lending(&started, &held_back)).is_ok());
        }
        (0..2).for_each(|_| starts.recv().expect("two run"));
        assert_eq!(pool.queue_len(), 2);
        let relief = pool.overcommit();
        relief.update(0);
        assert_eq!(pool.queue_len(), 2, "nobody is stalled");
        // Each that is hired lends its place at once, and is followed by another.
        relief.update(2);
        (0..2).for_each(|_| starts.recv().expect("their places are filled"));
        let (done, ends) = bounded(1);
        assert!(
            pool.try_submit(Box::new(move || done.send(()).expect("the test listens"))).is_ok()
        );
        relief.update(4);
        ends.recv().expect("a job that waits for nobody runs");
        drop(release);
        drop(started);
        while pool.load() > 0 {
            thread::yield_now();
        }
        for _ in 0..8 {
            let (done, ends) = bounded(1);
            let job = move || done.send(()).expect("the test listens");
            assert!(pool.try_submit(Box::new(job)).is_ok());
            ends.recv().expect("it runs");
        }
        assert_eq!(pool.state.yielded_slots.load(Ordering::Acquire), 0);
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
                assert!(pool.try_submit(Box::new(job)).is_ok());
            }
            let names = (0..count).map(|_| names.recv().expect("it runs")).collect();
            drop(release);
            while pool.load() > 0 || lock(&pool.state.idle).workers.len() < count {
                thread::yield_now();
            }
            names
        };
        while lock(&pool.state.idle).workers.is_empty() {
            thread::yield_now();
        }
        for _ in 0..5 {
            assert_eq!(names(1), ["worker-0"]);
        }
        let mut three = names(3);
        three.sort();
        assert_eq!(three, ["worker-0", "worker-1", "worker-2"]);
        let last = lock(&pool.state.idle).workers.last().map(|seat| seat.thread.clone());
        let last = last.expect("three rest");
        assert_eq!(names(1), [last.name().unwrap_or_default()]);
        assert_eq!(pool.state.thread_count.load(Ordering::Acquire), 3);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn two_that_count_at_once_count_no_more_in_than_there_may_be() {
        let pool = pool(2, 8);
        let may_be = |alive| alive < 2;
        let second = std::cell::Cell::new(None);
        // The second one comes when the first has looked and not yet counted.
        let first = pool.state.reserve_thread(|alive| {
            if second.get().is_none() {
                second.set(Some(pool.state.reserve_thread(may_be)));
            }
            may_be(alive)
        });
        assert_eq!((first, second.get()), (false, Some(true)));
        assert_eq!(pool.state.thread_count.load(Ordering::Acquire), 2);
    }

    #[test]
    fn workers_end_with_their_pool() {
        let pool = pool(2, 2);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        for _ in 0..2 {
            assert!(pool.try_submit(held(&started, &held_back)).is_ok());
            starts.recv().expect("it runs");
        }
        let ended = pool.done.clone();
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
        assert!(pool.try_submit(lending(&started, &held_back)).is_ok());
        starts.recv().expect("it runs");
        let (done, ends) = bounded(1);
        let job = move || done.send(()).expect("the test listens");
        assert!(pool.try_submit(Box::new(job)).is_ok());
        pool.overcommit().update(1);
        ends.recv().expect("a spare one works");
        while lock(&pool.state.idle).workers.is_empty() {
            thread::yield_now();
        }
        assert_eq!(pool.state.thread_count.load(Ordering::Acquire), 2);
        drop(release);
        while pool.load() > 0 {
            thread::yield_now();
        }
        assert_eq!(pool.state.thread_count.load(Ordering::Acquire), 1);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn never_more_work_than_may() {
        let pool = pool(1, 8);
        let (started, starts) = bounded(8);
        let (release, held_back) = bounded::<()>(0);
        assert!(pool.try_submit(lending(&started, &held_back)).is_ok());
        starts.recv().expect("it runs");
        for _ in 0..2 {
            assert!(pool.try_submit(held(&started, &held_back)).is_ok());
        }
        let relief = pool.overcommit();
        relief.update(1);
        starts.recv().expect("its place is filled");
        relief.update(1);
        assert_eq!(pool.queue_len(), 1, "one works, and one has lent its place");
        drop(release);
        starts.recv().expect("the last follows");
        assert!(pool.drain(Duration::from_secs(60)));
    }
}
