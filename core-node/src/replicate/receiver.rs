//! The standby's end: takes each entry of the newest stream once and in order.

use mesh::wire::MeetingId;

use super::entry::{Assembler, BadEntry, Entry};

/// One meeting's stream as far as it has come. After a restart it is empty, and asks for a new snapshot.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    stream: u64,
    next: u64,
    assembler: Assembler,
}

impl Receiver {
    /// The next piece wanted.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes pieces of which the first has number `first`; returns the entries that are complete and new, in order.
    /// Repeated pieces are passed over, and pieces after a hole are not taken: [`Receiver::next`] says so.
    ///
    /// # Errors
    /// They are no entries of `meeting`. Nothing of them is taken.
    pub fn handle(&mut self, meeting: MeetingId, first: u64, pieces: &[Vec<u8>]) -> Result<Vec<Entry>, BadEntry> {
        let mut after = self.clone();
        if first == 0
            && let Some(piece) = pieces.first()
        {
            let Some(Entry::Begin { stream }) = Assembler::default().push(meeting, piece)? else {
                return Err(BadEntry::NoBeginning);
            };
            if stream < self.stream {
                return Ok(vec![]);
            }
            if stream > self.stream {
                after = Self { stream, ..Self::default() };
            }
        }
        let entries = after.take(meeting, first, pieces)?;
        *self = after;
        Ok(entries)
    }

    fn take(&mut self, meeting: MeetingId, first: u64, pieces: &[Vec<u8>]) -> Result<Vec<Entry>, BadEntry> {
        if first > self.next {
            return Ok(vec![]);
        }
        let seen = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let mut entries = vec![];
        for piece in pieces.iter().skip(seen) {
            entries.extend(self.assembler.push(meeting, piece)?);
            self.next += 1;
        }
        Ok(entries)
    }
}
