//! A meeting in a process of its own (`--isolate process`).
//!
//! ```text
//!   edge-node                                        edge-node --meeting-process, one for each meeting
//!  ┌──────────────────────────────┐  ToChild (stdin)   ┌──────────────────────────────────────┐
//!  │ driver ▸ meeting ▸ uplink     │ ─────────────────▶ │ connector ▸ jitter ▸ gate ▸ decode    │
//!  │   ▲ [`parent::Isolated`]      │ ◀───────────────── │ ▸ vad ▸ spurt        [`child`]        │
//!  └──────────────────────────────┘ FromChild (stdout) └──────────────────────────────────────┘
//! ```
//!
//! What comes from a relay is parsed, decrypted and decoded in the child. The parent keeps leases, links and the ring: what
//! was spoken is there when the child dies. A child that dies is replaced a few times; then its meeting ends.

pub mod child;
pub mod parent;
mod stream;
pub(crate) mod translate;

use std::{ffi::OsString, path::PathBuf};

use mesh::{
    clock::Micros,
    wire::{
        SpurtNo,
        control::{EdgeState, EdgeTotals},
        request::{Source, VadSettings},
        spurt::{EdgeStages, SpurtEnd},
    },
};
use serde::{Deserialize, Serialize};

use crate::connect::Failure;

/// How children are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program: this one.
    pub program: PathBuf,
    /// Its arguments: this process' own, and the flag that makes a child of it.
    pub args: Vec<OsString>,
    /// Bytes of memory one may take; beyond it its allocations fail, which ends it.
    pub memory: u64,
}

impl Settings {
    /// Children of the program that runs, configured as it is.
    ///
    /// # Errors
    /// The system does not say what runs.
    pub fn of_this_program(memory: u64) -> std::io::Result<Self> {
        let args = std::env::args_os().skip(1).chain([FLAG.into()]).collect();
        Ok(Self { program: std::env::current_exe()?, args, memory })
    }
}

/// The flag that makes a child.
pub const FLAG: &str = "--meeting-process";

/// What the parent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToChild {
    /// First, and once.
    Begin {
        /// What to join.
        source: Source,
        /// How speech is told from silence.
        vad: VadSettings,
        /// Bytes of memory to do it in.
        memory: u64,
        /// What the meeting's wall clock showed when the system's monotonic clock was zero.
        clock: Micros,
    },
    /// Leave the meeting and say what is left.
    Leave,
}

/// What the child says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromChild {
    /// See [`crate::connect::Event::Joined`].
    Joined {
        /// The platform's id.
        id: String,
        /// The display name.
        name: Option<String>,
        /// What they publish, where none of it can be heard.
        unheard: Option<String>,
    },
    /// See [`crate::connect::Event::Left`].
    Left {
        /// The platform's id.
        id: String,
    },
    /// See [`crate::connect::Event::State`].
    State {
        /// The state.
        state: EdgeState,
        /// Why.
        detail: Option<String>,
    },
    /// A spurt begins.
    Start {
        /// Whose.
        id: String,
        /// Its number in this child.
        spurt: SpurtNo,
        /// Capture time of item 0.
        captured: Micros,
    },
    /// It goes on.
    Item {
        /// Whose.
        id: String,
        /// Its number in this child.
        spurt: SpurtNo,
        /// The item's number in it.
        offset: u32,
        /// The Opus packet; `None` for a gap.
        packet: Option<Vec<u8>>,
        /// When it passed each stage.
        stages: EdgeStages,
    },
    /// It is over.
    End {
        /// Whose.
        id: String,
        /// Its number in this child.
        spurt: SpurtNo,
        /// The trailer.
        end: SpurtEnd,
    },
    /// What the participant's media path has done in this child; every second, which is the child's pulse, too.
    Tally {
        /// Whose; empty: nobody's, only the pulse.
        id: String,
        /// So far.
        totals: EdgeTotals,
    },
    /// Last: nothing follows.
    Ended {
        /// Why, if nobody asked it to.
        failure: Option<Failure>,
    },
}
