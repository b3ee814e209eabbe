//! Cancellation of a request whose client has disconnected.
//!
//! Each request has a [`CancellationToken`]. The thread that handles the request carries it
//! ([`CancellationToken::scope`]), so that code that waits for the upstream on that thread can register
//! a [`Hook`] that ends the wait. Knows nothing of HTTP or sockets.
//! Invariant: a hook is called only between its registration and its removal, because the connection
//! that it ends may serve another request afterwards.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::observe::lock::lock;

/// How often a wait that no hook ends looks whether its request is cancelled.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Ends a wait. It must not block.
pub type Hook = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// The token of the request that this thread handles.
    static CURRENT: RefCell<Option<Arc<CancellationToken>>> = const { RefCell::new(None) };
}

/// Tells whether one request is cancelled.
#[derive(Default)]
pub struct CancellationToken {
    id: u64,
    cancelled: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl CancellationToken {
    /// A token that is not cancelled.
    pub fn new() -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Self { id, ..Self::default() })
    }

    /// A number that no other token of this process has; never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Cancels the request and calls the registered hook. May be called more than once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        // Called under the lock, so that `unregister` waits until the hook has returned.
        if let Some(hook) = &*lock(&self.hook) {
            hook();
        }
    }

    /// Whether the request is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Registers the hook in place of any other, and calls it at once if the request is cancelled.
    pub fn register(&self, hook: &Hook) {
        let mut held = lock(&self.hook);
        *held = Some(hook.clone());
        if self.is_cancelled() {
            hook();
        }
    }

    /// Removes the hook.
    pub fn unregister(&self) {
        *lock(&self.hook) = None;
    }

    /// Runs `work` with this token as the thread's current one.
    pub fn scope<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Restores the previous token, also when `work` panics, and removes the hook of this one.
        struct Restore(Option<Arc<CancellationToken>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                let ended = CURRENT.replace(self.0.take());
                if let Some(ended) = ended {
                    ended.unregister();
                }
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }
}

/// Whether this thread's request is cancelled; `false` without a request.
pub fn is_cancelled() -> bool {
    with_current(CancellationToken::is_cancelled).unwrap_or(false)
}

/// Calls `ask` with the token of this thread's request; `None` without a request.
pub fn with_current<T>(ask: impl FnOnce(&CancellationToken) -> T) -> Option<T> {
    CURRENT.with_borrow(|current| current.as_deref().map(ask))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counter() -> (Arc<AtomicUsize>, Hook) {
        let count = Arc::new(AtomicUsize::new(0));
        let hook: Hook = Arc::new({
            let count = count.clone();
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        (count, hook)
    }

    #[test]
    fn what_is_held_is_ended_by_the_sign_and_by_a_sign_that_came_before() {
        let (count, hook) = counter();
        let cancel = CancellationToken::new();
        cancel.register(&hook);
        assert_eq!((count.load(Ordering::SeqCst), cancel.is_cancelled()), (0, false));
        cancel.cancel();
        assert_eq!((count.load(Ordering::SeqCst), cancel.is_cancelled()), (1, true));
        cancel.register(&hook);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_was_released_is_left_alone() {
        let (count, hook) = counter();
        let cancel = CancellationToken::new();
        cancel.register(&hook);
        cancel.unregister();
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_thread_works_for_one_request_at_a_time_and_lets_go_at_its_end() {
        let (count, hook) = counter();
        let (outer, inner) = (CancellationToken::new(), CancellationToken::new());
        assert!(
            outer.id() != inner.id()
                && with_current(CancellationToken::id).is_none()
                && !is_cancelled()
        );
        outer.scope(|| {
            outer.register(&hook);
            inner.scope(|| {
                assert_eq!(with_current(CancellationToken::id), Some(inner.id()));
                inner.cancel();
                assert!(is_cancelled());
            });
            assert_eq!(with_current(CancellationToken::id), Some(outer.id()));
            assert!(!is_cancelled());
        });
        outer.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 0, "its work has ended");
        let panicked = std::panic::catch_unwind(|| inner.scope(|| panic!("on purpose")));
        assert!(panicked.is_err() && with_current(CancellationToken::id).is_none());
    }
}
