//! A fixed number of named threads taking jobs from a bounded queue.
//!
//! Knows nothing of HTTP: a job is a value, and what is done with it is a function given at the start.
//! A job that panics is logged and its worker lives on. Jobs are admitted by
//! an exact count of those running and waiting, because a channel alone would refuse a job while a
//! worker is just about to take one. [`Pool::drain`] closes the queue and waits for what is left.
//!
//! A job that waits for somebody slow lends its place ([`lend`]). Lent places are filled only when
//! they have to be: when [`Relief::look`] is told that many wait and jobs are queued, spare workers
//! are hired, and go once those whose places they took are back.
//! Invariant: never more than the fixed number of jobs run that have not lent their place.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// Bytes of stack for each worker: ample for TLS and nested JSON; only touched pages cost memory.
const STACK_BYTES: usize = 512 * 1024;

thread_local! {
    /// Those with whom this thread works.
    static CREW: RefCell<Option<Arc<Crew>>> = const { RefCell::new(None) };
}

/// The workers and their queue.
pub struct Pool<J> {
    jobs: Sender<(J, Admission)>,
    /// Closed when the last worker has ended.
    ended: Receiver<()>,
    load: Arc<AtomicUsize>,
    capacity: usize,
    crew: Arc<Crew>,
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

/// Hires one more worker for a crew.
type Hire = Box<dyn Fn(&Arc<Crew>) -> io::Result<()> + Send>;

/// The workers of one pool.
struct Crew {
    name: &'static str,
    /// How many work at once.
    workers: usize,
    /// How many there may be with the spare ones.
    most: usize,
    alive: AtomicUsize,
    /// How many have lent their place.
    lent: AtomicUsize,
    /// Whether a place that is lent is filled at once.
    eager: AtomicBool,
    /// How many jobs wait.
    waiting: Box<dyn Fn() -> usize + Send + Sync>,
    /// `None` once the queue is closed.
    hire: Mutex<Option<Hire>>,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts `workers` threads that do `work`, with room for `queue` waiting jobs beyond them. They
    /// are named after `name`. Where the system gives fewer threads, those have to do.
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
        let (jobs, receiver) = bounded::<(J, Admission)>(capacity);
        let (alive, ended) = bounded::<()>(0);
        let (work, queued) = (Arc::new(work), receiver.clone());
        let hire: Hire = Box::new(move |crew| {
            let (receiver, work, alive) = (receiver.clone(), work.clone(), alive.clone());
            let (crew, number) = (crew.clone(), crew.alive.load(Ordering::Relaxed) - 1);
            let name = format!("{}-{number}", crew.name);
            let serve = move || {
                let _alive: Sender<()> = alive;
                CREW.set(Some(crew.clone()));
                serve(&receiver, &*work, &crew);
                // A thread's own values outlive its last job.
                CREW.set(None);
            };
            thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(serve).map(drop)
        });
        let crew = Arc::new(Crew {
            name,
            workers,
            most: capacity,
            alive: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            eager: AtomicBool::new(false),
            waiting: Box::new(move || queued.len()),
            hire: Mutex::new(Some(hire)),
        });
        for number in 0..workers {
            match crew.hire() {
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    log::warn!("only {number} of {workers} workers could be started: {error}");
                    break;
                }
                Ok(()) => {}
            }
        }
        Ok(Self { jobs, ended, load: Arc::default(), capacity, crew })
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
        self.jobs.try_send((job, admission)).map_err(|error| Full(error.into_inner().0))
    }

    /// Jobs that are running or waiting.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Acquire)
    }

    /// Jobs that are waiting.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.jobs.len()
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
        drop(self.jobs);
        self.crew.close();
        self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Fills the places that were lent.
pub struct Relief(Arc<Crew>);

impl Relief {
    /// To be told again and again how many jobs wait for somebody slow: where they are half of the
    /// workers or more, their places are filled.
    pub fn look(&self, stalled: usize) {
        let eager = stalled > 0 && stalled * 2 >= self.0.workers;
        self.0.eager.store(eager, Ordering::Release);
        if eager {
            self.0.fill();
        }
    }
}

/// Waits for somebody slow in `wait`, meanwhile lending this worker's place to others. On a thread
/// that is no worker it only waits.
pub fn lend<T>(wait: impl FnOnce() -> T) -> T {
    /// Takes the place back, also when `wait` panics.
    struct Back(Arc<Crew>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.lent.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let crew = CREW.with_borrow(Clone::clone);
    let _back = crew.map(|crew| {
        crew.lent.fetch_add(1, Ordering::AcqRel);
        let back = Back(crew);
        if back.0.eager.load(Ordering::Acquire) {
            back.0.fill();
        }
        back
    });
    wait()
}

impl Crew {
    fn hire(self: &Arc<Self>) -> io::Result<()> {
        let hire = self.hire.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hire) = &*hire else { return Err(io::ErrorKind::NotConnected.into()) };
        self.alive.fetch_add(1, Ordering::AcqRel);
        hire(self).inspect_err(|_| {
            self.alive.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Hires until no job waits, or as many work as may.
    fn fill(self: &Arc<Self>) {
        let mut left = (self.waiting)();
        while left > 0 && self.active() < self.workers {
            if self.alive.load(Ordering::Acquire) >= self.most || self.hire().is_err() {
                return;
            }
            left -= 1;
        }
    }

    fn active(&self) -> usize {
        let lent = self.lent.load(Ordering::Acquire);
        self.alive.load(Ordering::Acquire).saturating_sub(lent)
    }

    /// Whether a worker that has nothing in hand has to go; it is counted out then.
    fn is_too_many(&self) -> bool {
        let lent = self.lent.load(Ordering::Acquire);
        let fewer = |alive: usize| (alive.saturating_sub(lent) > self.workers).then(|| alive - 1);
        self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    fn close(&self) {
        *self.hire.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn serve<J>(jobs: &Receiver<(J, Admission)>, work: &(dyn Fn(J) + Send + Sync), crew: &Crew) {
    for (job, _admission) in jobs {
        if panic::catch_unwind(AssertUnwindSafe(|| work(job))).is_err() {
            log::error!("a job panicked; its worker goes on");
        }
        if crew.is_too_many() {
            return;
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
        assert_eq!(relief.0.lent.load(Ordering::Acquire), 0);
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
