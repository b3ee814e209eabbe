//! A fixed number of named threads taking jobs from a bounded queue.
//!
//! Knows nothing of HTTP: a job is a value, and what is done with it is a function given at the start.
//! A job that panics is logged and its worker lives on. Jobs are admitted by
//! an exact count of those running and waiting, because a channel alone would refuse a job while a
//! worker is just about to take one. [`Pool::drain`] closes the queue and waits for what is left.
//!
//! A job goes to the worker that began to rest last, whose memory is warm, through a channel of its
//! own; only when none rests does it wait in the queue. Threads are started when they are needed first,
//! so that a quiet process is a small one. A resting worker is parked: crossbeam's own blocking receive
//! would call `sched_yield` some times before, which costs two busy cores a seventh of their time.
//!
//! A job that waits for somebody slow lends its place ([`lend`]). Lent places are filled only when
//! they have to be: when [`Relief::look`] is told that many wait and jobs are queued, spare workers
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
    static CREW: RefCell<Option<Arc<dyn Places>>> = const { RefCell::new(None) };
}

/// The workers and their queue.
pub struct Pool<J> {
    /// Closed when the last worker has ended.
    ended: Receiver<()>,
    load: Arc<AtomicUsize>,
    capacity: usize,
    crew: Arc<Crew<J>>,
}

/// The pool is full; the job comes back.
#[derive(Debug)]
pub struct Full<J>(pub J);

/// Counts a job as long as it waits or runs, however it ends.
struct Admission(Arc<AtomicUsize>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A job that was admitted.
type Task<J> = (J, Admission);

/// The workers of one pool.
struct Crew<J> {
    name: &'static str,
    work: Box<dyn Fn(J) + Send + Sync>,
    /// How many work at once.
    workers: usize,
    /// How many there may be with the spare ones.
    most: usize,
    alive: AtomicUsize,
    /// How many were hired so far.
    hired: AtomicUsize,
    /// How many have lent their place.
    lent: AtomicUsize,
    /// Whether a place that is lent is filled at once.
    eager: AtomicBool,
    queue: (Sender<Task<J>>, Receiver<Task<J>>),
    rest: Mutex<Rest<J>>,
}

/// Who rests. Its lock orders those who bring a job and those who look for one.
struct Rest<J> {
    /// The one that began last is the last.
    seats: Vec<Arc<Seat<J>>>,
    /// Each worker has a copy; `None` once the pool is closed.
    alive: Option<Sender<()>>,
}

/// Where a worker rests, and is handed its next job.
struct Seat<J> {
    hand: Sender<Task<J>>,
    given: Receiver<Task<J>>,
    thread: Thread,
    dismissed: AtomicBool,
}

impl<J: Send + 'static> Pool<J> {
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
        let (alive, ended) = bounded::<()>(0);
        let crew = Arc::new(Crew {
            name,
            work: Box::new(work),
            workers,
            most: capacity,
            alive: AtomicUsize::new(1),
            hired: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            eager: AtomicBool::new(false),
            queue: bounded(capacity),
            rest: Mutex::new(Rest { seats: Vec::new(), alive: Some(alive) }),
        });
        crew.start()?;
        Ok(Self { ended, load: Arc::default(), capacity, crew })
    }

    /// Hands a job to the workers without waiting.
    ///
    /// # Errors
    /// [`Full`] with the job when as many are running and waiting as may be.
    pub fn try_submit(&self, job: J) -> Result<(), Full<J>> {
        if self.load.fetch_add(1, Ordering::AcqRel) >= self.capacity {
            self.load.fetch_sub(1, Ordering::AcqRel);
            return Err(Full(job));
        }
        let admission = Admission(self.load.clone());
        self.crew.give((job, admission)).map_err(|(job, _)| Full(job))
    }

    /// Jobs that are running or waiting.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Acquire)
    }

    /// Jobs that are waiting.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.crew.queue.1.len()
    }

    /// What fills the places that were lent.
    #[must_use]
    pub fn relief(&self) -> Relief {
        Relief(self.crew.clone())
    }

    /// Closes the queue and waits for running and waiting jobs; `false` when they are not done in
    /// time.
    #[must_use]
    pub fn drain(self, grace: Duration) -> bool {
        self.crew.close();
        self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }
}

impl<J> Drop for Pool<J> {
    fn drop(&mut self) {
        self.crew.close();
    }
}

/// Fills the places that were lent.
pub struct Relief(Arc<dyn Places>);

impl Relief {
    /// To be told again and again how many jobs wait for somebody slow: where they are half of the
    /// workers or more, their places are filled.
    pub fn look(&self, stalled: usize) {
        self.0.clone().look(stalled);
    }
}

/// Waits for somebody slow in `wait`, meanwhile lending this worker's place to others. On a thread
/// that is no worker it only waits.
pub fn lend<T>(wait: impl FnOnce() -> T) -> T {
    /// Takes the place back, also when `wait` panics.
    struct Back(Arc<dyn Places>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.take_back();
        }
    }
    let crew = CREW.with_borrow(Clone::clone);
    let _back = crew.map(|crew| {
        crew.clone().lend();
        Back(crew)
    });
    wait()
}

/// What a worker, and the relief, may do with places.
trait Places: Send + Sync {
    fn lend(self: Arc<Self>);
    fn take_back(&self);
    fn look(self: Arc<Self>, stalled: usize);
}

impl<J: Send + 'static> Places for Crew<J> {
    fn lend(self: Arc<Self>) {
        self.lent.fetch_add(1, Ordering::AcqRel);
        if self.eager.load(Ordering::Acquire) {
            self.fill();
        }
    }

    fn take_back(&self) {
        self.lent.fetch_sub(1, Ordering::AcqRel);
        // One that rests and is too many now would never find out.
        let mut rest = lock(&self.rest);
        if !rest.seats.is_empty() && self.is_too_many() {
            rest.seats.swap_remove(0).dismiss();
        }
    }

    fn look(self: Arc<Self>, stalled: usize) {
        let eager = stalled > 0 && stalled * 2 >= self.workers;
        self.eager.store(eager, Ordering::Release);
        if eager {
            self.fill();
        }
    }
}

impl<J: Send + 'static> Crew<J> {
    /// Gives a job to a worker that rests, or lets it wait; hires where there may be more.
    fn give(self: &Arc<Self>, task: Task<J>) -> Result<(), Task<J>> {
        let mut rest = lock(&self.rest);
        if let Some(seat) = rest.seats.pop() {
            drop(rest);
            return seat.take(task);
        }
        self.queue.0.try_send(task).map_err(|error| error.into_inner())?;
        drop(rest);
        if self.count_one_in(|alive| alive < self.workers)
            && let Err(error) = self.hire()
        {
            log::warn!("one more worker could not be started: {error}");
        }
        Ok(())
    }

    /// Starts the thread of a worker that was counted in, or counts it out again.
    fn hire(self: &Arc<Self>) -> io::Result<()> {
        self.start().inspect_err(|_| {
            self.alive.fetch_sub(1, Ordering::AcqRel);
        })
    }

    fn start(self: &Arc<Self>) -> io::Result<()> {
        let Some(alive) = lock(&self.rest).alive.clone() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let name = format!("{}-{}", self.name, self.hired.fetch_add(1, Ordering::Relaxed));
        let crew = self.clone();
        let serve = move || {
            let _alive: Sender<()> = alive;
            CREW.set(Some(crew.clone()));
            crew.serve();
            // A thread's own values outlive its last job.
            CREW.set(None);
        };
        thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(serve).map(drop)
    }

    /// What a worker does.
    fn serve(&self) {
        let (hand, given) = bounded(1);
        let (thread, dismissed) = (thread::current(), AtomicBool::new(false));
        let seat = Arc::new(Seat { hand, given, thread, dismissed });
        while let Some((job, _admission)) = self.next(&seat) {
            if panic::catch_unwind(AssertUnwindSafe(|| (self.work)(job))).is_err() {
                log::error!("a job panicked; its worker goes on");
            }
            if self.is_too_many() {
                return;
            }
        }
    }

    /// The next job, for which it rests where none waits; `None` when it is to end.
    fn next(&self, seat: &Arc<Seat<J>>) -> Option<Task<J>> {
        let mut rest = lock(&self.rest);
        match self.queue.1.try_recv() {
            Ok(task) => return Some(task),
            Err(_) if rest.alive.is_none() => return None,
            Err(_) => rest.seats.push(seat.clone()),
        }
        drop(rest);
        seat.wait()
    }

    /// Hires until no job waits, or as many work as may.
    fn fill(self: &Arc<Self>) {
        let mut left = self.queue.1.len();
        let may_be = |alive: usize| alive < self.most && self.active(alive) < self.workers;
        while left > 0 && self.count_one_in(may_be) && self.hire().is_ok() {
            left -= 1;
        }
    }

    /// How many work where `alive` are there: those that have lent their place do not.
    fn active(&self, alive: usize) -> usize {
        alive.saturating_sub(self.lent.load(Ordering::Acquire))
    }

    /// Counts one more worker in where there may be one. To look first and to count then would let
    /// two at once count in one too many.
    fn count_one_in(&self, may_be: impl Fn(usize) -> bool) -> bool {
        let more = |alive| may_be(alive).then_some(alive + 1);
        self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Whether a worker that has nothing in hand has to go; it is counted out then.
    fn is_too_many(&self) -> bool {
        let fewer = |alive| (self.active(alive) > self.workers).then(|| alive - 1);
        self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }
}

impl<J> Crew<J> {
    /// Lets all workers end once no job waits.
    fn close(&self) {
        let mut rest = lock(&self.rest);
        rest.alive = None;
        rest.seats.drain(..).for_each(|seat| seat.dismiss());
    }
}

impl<J> Seat<J> {
    /// Hands a job to the worker that rests here.
    fn take(&self, task: Task<J>) -> Result<(), Task<J>> {
        self.hand.try_send(task).map_err(|error| error.into_inner())?;
        self.thread.unpark();
        Ok(())
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn wait(&self) -> Option<Task<J>> {
        loop {
            match self.given.try_recv() {
                Ok(task) => return Some(task),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.dismissed.load(Ordering::Acquire) => return None,
                Err(TryRecvError::Empty) => thread::park(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn pool(workers: usize, queue: usize) -> Pool<Job> {
        Pool::start("worker", workers, queue, |job: Job| job()).expect("threads")
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
        Box::new(|| lend(job))
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
        assert_eq!(pool.queued(), 2);
        let relief = pool.relief();
        relief.look(0);
        assert_eq!(pool.queued(), 2, "nobody is stalled");
        // Each that is hired lends its place at once, and is followed by another.
        relief.look(2);
        (0..2).for_each(|_| starts.recv().expect("their places are filled"));
        let (done, ends) = bounded(1);
        assert!(
            pool.try_submit(Box::new(move || done.send(()).expect("the test listens"))).is_ok()
        );
        relief.look(4);
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
        assert_eq!(pool.crew.lent.load(Ordering::Acquire), 0);
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
            while pool.load() > 0 || lock(&pool.crew.rest).seats.len() < count {
                thread::yield_now();
            }
            names
        };
        while lock(&pool.crew.rest).seats.is_empty() {
            thread::yield_now();
        }
        for _ in 0..5 {
            assert_eq!(names(1), ["worker-0"]);
        }
        let mut three = names(3);
        three.sort();
        assert_eq!(three, ["worker-0", "worker-1", "worker-2"]);
        let last = lock(&pool.crew.rest).seats.last().map(|seat| seat.thread.clone());
        let last = last.expect("three rest");
        assert_eq!(names(1), [last.name().unwrap_or_default()]);
        assert_eq!(pool.crew.alive.load(Ordering::Acquire), 3);
        assert!(pool.drain(Duration::from_secs(60)));
    }

    #[test]
    fn two_that_count_at_once_count_no_more_in_than_there_may_be() {
        let pool = pool(2, 8);
        let may_be = |alive| alive < 2;
        let second = std::cell::Cell::new(None);
        // The second one comes when the first has looked and not yet counted.
        let first = pool.crew.count_one_in(|alive| {
            if second.get().is_none() {
                second.set(Some(pool.crew.count_one_in(may_be)));
            }
            may_be(alive)
        });
        assert_eq!((first, second.get()), (false, Some(true)));
        assert_eq!(pool.crew.alive.load(Ordering::Acquire), 2);
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
        let ended = pool.ended.clone();
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
        pool.relief().look(1);
        ends.recv().expect("a spare one works");
        while lock(&pool.crew.rest).seats.is_empty() {
            thread::yield_now();
        }
        assert_eq!(pool.crew.alive.load(Ordering::Acquire), 2);
        drop(release);
        while pool.load() > 0 {
            thread::yield_now();
        }
        assert_eq!(pool.crew.alive.load(Ordering::Acquire), 1);
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
        let relief = pool.relief();
        relief.look(1);
        starts.recv().expect("its place is filled");
        relief.look(1);
        assert_eq!(pool.queued(), 1, "one works, and one has lent its place");
        drop(release);
        starts.recv().expect("the last follows");
        assert!(pool.drain(Duration::from_secs(60)));
    }
}
