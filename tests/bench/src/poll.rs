//! A thin layer over epoll, edge-triggered: each socket is registered once, for everything, so that
//! a request costs no call to epoll but the wait. Who is told that a socket is readable must
//! read until a short read or until it would block.
//!
//! A socket is known by its slot and the slot's generation; an event of an earlier generation is
//! of a socket that is closed already.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::system::SECOND;

/// How many events one wait brings at most.
const EVENTS: usize = 1024;

/// Which socket: the place in the table of connections, and how often that place was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The place in the table.
    pub slot: u32,
    /// Differs for each socket that takes the place.
    pub generation: u32,
}

/// What happened to one socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Which socket.
    pub key: Key,
    flags: EventFlags,
}

impl Ready {
    /// There is something to read: bytes, the end or an error.
    pub fn readable(&self) -> bool {
        const ANY: EventFlags =
            EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::HUP).union(EventFlags::ERR);
        self.flags.intersects(ANY)
    }

    /// There is room to write.
    pub fn writable(&self) -> bool {
        self.flags.contains(EventFlags::OUT)
    }

    /// The peer sends no more after what can be read now.
    pub fn ending(&self) -> bool {
        self.flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
    }
}

/// The epoll of a program.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    /// Watches a socket until it is closed.
    pub fn add(&self, socket: impl AsFd, key: Key) -> io::Result<()> {
        let data = EventData::new_u64(u64::from(key.generation) << 32 | u64::from(key.slot));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Waits for events, at most until the time given in nanoseconds has passed.
    pub fn wait(&mut self, nanoseconds: Option<u64>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = nanoseconds
            .map(|it| Timespec { tv_sec: (it / SECOND) as i64, tv_nsec: (it % SECOND) as i64 });
        self.events.clear();
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| {
            let data = event.data.u64();
            let key = Key { slot: data as u32, generation: (data >> 32) as u32 };
            Ready { key, flags: event.flags }
        }));
        Ok(())
    }
}
