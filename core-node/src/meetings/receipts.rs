//! Receipts of meetings that are over: made once, kept with the transcript.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use mesh::{
    identity::certs::SignError,
    tasks::{Broken, blocking},
    wire::MeetingId,
};

use super::Meetings;
use crate::{
    meeting::wall,
    receipt::{Receipt, jws::sign},
    store::{Op, StoreError, log::LogClosed, reads::ReadError, record::Status},
};

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
pub enum NoReceipt {
    /// No meeting has that id.
    #[error("no meeting has this id here")]
    Unknown,
    /// It is not over.
    #[error("the meeting is `{}`: its receipt is made when it is over", .0.as_str())]
    NotEnded(Status),
    /// Its key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, or others read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store takes no more writes.
    #[error(transparent)]
    Log(#[from] LogClosed),
}

impl Meetings {
    /// The signed receipt of a meeting that is over. Made at its end; of one that ended before there were receipts, or
    /// whose core is gone, when it is first asked for.
    ///
    /// # Errors
    /// See [`NoReceipt`].
    pub async fn receipt(&self, id: MeetingId) -> Result<String, NoReceipt> {
        // One at a time: whoever asks is told the same.
        let _turn = self.signing.lock().await;
        let record = self.look(id).await?.ok_or(NoReceipt::Unknown)?;
        if !record.status.ended() || self.live(id).is_some() {
            return Err(NoReceipt::NotEnded(record.status));
        }
        if let Some(kept) = self.reads.run(move |store| store.receipt(id)).await? {
            return Ok(kept);
        }
        let (store, credentials) = (self.store.clone(), self.placer.mesh.credentials());
        let made = blocking("receipt", move || {
            let receipt = Receipt::of(&store, &record, credentials.identity(), wall())?;
            let payload = serde_json::to_vec(&receipt);
            let payload = payload.map_err(|e| StoreError::Record { what: "receipts", why: e.to_string() })?;
            Ok::<_, NoReceipt>(sign(&payload, &credentials)?)
        });
        let broken = |e| StoreError::Record { what: "receipts", why: Broken::from(e).to_string() };
        let made = made.await.map_err(broken)??;
        self.log.write(Op::Receipt(id, made.clone())).await?;
        metrics::counter!("nearfield_core_receipts_signed_total").increment(1);
        Ok(made)
    }

    /// Makes the receipt of a meeting that has just ended.
    pub(super) async fn sign_receipt(&self, id: MeetingId) {
        if let Err(error) = self.receipt(id).await {
            metrics::counter!("nearfield_core_receipts_failed_total").increment(1);
            tracing::error!(meeting = %id, %error, "no receipt yet; it is tried again when it is asked for");
        }
    }
}
