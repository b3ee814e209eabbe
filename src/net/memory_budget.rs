//! One budget for the memory that requests, answers and kept state hold.
//!
//! Bytes are reserved before they are held, and returned when the [`Reservation`] is dropped. The thread that
//! handles a request carries the budget ([`MemoryBudget::scope`]), as it carries the request's cancellation,
//! so that code far below reserves from it ([`reserve`], [`hold`]); other threads reserve nothing. Where
//! memory is limited, the memory that is really in use is read, too, because the kernel ends the process by
//! that. Never waits for memory. Invariant: what is reserved never exceeds the limit.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::memory_pressure::MemoryPressure;
use crate::error::{Error, Result};

/// Bytes that are reserved between two readings of the memory in use.
const CHECK_BYTES: usize = 1024 * 1024;

/// Growing holders reserve in steps of this size. What is smaller is covered by the memory of a stream.
pub const STEP_BYTES: usize = 64 * 1024;

/// Frees so many bytes of what is only kept for later requests.
pub type Relief = Box<dyn Fn(usize) + Send + Sync>;

thread_local! {
    /// The budget of the request that this thread handles, and what the request holds until its end.
    static CURRENT: RefCell<Option<Reservation>> = const { RefCell::new(None) };
}

/// A number of bytes that many reservations share.
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    /// Bytes of bodies that are not whole yet.
    arriving: AtomicUsize,
    /// Bytes that were reserved since the memory in use was read.
    unchecked: AtomicUsize,
    pressure: Option<Arc<MemoryPressure>>,
    relief: OnceLock<Relief>,
}

/// A part of a [`MemoryBudget`], returned when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    /// `None` where nothing counts.
    budget: Option<Arc<MemoryBudget>>,
    bytes: usize,
    /// How many of them are of a body that is not whole yet.
    arriving: usize,
}

/// The budget does not allow a reservation to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// Other reservations hold too much at the moment.
    Exhausted,
    /// The reservation would exceed the whole budget, which is this many bytes.
    TooLarge(usize),
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget({} of {})", self.used(), self.limit)
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with_pressure(limit, None)
    }

    /// The same, that also looks at the memory in use.
    pub fn with_pressure(limit: usize, pressure: Option<Arc<MemoryPressure>>) -> Arc<Self> {
        let [used, arriving, unchecked] = [const { AtomicUsize::new(0) }; 3];
        Arc::new(Self { limit, used, arriving, unchecked, pressure, relief: OnceLock::new() })
    }

    /// Bytes that are reserved.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// The most bytes that may be reserved.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What is called before a reservation is refused for which other ones leave no room.
    pub fn set_relief(&self, relief: Relief) {
        let _ = self.relief.set(relief);
    }

    /// A reservation of 0 bytes.
    #[must_use]
    pub fn new_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Some(self.clone()), bytes: 0, arriving: 0 }
    }

    /// Runs `work` with this budget as the thread's current one. What was held for it ends with it.
    pub fn scope<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Restores the previous budget, also when `work` panics.
        struct Restore(Option<Reservation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                let ended = CURRENT.replace(self.0.take());
                drop(ended);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.new_reservation())));
        work()
    }

    fn take(&self, by: usize, own: usize) -> std::result::Result<(), BudgetExceeded> {
        if self.try_take(by) {
            return Ok(());
        }
        if own.saturating_add(by) > self.limit {
            return Err(BudgetExceeded::TooLarge(self.limit));
        }
        self.relief.get().iter().for_each(|relieve| relieve(by));
        if self.try_take(by) { Ok(()) } else { Err(BudgetExceeded::Exhausted) }
    }

    fn try_take(&self, by: usize) -> bool {
        let all = self.used.fetch_add(by, Ordering::AcqRel).saturating_add(by);
        let is_free = all <= self.limit && self.is_in_memory(by);
        if !is_free {
            self.used.fetch_sub(by, Ordering::AcqRel);
        }
        is_free
    }

    /// Whether the system has so many bytes; not asked for each of many small reservations.
    fn is_in_memory(&self, by: usize) -> bool {
        let Some(pressure) = &self.pressure else { return true };
        let unchecked = self.unchecked.fetch_add(by, Ordering::Relaxed).saturating_add(by);
        if unchecked < CHECK_BYTES {
            return true;
        }
        self.unchecked.store(0, Ordering::Relaxed);
        pressure.has_room_for(by)
    }
}

impl Reservation {
    /// The budget that it is a part of.
    pub fn budget(&self) -> Option<&Arc<MemoryBudget>> {
        self.budget.as_ref()
    }

    /// Bytes that are reserved.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `by` more bytes.
    ///
    /// # Errors
    /// [`BudgetExceeded`]; the reservation then stays as it is.
    pub fn grow(&mut self, by: usize) -> std::result::Result<(), BudgetExceeded> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.take(by, self.bytes))?;
        self.bytes += by;
        Ok(())
    }

    /// Reserves `by` more bytes of a body that arrives. All such bodies together get half of the budget, unless
    /// there is only one, so that those that are whole can be handled: otherwise many that arrive at once would
    /// keep each other from it.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_arriving(&mut self, by: usize) -> std::result::Result<(), BudgetExceeded> {
        let Some(budget) = self.budget.clone() else { return self.grow(by) };
        let all = budget.arriving.fetch_add(by, Ordering::AcqRel) + by;
        self.arriving += by;
        let is_alone = all == self.arriving;
        let grown = match all <= budget.limit / 2 || is_alone {
            true => self.grow(by),
            false => Err(BudgetExceeded::Exhausted),
        };
        if grown.is_err() {
            self.arriving -= by;
            budget.arriving.fetch_sub(by, Ordering::AcqRel);
        }
        grown
    }

    /// The body is whole, or is not read further.
    pub fn end_arriving(&mut self) {
        if let Some(budget) = &self.budget {
            budget.arriving.fetch_sub(std::mem::take(&mut self.arriving), Ordering::AcqRel);
        }
    }

    /// Makes it `bytes` large, if the budget has room without freeing anything for it.
    #[must_use]
    pub fn try_resize(&mut self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        if bytes > self.bytes && !budget.try_take(bytes - self.bytes) {
            return false;
        }
        budget.used.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::AcqRel);
        self.bytes = bytes;
        true
    }

    /// Makes it at least `bytes` large, in steps. For parts of an answer.
    ///
    /// # Errors
    /// [`Error::ResponseTooLarge`].
    pub fn cover(&mut self, bytes: usize) -> Result<()> {
        // What is smaller is part of the memory of a stream.
        if bytes <= self.bytes.max(STEP_BYTES) {
            return Ok(());
        }
        let by = (bytes - self.bytes).next_multiple_of(STEP_BYTES);
        self.grow(by).map_err(|_| Error::ResponseTooLarge)
    }

    /// The same for a request in another form.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub fn cover_request(&mut self, bytes: usize) -> Result<()> {
        self.cover(bytes).map_err(|_| Error::Busy)
    }

    /// Keeps it until the end of the thread's request.
    pub fn hold(mut self) {
        CURRENT.with_borrow_mut(|current| {
            if let Some(held) = current {
                held.bytes += std::mem::take(&mut self.bytes);
            }
        });
    }
}

/// What a table holds for later requests, as a part of the budget of those that fill it.
#[derive(Debug, Default)]
pub struct KeptBytes {
    /// `None` before the first request, and where nothing counts.
    reservation: Option<Reservation>,
}

impl KeptBytes {
    /// Counts `bytes`; `false` if the budget has no room for them, and what was counted before stays. Nothing is
    /// freed for them, because running requests need the memory more. A thread that handles no request has no
    /// budget.
    #[must_use]
    pub fn try_resize(&mut self, bytes: usize) -> bool {
        if self.reservation.is_none() {
            self.reservation = current().map(|budget| budget.new_reservation());
        }
        self.reservation.as_mut().is_none_or(|reservation| reservation.try_resize(bytes))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end_arriving();
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}

/// The budget of this thread's request; `None` without one.
pub fn current() -> Option<Arc<MemoryBudget>> {
    CURRENT.with_borrow(|current| current.as_ref()?.budget.clone())
}

/// A reservation of 0 bytes from the budget of this thread's request; without one, nothing counts.
pub fn reserve() -> Reservation {
    Reservation { budget: current(), bytes: 0, arriving: 0 }
}

/// Reserves bytes until the end of this thread's request.
///
/// # Errors
/// [`Error::ResponseTooLarge`].
pub fn hold(bytes: usize) -> Result<()> {
    let mut held = reserve();
    held.cover(bytes)?;
    held.hold();
    Ok(())
}

/// Runs `work` as a part of this thread's request: what is held for it ends with it.
pub fn part<T>(work: impl FnOnce() -> T) -> T {
    match current() {
        Some(budget) => budget.scope(work),
        None => work(),
    }
}

/// Makes `work` count for the request of the thread that called this, whichever thread runs it.
pub fn inherit<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let budget = current();
    move || match budget {
        Some(budget) => budget.scope(work),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::observe::lock::lock;

    #[test]
    fn a_budget_has_one_limit_for_all() {
        let budget = MemoryBudget::new(10);
        let (mut first, mut second) = (budget.new_reservation(), budget.new_reservation());
        assert_eq!((first.grow(6), second.grow(4)), (Ok(()), Ok(())));
        assert_eq!([first.grow(1), second.grow(1)], [Err(BudgetExceeded::Exhausted); 2]);
        assert_eq!(second.grow(7), Err(BudgetExceeded::TooLarge(10)));
        assert_eq!(format!("{budget:?}"), "MemoryBudget(10 of 10)");
        drop(first);
        assert_eq!((second.grow(6), second.grow(1)), (Ok(()), Err(BudgetExceeded::TooLarge(10))));
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bodies_that_arrive_together_leave_half_to_those_that_are_whole() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (budget.new_reservation(), budget.new_reservation());
        assert_eq!(first.grow_arriving(80), Ok(()), "the only one may take more");
        assert_eq!(second.grow_arriving(1), Err(BudgetExceeded::Exhausted));
        assert_eq!(first.grow_arriving(21), Err(BudgetExceeded::TooLarge(100)));
        drop(first);
        let mut first = budget.new_reservation();
        assert_eq!([first.grow_arriving(30), second.grow_arriving(20)], [Ok(()); 2]);
        assert_eq!(first.grow_arriving(1), Err(BudgetExceeded::Exhausted));
        second.end_arriving();
        assert_eq!((second.grow(40), first.grow_arriving(10)), (Ok(()), Ok(())));
        drop((first, second));
        assert_eq!((budget.used(), budget.arriving.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn what_is_kept_for_later_gives_way_once_and_only_to_what_can_fit() {
        let budget = MemoryBudget::new(10);
        let kept = Arc::new(std::sync::Mutex::new(Some(budget.new_reservation())));
        let asked = Arc::new(AtomicUsize::new(0));
        lock(&kept).as_mut().expect("kept").grow(8).expect("room");
        budget.set_relief(Box::new({
            let (kept, asked) = (kept.clone(), asked.clone());
            move |bytes| {
                asked.store(bytes, Ordering::Relaxed);
                lock(&kept).take();
            }
        }));
        let mut request = budget.new_reservation();
        assert_eq!(request.grow(11), Err(BudgetExceeded::TooLarge(10)));
        assert!(lock(&kept).is_some(), "nothing was freed in vain");
        assert_eq!((request.grow(5), asked.load(Ordering::Relaxed)), (Ok(()), 5));
        assert!(lock(&kept).is_none());
        assert_eq!(budget.new_reservation().grow(6), Err(BudgetExceeded::Exhausted));
    }

    #[test]
    fn a_kept_part_grows_only_where_there_is_room_and_shrinks_at_any_time() {
        let budget = MemoryBudget::new(10);
        let was_asked = Arc::new(AtomicBool::new(false));
        budget.set_relief(Box::new({
            let was_asked = was_asked.clone();
            move |_| was_asked.store(true, Ordering::Relaxed)
        }));
        let mut kept = budget.new_reservation();
        assert!(kept.try_resize(8) && !kept.try_resize(11));
        assert_eq!((kept.bytes(), budget.used()), (8, 8));
        assert!(kept.try_resize(3) && budget.used() == 3);
        assert!(!was_asked.load(Ordering::Relaxed), "it must not free itself");
    }

    #[test]
    fn what_a_table_keeps_counts_behind_the_request_that_filled_it() {
        let budget = MemoryBudget::new(10);
        let mut kept = KeptBytes::default();
        assert!(kept.try_resize(usize::MAX), "of no request");
        let mut kept = budget.scope(|| {
            assert!(kept.try_resize(6) && !kept.try_resize(11));
            kept
        });
        assert_eq!(budget.used(), 6);
        assert!(kept.try_resize(2) && budget.used() == 2);
        drop(kept);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_thread_reserves_for_its_request_and_returns_all_at_its_end() {
        let budget = MemoryBudget::new(4 * STEP_BYTES);
        assert!(current().is_none() && hold(usize::MAX / 2).is_ok(), "nothing counts without one");
        budget.scope(|| {
            hold(STEP_BYTES).expect("small");
            assert_eq!(budget.used(), 0, "what is small does not count");
            hold(STEP_BYTES + 1).expect("room");
            assert_eq!(budget.used(), 2 * STEP_BYTES);
            let mut growing = reserve();
            growing.cover(STEP_BYTES + 1).expect("room");
            growing.cover(2 * STEP_BYTES).expect("already there");
            assert_eq!(budget.used(), 4 * STEP_BYTES);
            assert_eq!(growing.cover(2 * STEP_BYTES + 1), Err(Error::ResponseTooLarge));
            drop(growing);
            let use_some = || {
                hold(2 * STEP_BYTES).expect("room");
                current().map(|budget| budget.used())
            };
            assert_eq!(part(use_some), Some(4 * STEP_BYTES));
            let elsewhere = std::thread::spawn(inherit(use_some));
            assert_eq!(elsewhere.join().expect("no panic"), Some(4 * STEP_BYTES));
            assert_eq!(budget.used(), 2 * STEP_BYTES, "both parts have ended");
        });
        assert!(budget.used() == 0 && current().is_none());
        let fail = || {
            budget.scope(|| {
                hold(2 * STEP_BYTES).expect("room");
                panic!("on purpose")
            })
        };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fail));
        assert!(panicked.is_err() && budget.used() == 0 && current().is_none());
    }
}
