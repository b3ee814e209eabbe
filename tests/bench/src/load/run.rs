//! The loop of the load generator: begins requests when they are due on connections that are free, and
//! hands events to the connections. Ends when all requests are answered or the deadline has passed,
//! so it never hangs.

use std::io;

use super::answer::Expected;
use super::arrivals::Arrivals;
use super::connection::{Connection, Progress, Shared};
use super::options::Options;
use super::request;
use super::stats::{Kind, Stats};
use crate::pacing::{self, Timers};
use crate::poll::{Key, Poll, Ready};
use crate::system::{self, SECOND};

/// What one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// How long a connection that could not be opened waits.
const CONNECT_PAUSE: u64 = SECOND / 20;
/// After so many failures with no connection at all, there is nothing to measure.
const MAX_CONNECT_ERRORS: u64 = 20;

/// What a run came to.
pub struct Outcome {
    /// What was counted.
    pub stats: Stats,
    /// From the first request to the last answer, in nanoseconds.
    pub elapsed: u64,
    /// At least one connection was made.
    pub reached: bool,
}

struct Run<'a> {
    options: &'a Options,
    poll: Poll,
    arrivals: Arrivals,
    connections: Vec<Connection>,
    /// Connections without a request, in an open loop.
    free: Vec<u32>,
    /// Connections that begin at a later time.
    timers: Timers,
    shared: Shared,
    under_way: u64,
    connect_errors: u64,
    last: u64,
}

/// Does what the options say.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let requests = request::all(options);
    let conversation = |slot| slot as usize % requests.len();
    let start = system::now();
    let mut run = Run {
        options,
        poll: Poll::new()?,
        arrivals: Arrivals::new(options, start),
        connections: (0..options.connections)
            .map(|slot| Connection::new(conversation(slot)))
            .collect(),
        free: Vec::new(),
        timers: Timers::default(),
        shared: Shared {
            requests,
            expected: Expected::new(options),
            stats: Stats::default(),
            buffer: vec![0; READ_BYTES],
            from_due: options.rate.is_some(),
            from_connect: options.from_connect,
        },
        under_way: 0,
        connect_errors: 0,
        last: start,
    };
    run.plan(start);
    run.work()?;
    let reached = run.reached();
    Ok(Outcome { stats: run.shared.stats, elapsed: run.last - start, reached })
}

impl Run<'_> {
    /// Says when each connection begins.
    fn plan(&mut self, start: u64) {
        for slot in (0..self.options.connections).rev() {
            if self.options.rate.is_some() {
                self.free.push(slot);
            } else {
                let ramp = self.options.ramp * SECOND as f64;
                let due = start + (pacing::spread(slot.into()) * ramp) as u64;
                self.timers.add(due, Key { slot, generation: 0 });
            }
        }
    }

    fn work(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let now = system::now();
            self.begin_due(now);
            if self.under_way == 0 && self.arrivals.next(now).is_none() {
                return Ok(());
            }
            let hopeless = self.connect_errors >= MAX_CONNECT_ERRORS && !self.reached();
            if hopeless || now >= self.arrivals.deadline() {
                self.give_up();
                return Ok(());
            }
            let wait = self.wake().saturating_sub(now);
            self.poll.wait(Some(wait), &mut ready)?;
            for event in &ready {
                self.on_event(event);
            }
        }
    }

    /// Until when there is nothing to do but wait for events.
    fn wake(&self) -> u64 {
        let open = self.options.rate.is_some() && !self.free.is_empty();
        let due = self.arrivals.next(0).filter(|_| open);
        let times = [due, self.timers.next(), Some(self.arrivals.deadline())];
        times.into_iter().flatten().min().unwrap_or(0)
    }

    /// Begins all that is due.
    fn begin_due(&mut self, now: u64) {
        while let Some(key) = self.timers.take(now) {
            self.next(key.slot);
        }
        while let Some(slot) = self.free.pop() {
            let Some(due) = self.arrivals.take(now) else {
                self.free.push(slot);
                break;
            };
            self.begin(slot, due);
        }
    }

    /// The connection has nothing to do: it takes the next request that is due, or waits for one.
    fn next(&mut self, slot: u32) {
        match self.arrivals.take(system::now()) {
            Some(due) => self.begin(slot, due),
            None if self.options.rate.is_some() => self.free.push(slot),
            None => {}
        }
    }

    fn begin(&mut self, slot: u32, due: u64) {
        self.under_way += 1;
        let connection = &mut self.connections[slot as usize];
        let progress = match connection.ask(due, &mut self.shared) {
            Some(progress) => progress,
            None => self.open(slot),
        };
        self.then(slot, progress);
    }

    fn open(&mut self, slot: u32) -> Progress {
        let connection = &mut self.connections[slot as usize];
        let generation = connection.generation.wrapping_add(1);
        let key = Key { slot, generation };
        let opened = connection.open(self.options.address);
        match opened.and_then(|socket| self.poll.add(socket, key)) {
            Ok(()) => Progress::Wait,
            Err(_) => connection.fail(Kind::Connect, &mut self.shared),
        }
    }

    fn on_event(&mut self, event: &Ready) {
        let slot = event.key.slot;
        let connection = &mut self.connections[slot as usize];
        if connection.generation != event.key.generation {
            return;
        }
        let what = (event.writable(), event.readable(), event.ending());
        let progress = connection.on_event(what, &mut self.shared);
        self.then(slot, progress);
    }

    fn then(&mut self, slot: u32, progress: Progress) {
        if matches!(progress, Progress::Wait | Progress::Gone) {
            return;
        }
        self.under_way -= 1;
        self.last = system::now();
        if progress == Progress::Failed(Kind::Connect) {
            self.connect_errors += 1;
            self.timers.add(self.last + CONNECT_PAUSE, Key { slot, generation: 0 });
        } else {
            self.next(slot);
        }
    }

    /// At least one connection was made.
    fn reached(&self) -> bool {
        self.connections.iter().any(Connection::connected)
    }

    /// Counts what is still under way as incomplete.
    fn give_up(&mut self) {
        for connection in self.connections.iter_mut().filter(|it| it.busy()) {
            connection.fail(Kind::Incomplete, &mut self.shared);
        }
        self.shared.stats.error(Kind::Incomplete, self.arrivals.never_begun());
        self.last = system::now();
    }
}
