//! One meeting's [`Replicator`] as its tasks share it.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    entry::Entry,
    sender::{Replicator, Settled},
};
use crate::{lock, store::log::LogClosed};

/// Shared by whoever writes of a meeting, and the task that ships it.
pub struct Replication {
    machine: Mutex<Replicator>,
    changes: watch::Sender<u64>,
}

impl Replication {
    /// Shares `machine`.
    pub fn new(machine: Replicator) -> Self {
        Self { machine: Mutex::new(machine), changes: watch::channel(0).0 }
    }

    /// Does something with the machine, and wakes whoever waits for it to change.
    pub fn with<T>(&self, act: impl FnOnce(&mut Replicator, Instant) -> T) -> T {
        let result = act(&mut lock(&self.machine), Instant::now());
        self.changes.send_modify(|n| *n += 1);
        result
    }

    /// Does something with the machine that nobody waits for.
    pub fn see_mut<T>(&self, act: impl FnOnce(&mut Replicator) -> T) -> T {
        act(&mut lock(&self.machine))
    }

    /// Looks at the machine.
    pub fn see<T>(&self, look: impl FnOnce(&Replicator) -> T) -> T {
        look(&lock(&self.machine))
    }

    /// Ships a change that has been queued for the disk, if there is a standby. Returns its number.
    pub fn push(&self, entry: impl FnOnce() -> Entry) -> u64 {
        // Whatever is written while nobody is sent entries will be in the snapshot.
        if !self.see(Replicator::wants_entries) {
            return self.see(Replicator::written);
        }
        let entry = entry();
        self.with(|machine, now| machine.push(&entry, now))
    }

    /// Returns when the change of that number may be spoken of.
    ///
    /// # Errors
    /// It must not be: another core serves the meeting.
    pub async fn settled(&self, number: u64) -> Result<(), LogClosed> {
        let mut changes = self.changes.subscribe();
        let begun = Instant::now();
        loop {
            changes.borrow_and_update();
            match self.see(|machine| machine.settled(number)) {
                Settled::Yes => break,
                Settled::Never => return Err(LogClosed),
                Settled::No => changes.changed().await.map_err(|_| LogClosed)?,
            }
        }
        let waited = begun.elapsed();
        if waited > Duration::ZERO {
            metrics::histogram!("nearfield_core_standby_wait_seconds").record(waited.as_secs_f64());
        }
        Ok(())
    }

    /// Counts changes of the machine.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
