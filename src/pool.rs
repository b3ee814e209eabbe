//! A fixed number of named threads taking jobs from a bounded queue.
//!
//! Knows nothing of HTTP: a job is a value, and what is done with it is a function given at the start.
//! A job that panics is logged and its worker lives on. Jobs are admitted by
//! an exact count of those running and waiting, because a channel alone would refuse a job while a
//! worker is just about to take one. [`Pool::drain`] closes the queue and waits for what is left.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// Bytes of stack for each worker: ample for TLS and nested JSON; only touched pages cost memory.
const STACK_BYTES: usize = 512 * 1024;

/// The workers and their queue.
pub struct Pool<J> {
    jobs: Sender<(J, Admission)>,
    /// Closed when the last worker has ended.
    ended: Receiver<()>,
    load: Arc<AtomicUsize>,
    capacity: usize,
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

impl<J: Send + 'static> Pool<J> {
    /// Starts `workers` threads that do `work`, with room for `queue` waiting jobs beyond them.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(
        workers: usize,
        queue: usize,
        work: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let capacity = workers + queue;
        let (jobs, receiver) = bounded(capacity);
        let (alive, ended) = bounded(0);
        let work = Arc::new(work);
        for number in 0..workers {
            let (receiver, work, alive) = (receiver.clone(), work.clone(), alive.clone());
            thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK_BYTES).spawn(
                move || {
                    let _alive: Sender<()> = alive;
                    serve(&receiver, &*work);
                },
            )?;
        }
        Ok(Self { jobs, ended, load: Arc::default(), capacity })
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

    /// Closes the queue and waits for running and waiting jobs; `false` when they are not done in
    /// time.
    #[must_use]
    pub fn drain(self, grace: Duration) -> bool {
        drop(self.jobs);
        self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }
}

fn serve<J>(jobs: &Receiver<(J, Admission)>, work: &(dyn Fn(J) + Send + Sync)) {
    for (job, _admission) in jobs {
        if panic::catch_unwind(AssertUnwindSafe(|| work(job))).is_err() {
            log::error!("a job panicked; its worker goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Job = Box<dyn FnOnce() + Send>;

    fn pool(workers: usize, queue: usize) -> Pool<Job> {
        Pool::start(workers, queue, |job: Job| job()).expect("threads")
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
}
