//! A generation: one tiny_http server on the shared socket, with its receiver thread.
//!
//! The receiver builds the server itself, so that the accept thread and the pool threads inherit
//! its unique name. That name tells later whether any of them is left. A generation whose accept
//! thread has died still receives from its live connections; it never listens again. What was
//! still queued in its pool then waits until one of its connections closes: no nudge reaches it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiny_http::Server;

use super::proc_stats;
use super::proc_stats::ThreadMonitor;
use super::{AcceptFailure, Shared};

/// How long [`Generation::shutdown`] waits for a receiver that is busy delivering.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// One server and its receiver.
pub(super) struct Generation {
    /// The name of all its threads, at most 15 bytes so that the system keeps it whole.
    pub(super) name: String,
    /// Its accept thread, where it can be watched.
    pub(super) accept_monitor: Option<ThreadMonitor>,
    /// The receiver, which started the accept thread; `None` if that one cannot be watched.
    receiver_tid: Option<u32>,
    server: Arc<Server>,
    stopping: Arc<AtomicBool>,
    receiver: JoinHandle<()>,
}

impl Generation {
    /// Starts a server on the shared socket, and the thread that receives from it.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Generation> {
        let name = next_name();
        let listener = shared.clone_listener()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (ready, started) = crossbeam_channel::bounded(1);
        let receiver = thread::Builder::new().name(name.clone()).spawn({
            let (name, shared, stopping) =
                (name.clone(), Arc::clone(shared), Arc::clone(&stopping));
            move || match Server::from_listener(listener, None) {
                Ok(server) => {
                    let server = Arc::new(server);
                    // The other side waits for this message, so the send cannot fail.
                    let _ = ready.send(Ok((Arc::clone(&server), proc_stats::current_thread_id())));
                    receive_loop(&name, &shared, &server, &stopping);
                }
                Err(error) => {
                    let _ = ready.send(Err(io::Error::other(error)));
                }
            }
        })?;
        match started.recv() {
            Ok(Ok((server, receiver_tid))) => {
                let accept_monitor = receiver_tid
                    .and_then(|parent| ThreadMonitor::find_accept_thread(&name, parent));
                Ok(Generation { name, accept_monitor, receiver_tid, server, stopping, receiver })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the accept thread cannot be started")),
        }
    }

    /// Tries once more to watch an accept thread that is known to live.
    pub(super) fn resume_monitoring(&mut self) {
        self.accept_monitor = self
            .receiver_tid
            .and_then(|parent| ThreadMonitor::find_accept_thread(&self.name, parent));
    }

    /// Gives up watching: what was watched is not the accept thread, or does not show its running.
    pub(super) fn stop_monitoring(&mut self) {
        self.accept_monitor = None;
        self.receiver_tid = None;
    }

    /// Whether no connection can be left: only the receiver still bears the name. `false` where
    /// threads cannot be listed.
    pub(super) fn is_unused(&self) -> bool {
        proc_stats::find_threads(&self.name).is_some_and(|threads| threads.len() <= 1)
    }

    /// Ends the receiver after it delivered what was received so far. Dropping the server then
    /// ends its accept thread, if that still lives; connections are not touched by it.
    pub(super) fn shutdown(self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.server.unblock();
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while !self.receiver.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Delivers requests until the generation is told to end.
fn receive_loop(name: &str, shared: &Shared, server: &Server, stopping: &AtomicBool) {
    loop {
        match server.recv() {
            Ok(request) => {
                shared.note_request();
                if catch_unwind(AssertUnwindSafe(|| (shared.on_request)(request))).is_err() {
                    log::error!("a request was lost: its delivery panicked");
                }
            }
            Err(_) if stopping.load(Ordering::SeqCst) => return,
            // Shutting the socket down ends the accept thread, too: nothing to report.
            Err(_) if shared.is_closing() => {}
            Err(error) => shared.note_failure(AcceptFailure { generation: name.to_owned(), error }),
        }
    }
}

/// A name no other generation of this process has.
fn next_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("accept-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
