//! Lines on their way to whoever reads the log.
//!
//! Writers append to a buffer and go on; one thread writes it out, a few milliseconds later, in one
//! call for all lines that came together. A reader that does not read costs lines, never a request and
//! never more than [`MAX_BUFFERED_BYTES`]; how many were lost is told once it reads again.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::observe::lock::lock;

/// Bytes that may wait to be written.
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;

/// Bytes of the buffer that are kept when it is empty.
const RETAINED_BYTES: usize = 16 * 1024;

/// How long lines are gathered.
const COALESCE_TIME: Duration = Duration::from_millis(5);

/// How long [`AsyncWriter::flush`] waits for a reader at most.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines that wait, and the thread that writes them.
pub(super) struct AsyncWriter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or somebody waits for it.
    has_work: Condvar,
    /// All is written.
    all_written: Condvar,
    /// Without a thread, writers write themselves.
    sync_out: Option<Mutex<Box<dyn Write + Send>>>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Lines that found no room.
    dropped_lines: usize,
    /// The thread is writing what it took.
    is_writing: bool,
    /// How many wait until all is written.
    pending_flushes: usize,
}

impl AsyncWriter {
    /// A spool whose thread writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::new(None));
        let work = shared.clone();
        // The writer is handed over once there is somebody to take it.
        let (sender, receiver) = crossbeam_channel::bounded::<Box<dyn Write + Send>>(1);
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            if let Ok(mut out) = receiver.recv() {
                work.write_loop(&mut *out);
            }
        });
        match thread {
            Ok(_) => {
                // The thread waits for it.
                let _ = sender.send(Box::new(out));
                Self(shared)
            }
            Err(_) => Self::new_unbuffered(out),
        }
    }

    /// A spool without a thread.
    pub(super) fn new_unbuffered(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Shared::new(Some(Mutex::new(Box::new(out))))))
    }

    /// Waits until all is written, but not for ever.
    pub(super) fn flush(&self) {
        let mut state = lock(&self.0.state);
        state.pending_flushes += 1;
        self.0.has_work.notify_one();
        let is_behind = |state: &mut State| !state.buffer.is_empty() || state.is_writing;
        let waited = self.0.all_written.wait_timeout_while(state, FLUSH_TIMEOUT, is_behind);
        waited.unwrap_or_else(PoisonError::into_inner).0.pending_flushes -= 1;
    }
}

impl Shared {
    fn new(sync_out: Option<Mutex<Box<dyn Write + Send>>>) -> Self {
        let (has_work, all_written) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::default(), has_work, all_written, sync_out }
    }

    fn append(&self, line: &[u8]) {
        let mut state = lock(&self.state);
        if state.buffer.len() + line.len() > MAX_BUFFERED_BYTES {
            state.dropped_lines += 1;
            return;
        }
        // Who finds lines there knows that the thread is on its way.
        let is_first = state.buffer.is_empty();
        state.buffer.extend_from_slice(line);
        if is_first {
            self.has_work.notify_one();
        }
    }

    /// What the thread does for ever.
    fn write_loop(&self, out: &mut dyn Write) {
        let mut batch = Vec::new();
        let mut state = lock(&self.state);
        loop {
            state.is_writing = false;
            if state.buffer.is_empty() {
                self.all_written.notify_all();
                let waited = self.has_work.wait_while(state, |state| state.buffer.is_empty());
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            if state.pending_flushes == 0 {
                let gather = self
                    .has_work
                    .wait_timeout_while(state, COALESCE_TIME, |it| it.pending_flushes == 0);
                state = gather.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut state.buffer, &mut batch);
            let dropped_lines = std::mem::take(&mut state.dropped_lines);
            state.is_writing = true;
            drop(state);
            // There is nobody to be told that the log cannot be written.
            let _ = out.write_all(&batch);
            if dropped_lines > 0 {
                let _ = writeln!(out, "[WARN] {dropped_lines} lines of this log were lost");
            }
            batch.clear();
            batch.shrink_to(RETAINED_BYTES);
            state = lock(&self.state);
        }
    }
}

impl Write for &AsyncWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.sync_out {
            Some(out) => lock(out).write_all(bytes)?,
            None => self.0.append(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Tells what is written to it, each time when it is let.
    struct Gate(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (AsyncWriter, Receiver<Vec<u8>>, Sender<()>) {
        let ((told, writes), (open, opened)) = (unbounded(), bounded(0));
        (AsyncWriter::start(Gate(told, opened)), writes, open)
    }

    #[test]
    fn lines_come_out_whole_and_in_their_order() {
        let (spool, writes, open) = gated();
        drop(open);
        let mut expected = Vec::new();
        for number in 0..2000 {
            let line = format!("line {number}\n");
            expected.extend_from_slice(line.as_bytes());
            (&spool).write_all(line.as_bytes()).expect("it never fails");
        }
        spool.flush();
        let written: Vec<u8> = writes.try_iter().flatten().collect();
        assert!(written == expected);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_nothing_else() {
        let (spool, writes, open) = gated();
        (&spool).write_all(b"first\n").expect("it never fails");
        assert_eq!(writes.recv().expect("the thread writes"), b"first\n");
        // It is stuck now.
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..MAX_BUFFERED_BYTES / line.len() + 5 {
            (&spool).write_all(&line).expect("it never fails");
        }
        drop(open);
        spool.flush();
        let rest: Vec<u8> = writes.try_iter().flatten().collect();
        let kept = MAX_BUFFERED_BYTES / line.len() * line.len();
        assert!(rest[..kept].iter().all(|byte| matches!(byte, b'x' | b'\n')));
        assert_eq!(rest[kept..], *b"[WARN] 5 lines of this log were lost\n");
    }

    #[test]
    fn without_a_thread_lines_are_written_at_once() {
        let (told, writes) = unbounded();
        let (_, opened) = bounded(0);
        let spool = AsyncWriter::new_unbuffered(Gate(told, opened));
        (&spool).write_all(b"line\n").expect("it never fails");
        assert_eq!(writes.try_iter().count(), 1);
        spool.flush();
    }
}
