//! The one sign that the program is to end.
//!
//! A [`Shutdown`] is cloned to whoever waits: a sleep under it ends early when the sign is given. The
//! sign is a channel that nobody ever sends on; giving it closes the channel.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::observe::lock::lock;

/// A sign that can be given once and seen by everybody.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: Arc<Mutex<Option<Sender<()>>>>,
    receiver: Receiver<()>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Self { sender: Arc::new(Mutex::new(Some(sender))), receiver }
    }
}

impl Shutdown {
    /// Gives the sign.
    pub fn trigger(&self) {
        lock(&self.sender).take();
    }

    /// Whether it was given.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.receiver.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Sleeps; `false` when the sign came first.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        self.receiver.recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
    }

    /// Waits for the sign.
    pub fn wait(&self) {
        let _ = self.receiver.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_when_the_sign_is_given() {
        let stop = Shutdown::default();
        assert!(!stop.is_triggered());
        assert!(stop.sleep(Duration::ZERO));
        let sleeper = std::thread::spawn({
            let stop = stop.clone();
            move || stop.sleep(Duration::from_secs(600))
        });
        stop.trigger();
        stop.trigger();
        assert!(!sleeper.join().expect("no panic"));
        assert!(stop.is_triggered() && !stop.sleep(Duration::from_secs(600)));
        stop.wait();
    }
}
