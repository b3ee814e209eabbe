//! The signal to shut down, which all threads share.
//!
//! Clones of one [`Shutdown`] share the signal; it ends their sleeps early. Never reset. Invariant:
//! nothing is sent on the channel; triggering disconnects it, which wakes all receivers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};

use crate::observe::lock::lock;

/// A signal that is triggered once and seen by all clones.
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
    /// Triggers the signal.
    pub fn trigger(&self) {
        lock(&self.sender).take();
    }

    /// True once the signal was triggered.
    pub fn is_triggered(&self) -> bool {
        self.receiver.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Sleeps; `false` if the signal ended the sleep.
    pub fn sleep(&self, duration: Duration) -> bool {
        self.receiver.recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
    }

    /// Waits for the signal.
    pub fn wait(&self) {
        let _ = self.receiver.recv();
    }

    /// Waits for the signal or a message; `true` for a message.
    pub fn wait_or(&self, messages: &Receiver<()>) -> bool {
        select! {
            recv(self.receiver) -> _ => false,
            // Without a sender no message comes any more.
            recv(messages) -> message => message.is_ok() || { self.wait(); false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_at_the_signal() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.is_triggered());
        assert!(shutdown.sleep(Duration::ZERO));
        let sleeper = std::thread::spawn({
            let shutdown = shutdown.clone();
            move || shutdown.sleep(Duration::from_secs(600))
        });
        shutdown.trigger();
        shutdown.trigger();
        assert!(!sleeper.join().expect("no panic"));
        assert!(shutdown.is_triggered() && !shutdown.sleep(Duration::from_secs(600)));
        shutdown.wait();
    }

    #[test]
    fn a_message_ends_a_wait_and_so_does_the_signal() {
        let (sender, messages) = bounded(1);
        let shutdown = Shutdown::default();
        sender.send(()).expect("a receiver");
        assert!(shutdown.wait_or(&messages));
        shutdown.trigger();
        assert!(!shutdown.wait_or(&messages));
        drop(sender);
        assert!(!shutdown.wait_or(&messages));
    }
}
