//! One change of a meeting on its way to the standby, as JSON in pieces that fit a request.

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo,
        request::{Held, MAX_REPLICA},
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    key::SpurtKey,
    speech::utterance::Cover,
    store::{
        DoneMark, MAX_VALUE,
        record::{MeetingRecord, Participant},
    },
    transcript::{MAX_SEQ, Segment},
};

/// The most bytes in one piece, its first byte included.
pub const MAX_PIECE: usize = MAX_REPLICA / 2;

/// The longest entry: whatever is kept can be shipped, with what is put around it.
pub const MAX_ENTRY: usize = MAX_VALUE + 1024;

/// First byte of a piece that another follows.
const MORE: u8 = 0;
/// First byte of an entry's last piece.
const LAST: u8 = 1;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// First in each stream. A greater number is a later stream.
    Begin {
        /// The stream's number.
        stream: u64,
        /// What the sender has of the meeting; none where it sends nothing of it.
        #[serde(default)]
        held: Option<Held>,
    },
    /// A participant as they now stand, and the id of one who makes room for them.
    Participant(Participant, Option<String>),
    /// Why an edge was chosen.
    Placement {
        /// Under which epoch.
        epoch: Epoch,
        /// As the API shows it.
        decision: serde_json::Value,
    },
    /// Every event number below this may have been given out.
    Sequence {
        /// The first that was not.
        below: u64,
    },
    /// The words of some spurts are out.
    Finish {
        /// The spurts.
        spurts: Vec<DoneSpurt>,
        /// The words, unless there were none.
        segment: Option<Box<Segment>>,
        /// What the words were made of, where several edges captured it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cover: Option<Cover>,
    },
    /// The meeting as it now stands. The first one in a stream completes the snapshot.
    Record(Box<MeetingRecord>),
    /// The receiver is no longer the standby, and will not take the meeting over.
    Dropped,
}

/// How far a snapshot goes.
pub fn held(snapshot: &[Entry]) -> Held {
    let finals = snapshot.iter().filter_map(|entry| match entry {
        Entry::Finish { segment: Some(segment), .. } => Some(segment.seq),
        _ => None,
    });
    let ended = snapshot.iter().any(|entry| matches!(entry, Entry::Record(record) if record.status.ended()));
    Held { ended, newest: finals.max().unwrap_or(0) }
}

/// A spurt whose words are out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneSpurt {
    /// Under which ownership it was captured.
    pub epoch: Epoch,
    /// Who spoke.
    pub participant: String,
    /// Its number.
    pub spurt: SpurtNo,
    /// Capture time of its first item.
    pub captured: Micros,
    /// The request that created the meeting.
    pub trace: TraceContext,
    /// What it had.
    pub mark: DoneMark,
}

impl DoneSpurt {
    /// What names it.
    pub fn key(&self) -> SpurtKey {
        SpurtKey { epoch: self.epoch, participant: self.participant.as_str().into(), spurt: self.spurt }
    }
}

/// Why bytes are no entry of this meeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// A piece without a first byte that means something.
    #[error("a piece is malformed")]
    Piece,
    /// More bytes than an entry may have.
    #[error("an entry has more than {MAX_ENTRY} bytes")]
    TooLong,
    /// The whole is not what it should be.
    #[error("malformed entry: {0}")]
    Malformed(String),
    /// An event's number that no meeting reaches: counting on from it would not be possible.
    #[error("the number of an event is greater than {MAX_SEQ}")]
    TooGreat,
    /// It is of another meeting.
    #[error("an entry of another meeting")]
    OtherMeeting,
    /// A stream that does not begin with its number.
    #[error("the stream has no beginning")]
    NoBeginning,
    /// A newer stream has begun, of this core or of one that serves later.
    #[error("a newer stream has begun")]
    OldStream,
}

impl Entry {
    /// The entry in pieces, ready to be sent.
    pub fn pieces(&self) -> Vec<Vec<u8>> {
        let bytes = serde_json::to_vec(self).expect("texts, numbers, lists and maps of them always become JSON");
        let mut pieces: Vec<Vec<u8>> = bytes.chunks(MAX_PIECE - 1).map(|c| [&[MORE], c].concat()).collect();
        if let Some(last) = pieces.last_mut() {
            last[0] = LAST;
        }
        pieces
    }

    /// Whether it speaks of `meeting` where it names one.
    fn is_of(&self, meeting: MeetingId) -> bool {
        match self {
            Self::Record(record) => record.id == meeting,
            Self::Finish { segment: Some(segment), .. } => segment.meeting_id == meeting,
            _ => true,
        }
    }
}

impl Entry {
    /// The greatest event number in it.
    fn newest(&self) -> u64 {
        match self {
            Self::Begin { held: Some(held), .. } => held.newest,
            Self::Sequence { below } => *below,
            Self::Finish { segment: Some(segment), .. } => segment.seq,
            Self::Record(record) => record.gaps.iter().map(|gap| gap.seq).fold(record.last_seq, u64::max),
            _ => 0,
        }
    }
}

/// Puts pieces together.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// The next piece, in order; returns the entry that it completes.
    ///
    /// # Errors
    /// Any [`BadEntry`]; what was begun is dropped.
    pub fn push(&mut self, meeting: MeetingId, piece: &[u8]) -> Result<Option<Entry>, BadEntry> {
        let (&kind, body) = piece.split_first().ok_or(BadEntry::Piece)?;
        if self.bytes.len() + body.len() > MAX_ENTRY {
            self.bytes.clear();
            return Err(BadEntry::TooLong);
        }
        self.bytes.extend_from_slice(body);
        match kind {
            MORE => Ok(None),
            LAST => {
                let bytes = std::mem::take(&mut self.bytes);
                let entry: Entry =
                    serde_json::from_slice(&bytes).map_err(|e| BadEntry::Malformed(format!("{:?}", e.classify())))?;
                if !entry.is_of(meeting) {
                    return Err(BadEntry::OtherMeeting);
                }
                if entry.newest() > MAX_SEQ { Err(BadEntry::TooGreat) } else { Ok(Some(entry)) }
            }
            _ => {
                self.bytes.clear();
                Err(BadEntry::Piece)
            }
        }
    }
}
