//! A meeting's folder on disk, worked on in the background.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use mesh::{
    tasks::{Broken, blocking},
    wire::spurt::Item,
};
use tokio::task::JoinHandle;

use crate::uplink::{SpurtKey, format::Record, spill::Spill};

/// One thing is done at a time.
pub(super) enum Disk {
    /// Nothing is to be spilled, or nothing can be any more.
    Off,
    Idle(Box<Spill>),
    Busy(JoinHandle<(Box<Spill>, Done)>),
}

/// What was done.
pub(super) enum Done {
    Written(Result<Vec<SpurtKey>, String>),
    Read(SpurtKey, Vec<Item>),
    /// It broke: nothing can be read or written any more.
    Gone(String),
}

impl Disk {
    pub(super) fn new(spill: Option<Spill>) -> Self {
        spill.map_or(Self::Off, |spill| Self::Idle(Box::new(spill)))
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle(_))
    }

    pub(super) fn write(&mut self, records: Vec<Record>) {
        self.start(move |spill| Done::Written(spill.write(records).map_err(|e| e.to_string())));
    }

    pub(super) fn read(&mut self, key: SpurtKey) {
        self.start(move |spill| Done::Read(key, spill.read(key)));
    }

    fn start(&mut self, work: impl FnOnce(&mut Spill) -> Done + Send + 'static) {
        match std::mem::replace(self, Self::Off) {
            Self::Idle(mut spill) => {
                *self = Self::Busy(blocking("spill", move || {
                    let done = work(&mut spill);
                    (spill, done)
                }));
            }
            other => *self = other,
        }
    }

    /// Resolves when what is under way is done; never when nothing is. Cancel-safe.
    pub(super) async fn done(&mut self) -> Done {
        let Self::Busy(work) = self else { return std::future::pending().await };
        match work.await {
            Ok((spill, done)) => {
                *self = Self::Idle(spill);
                done
            }
            Err(error) => {
                *self = Self::Off;
                Done::Gone(Broken::from(error).to_string())
            }
        }
    }

    /// Waits for what is under way; then deletes the folder if all of it is `settled`, else leaves it to the next process.
    pub(super) async fn close(mut self, settled: bool) {
        if matches!(self, Self::Busy(_)) {
            self.done().await;
        }
        if let Self::Idle(spill) = self
            && settled
        {
            // Nobody waits for it; a folder that stays is found again, and found to be done.
            let _ = blocking("spill", move || spill.remove()).await;
        }
    }
}
