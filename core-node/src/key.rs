//! What names a piece of speech, everywhere in this crate.

use std::sync::Arc;

use mesh::wire::{Epoch, SpurtNo};

/// The platform's own participant id.
pub type ParticipantId = Arc<str>;

/// A talk spurt of one meeting: the same on every replay, and so the key of all deduplication.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpurtKey {
    /// Under which ownership it was captured.
    pub epoch: Epoch,
    /// Who speaks.
    pub participant: ParticipantId,
    /// Its number, from 0 for each participant and epoch.
    pub spurt: SpurtNo,
}

impl SpurtKey {
    /// Another spurt of the same speaker.
    pub fn with_spurt(&self, spurt: SpurtNo) -> Self {
        Self { spurt, ..self.clone() }
    }
}
