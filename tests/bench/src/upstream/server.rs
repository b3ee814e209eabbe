//! The loop of the scripted upstream: accepts, reads, writes, and writes each paced token at its time.
//!
//! It ends when standard input does, if that can be watched at all; `SIGTERM` ends the program as it
//! ends any.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};

use super::connection::{Connection, Next, Shared};
use crate::pacing::Timers;
use crate::poll::{Key, Poll, Ready};
use crate::system;

/// What one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// Connections that may wait to be accepted, as far as net.core.somaxconn allows. With the 128 of the
/// standard library, a thousand that come at once overflow the queue, and whoever is dropped comes
/// again after a second, which would be measured as the proxy's delay.
const BACKLOG: i32 = 4096;
const LISTENER: Key = Key { slot: u32::MAX, generation: 0 };
const INPUT: Key = Key { slot: u32::MAX, generation: 1 };

/// A place of the table of connections.
#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// The scripted upstream.
pub struct Server {
    listener: TcpListener,
    poll: Poll,
    slots: Vec<Slot>,
    free: Vec<u32>,
    timers: Timers,
    buffer: Vec<u8>,
    shared: Shared,
}

impl Server {
    /// Listens there; port 0 is any free one.
    pub fn bind(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        // Of a socket that listens already, this changes the length of its queue.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER)?;
        // A file or /dev/null cannot be watched, and never closes.
        let _ = poll.add(io::stdin(), INPUT);
        Ok(Self {
            listener,
            poll,
            slots: Vec::new(),
            free: Vec::new(),
            timers: Timers::default(),
            buffer: vec![0; READ_BYTES],
            shared: Shared::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until standard input ends.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let wait = self.timers.next().map(|due| due.saturating_sub(system::now()));
            self.poll.wait(wait, &mut ready)?;
            for event in &ready {
                match event.key {
                    LISTENER => self.accept(),
                    INPUT if input_ended() => return Ok(()),
                    INPUT => {}
                    _ => self.on_event(*event),
                }
            }
            self.on_time();
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // A connection that cannot be set up is closed, which the client sees.
                    if stream.set_nonblocking(true).and(stream.set_nodelay(true)).is_ok() {
                        self.add(Connection::new(stream));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn add(&mut self, connection: Connection) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let key = Key { slot, generation: place.generation };
        if self.poll.add(connection.socket(), key).is_ok() {
            place.connection = Some(connection);
        } else {
            self.free.push(slot);
        }
    }

    fn on_event(&mut self, event: Ready) {
        let Some(connection) = find(&mut self.slots, event.key) else { return };
        let mut next = Next::Wait;
        if event.writable() {
            next = connection.write();
        }
        if next == Next::Wait && event.readable() {
            next = connection.read(&mut self.buffer, event.ending(), &mut self.shared);
        }
        self.then(event.key, next);
    }

    /// Writes all tokens that are due.
    fn on_time(&mut self) {
        if self.timers.next().is_none() {
            return;
        }
        let now = system::now();
        while let Some(key) = self.timers.take(now) {
            if let Some(connection) = find(&mut self.slots, key) {
                let next = connection.token(&mut self.shared);
                self.then(key, next);
            }
        }
    }

    fn then(&mut self, key: Key, next: Next) {
        match next {
            Next::Wait => {}
            Next::At(due) => self.timers.add(due, key),
            Next::Close => {
                self.slots[key.slot as usize].connection = None;
                self.free.push(key.slot);
            }
        }
    }
}

/// The connection, unless it is closed already.
fn find(slots: &mut [Slot], key: Key) -> Option<&mut Connection> {
    let slot = slots.get_mut(key.slot as usize)?;
    slot.connection.as_mut().filter(|_| slot.generation == key.generation)
}

/// Takes what standard input has; whether it is at its end.
fn input_ended() -> bool {
    let mut buffer = [0; 4096];
    !matches!(io::stdin().read(&mut buffer), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_crowd_that_comes_at_once_waits_to_be_accepted() {
        let server = Server::bind("127.0.0.1:0").expect("a port");
        let address = server.address().expect("an address");
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let crowd = most.trim().parse().unwrap_or(0).min(300);
        // Nothing is accepted meanwhile; a connection without a place would not be made at all.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let made: Vec<_> = (0..crowd).map(connect).collect();
        assert!(made.iter().all(Result::is_ok), "{:?}", made.iter().find(|it| it.is_err()));
    }
}
