//! Writes log lines on a thread of its own.
//!
//! A caller appends its line to a buffer and continues; a few milliseconds later the thread writes all
//! buffered lines in one call. Invariant: a reader that does not read costs lines, never a request,
//! and never more than [`MAX_BUFFERED_BYTES`]; once it reads again, the log says how many were
//! dropped.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::observe::lock::lock;

/// Bytes that may wait to be written.
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;

/// Bytes of the buffer that stay allocated while it is empty.
const RETAINED_BYTES: usize = 16 * 1024;

/// How long the thread collects lines before it writes them.
const COALESCE_TIME: Duration = Duration::from_millis(5);

/// Longest wait of [`AsyncWriter::flush`].
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle to the buffered lines and the thread that writes them.
pub(super) struct AsyncWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    line_appended: Condvar,
    all_written: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Lines that did not fit into the buffer.
    dropped_lines: usize,
    /// Whether the thread has taken lines and not written them yet.
    is_writing: bool,
}

impl AsyncWriter {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread_shared = shared.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || thread_shared.write_loop(&mut out))?;
        Ok(Self(shared))
    }

    /// Waits until all lines so far are written, at most [`FLUSH_TIMEOUT`].
    pub(super) fn flush(&self) {
        let is_behind = |state: &mut State| !state.buffer.is_empty() || state.is_writing;
        let state = lock(&self.0.state);
        drop(self.0.all_written.wait_timeout_while(state, FLUSH_TIMEOUT, is_behind));
    }
}

impl Shared {
    /// What the thread does until the process ends.
    fn write_loop(&self, out: &mut dyn Write) {
        let mut batch = Vec::new();
        loop {
            let state = lock(&self.state);
            drop(self.line_appended.wait_while(state, |state| state.buffer.is_empty()));
            thread::sleep(COALESCE_TIME);
            let dropped_lines = {
                let mut state = lock(&self.state);
                mem::swap(&mut state.buffer, &mut batch);
                state.is_writing = true;
                mem::take(&mut state.dropped_lines)
            };
            // If standard error cannot be written, there is no other place to report it.
            let _ = out.write_all(&batch);
            if dropped_lines > 0 {
                let _ = out.write_all(super::dropped_lines(dropped_lines).as_bytes());
            }
            batch.clear();
            batch.shrink_to(RETAINED_BYTES);
            lock(&self.state).is_writing = false;
            self.all_written.notify_all();
        }
    }
}

impl Write for &AsyncWriter {
    /// Appends one whole line, or drops it if the buffer is full.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        if state.buffer.len() + line.len() > MAX_BUFFERED_BYTES {
            state.dropped_lines += 1;
        } else {
            // With lines in the buffer, the thread is awake already.
            if state.buffer.is_empty() {
                self.0.line_appended.notify_one();
            }
            state.buffer.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Sends each write to the test, and returns from it when the test allows.
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
        (AsyncWriter::start(Gate(told, opened)).expect("a thread"), writes, open)
    }

    #[test]
    fn lines_come_out_whole_and_in_their_order() {
        let (log, writes, open) = gated();
        drop(open);
        let mut expected = Vec::new();
        for number in 0..2000 {
            let line = format!("line {number}\n");
            expected.extend_from_slice(line.as_bytes());
            (&log).write_all(line.as_bytes()).expect("it never fails");
        }
        log.flush();
        let written: Vec<u8> = writes.try_iter().flatten().collect();
        assert!(written == expected);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_nothing_else() {
        let (log, writes, open) = gated();
        (&log).write_all(b"first\n").expect("it never fails");
        assert_eq!(writes.recv().expect("the thread writes"), b"first\n");
        // It is stuck now.
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..MAX_BUFFERED_BYTES / line.len() + 5 {
            (&log).write_all(&line).expect("it never fails");
        }
        drop(open);
        log.flush();
        let rest: Vec<u8> = writes.try_iter().flatten().collect();
        let kept = MAX_BUFFERED_BYTES / line.len() * line.len();
        assert!(rest[..kept].iter().all(|byte| matches!(byte, b'x' | b'\n')));
        assert_eq!(
            rest[kept..],
            *b"[WARN] 5 log lines dropped: standard error was not read fast enough\n"
        );
    }
}
