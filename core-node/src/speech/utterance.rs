//! Talk spurts become utterances: what is worth transcribing as one piece.
//!
//! An edge cuts a long spurt and says that the next one *continues* it; `merge` puts the pieces together again, up
//! to [`MAX_UTTERANCE`], those of several edges on top of each other. [`decode`] turns items into 16 kHz samples.

pub mod decode;
pub mod denoise;
mod slot;

use std::{collections::BTreeSet, ops::Range, time::Duration};

use mesh::{
    clock::Micros,
    wire::{Epoch, spurt::SpurtEnd},
};

pub use self::{
    decode::{Decoded, duration_of},
    slot::{Cover, Fresh, Part, Slot},
};
use crate::key::SpurtKey;

/// The longest utterance: what Whisper's 30 s window holds with room to spare.
pub const MAX_UTTERANCE: Duration = Duration::from_secs(28);

/// How long a spurt that is to be continued waits for the first sign of the next one.
pub const CONTINUATION_WAIT: Duration = Duration::from_secs(3);

/// Speech of one speaker that is to be transcribed in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// What names it: an item that no other utterance has.
    pub name: Name,
    /// What it is made of, in order; not empty.
    pub pieces: Vec<Piece>,
    /// How long it plays.
    pub length: Duration,
    /// Every spurt that it has to do with: what it is made of, and what held the same.
    pub spurts: Vec<SpurtKey>,
    /// It is what was left over beside another utterance.
    pub rest: bool,
    /// To be stored with its words; `None` where one edge captured it.
    pub cover: Option<Cover>,
}

/// An item of a spurt, as the name of an utterance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The spurt.
    pub key: SpurtKey,
    /// The item's number in it.
    pub item: u32,
}

/// Items of a spurt, without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The spurt.
    pub key: SpurtKey,
    /// The items' numbers.
    pub items: Range<u32>,
}

/// What intake tells about a spurt whose words are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntakeEvent {
    /// It is under way.
    Progress {
        /// Which.
        key: SpurtKey,
        /// Since when.
        durable: Option<Micros>,
        /// What has come since the last time.
        fresh: Option<Fresh>,
    },
    /// It is whole and on disk.
    Whole {
        /// Which.
        key: SpurtKey,
        /// Its trailer; `None` where it was cut off.
        end: Option<SpurtEnd>,
        /// What has come since the last time.
        fresh: Option<Fresh>,
    },
    /// The edges that capture may be others: these, by epoch.
    Capturing(BTreeSet<Epoch>),
}
