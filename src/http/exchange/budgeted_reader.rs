//! A body whose memory counts with that of all others.

use std::io::{self, Read};

use crate::net::limits::{Lease, Spent};

/// A body that is counted while it is read.
pub(super) struct Counted<'a> {
    pub reader: &'a mut dyn Read,
    pub lease: Option<&'a mut Lease>,
    pub spent: &'a mut Option<Spent>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if let Some(Err(spent)) = self.lease.as_mut().map(|lease| lease.grow(length)) {
            *self.spent = Some(spent);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(length)
    }
}
