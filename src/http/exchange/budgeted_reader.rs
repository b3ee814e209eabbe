//! A body whose memory counts with that of all others.

use std::io::{self, Read};

use crate::net::limits::{BudgetExceeded, Reservation};

/// A body that is counted while it is read.
pub(super) struct BudgetedReader<'a> {
    pub reader: &'a mut dyn Read,
    pub reservation: Option<&'a mut Reservation>,
    pub exceeded: &'a mut Option<BudgetExceeded>,
}

impl Read for BudgetedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if let Some(Err(spent)) = self.reservation.as_mut().map(|lease| lease.grow(length)) {
            *self.exceeded = Some(spent);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(length)
    }
}
