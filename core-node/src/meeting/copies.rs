//! Copies of a spurt's items on their way to the disk.

use std::sync::Arc;

use mesh::{clock::Micros, tasks::once, wire::copies::Copies};

use super::{IntakeError, Meeting};
use crate::{key::SpurtKey, lock};

impl Meeting {
    /// Copies of some of a spurt's items, read at `received`. Returns when what is next in turn among them has its
    /// place in the log; that it is on disk is said later, as for items of a stream.
    ///
    /// # Errors
    /// They are not taken. The spurt's stream brings them all the same.
    pub async fn handle_copies(
        self: &Arc<Self>,
        key: SpurtKey,
        copies: Copies,
        received: Micros,
    ) -> Result<(), IntakeError> {
        if let Some(header) = copies.header.filter(|_| !lock(&self.ingest).knows(&key)) {
            if self.is_nobodys(&key, header.captured) {
                return Ok(());
            }
            self.note_origin(header.captured).await?;
            // Where there is no room just now, the stream waits for it.
            self.begin(&key, header.captured, header.trace, header.offset)?;
        }
        let slot = self.log.reserve().await?;
        let (pending, receipt) = {
            let mut ingest = lock(&self.ingest);
            let Some(append) = ingest.handle_copies(&key, copies.items)? else { return Ok(()) };
            let receipt = append.receipt();
            (slot.write(self.op(append, received)), receipt)
        };
        metrics::counter!("nearfield_core_copies_first_total").increment(1);
        let meeting = self.clone();
        once("copies", async move {
            // A log that has failed is reported by whoever reads the stream.
            if let Ok(at) = pending.durable().await {
                lock(&meeting.ingest).handle_logged(receipt);
                meeting.drain(Some(at)).await;
            }
        });
        Ok(())
    }
}
