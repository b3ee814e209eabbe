//! Keeps the tokens of the day that client keys have used in the state file.
//!
//! A thread writes them at most once a second while they change; the rest is written when the server stops. What
//! is killed loses a second at most. A file that cannot be written costs no request anything: the counts go on in
//! memory, a warning says so once, and the next change tries again.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::handlers::App;
use crate::observe::system_error;

/// The time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Takes over what the state file has, and starts the thread where it is needed and does not run yet.
pub(super) fn start(app: &Arc<App>) {
    app.load_key_counts();
    if !app.keeps_key_counts() {
        return;
    }
    let Some(changes) = app.keys.begin_watch() else { return };
    let app = Arc::downgrade(app);
    let run = move || {
        let mut is_failing = false;
        while changes.recv().is_ok() {
            let Some(app) = app.upgrade() else { return };
            let saved = app.save_key_counts();
            if let (Err(error), false) = (&saved, is_failing) {
                log::warn!("the tokens that keys used today are not saved: {}", error.message());
            }
            is_failing = saved.is_err();
            drop(app);
            thread::sleep(INTERVAL);
        }
    };
    if let Err(error) = thread::Builder::new().name("key-counts".into()).spawn(run) {
        let why = system_error::describe_spawn(&error);
        log::warn!("the tokens that keys use today are saved only at the end: {why}");
    }
}

/// Writes what is not written yet.
pub(super) fn save(app: &App) {
    if let Err(error) = app.save_key_counts() {
        log::warn!("the tokens that keys used today are not saved: {}", error.message());
    }
}
