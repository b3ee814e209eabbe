//! One tiny_http server on the shared socket, with the thread that receives from it.
//!
//! The receiver builds the server, so that the accept thread and the pool threads inherit its unique
//! thread name, by which they are found later. A generation whose accept thread has ended still
//! receives from its open connections and never accepts again. Connections that remain in its queue
//! wait until one of its connections closes, because no nudge reaches them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiny_http::Server;

use super::Shared;
use super::proc_stats;
use crate::net::sys::ACCEPTOR_THREADS;

/// Longest wait of [`Generation::shutdown`] for a receiver that is delivering a request.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads of a generation: receiver, accept thread, and the minimum of tiny_http's pool.
pub(super) const THREADS_PER_GENERATION: usize = 6;

/// One server and its receiver.
pub(super) struct Generation {
    /// Name of all its threads; at most 15 bytes, which Linux keeps.
    name: String,
    server: Arc<Server>,
    state: Arc<State>,
    receiver: JoinHandle<()>,
}

/// What a generation and its receiver share.
#[derive(Default)]
struct State {
    stopping: AtomicBool,
    /// The error that ended the accept thread.
    accept_error: OnceLock<String>,
}

impl Generation {
    /// Starts a server on the shared socket, and the thread that receives from it.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Generation> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{ACCEPTOR_THREADS}{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let listener = shared.clone_listener()?;
        let state = Arc::<State>::default();
        let (ready, started) = crossbeam_channel::bounded(1);
        let receiver = thread::Builder::new().name(name.clone()).spawn({
            let (shared, state) = (Arc::clone(shared), Arc::clone(&state));
            move || match Server::from_listener(listener, None) {
                Ok(server) => {
                    let server = Arc::new(server);
                    // `start` waits for this message, so the send cannot fail.
                    let _ = ready.send(Ok(Arc::clone(&server)));
                    receive_loop(&shared, &server, &state);
                }
                Err(error) => {
                    let _ = ready.send(Err(io::Error::other(error)));
                }
            }
        })?;
        let server =
            started.recv().map_err(|_| io::Error::other("cannot start an accept thread"))??;
        Ok(Generation { name, server, state, receiver })
    }

    /// The error that ended the accept thread, once it has.
    pub(super) fn accept_error(&self) -> Option<&str> {
        self.state.accept_error.get().map(String::as_str)
    }

    /// Whether no connection can be open, because only the receiver is left of the threads. `false` if
    /// threads cannot be listed.
    pub(super) fn is_unused(&self, proc_root: &Path) -> bool {
        self.listed_threads(proc_root) == Some(1)
    }

    /// Whether a list of the threads shows those that the current generation certainly has: its receiver
    /// and its accept thread.
    pub(super) fn is_listed(&self, proc_root: &Path) -> bool {
        self.listed_threads(proc_root) >= Some(2)
    }

    fn listed_threads(&self, proc_root: &Path) -> Option<usize> {
        proc_stats::count_threads(proc_root, &self.name)
    }

    /// Ends the receiver after it has delivered all received requests. Dropping the server then ends its
    /// accept thread, if that still runs, and leaves connections open.
    pub(super) fn shutdown(self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        self.server.unblock();
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while !self.receiver.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Delivers requests until the generation is shut down.
fn receive_loop(shared: &Shared, server: &Server, state: &State) {
    loop {
        match server.recv() {
            Ok(request) => {
                shared.note(&shared.request_noted);
                if catch_unwind(AssertUnwindSafe(|| (shared.on_request)(request))).is_err() {
                    log::error!("a request was answered 500: queueing it panicked");
                }
            }
            Err(_) if state.stopping.load(Ordering::SeqCst) => return,
            // Shutting the socket down ends the accept thread: nothing to report.
            Err(_) if shared.is_closing() => {}
            Err(error) => {
                state.accept_error.get_or_init(|| error.to_string());
                shared.wake();
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_found_by_the_names_of_its_threads() {
        let shared = Shared::for_tests();
        let generation = Generation::start(&shared).expect("started");
        let proc_root = Path::new("/proc");
        // Its accept thread runs until the socket is shut down.
        assert!(generation.is_listed(proc_root) && !generation.is_unused(proc_root));
        for silent in [Path::new("/nonexistent"), Path::new("/dev")] {
            assert!(!generation.is_listed(silent) && !generation.is_unused(silent));
        }
        generation.shutdown();
    }
}
