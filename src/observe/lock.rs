//! Locking what a panic leaves whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The data of a mutex that no code leaves half changed, also after a panic under it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
