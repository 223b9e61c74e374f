//! Signals that are for a program as a whole.

use std::io;

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// From now on SIGHUP does not end this process, whether or not anybody waits for it yet: whoever has new certificates may say so
/// while the node is still starting, when it reads them anyway. To be called before anything that takes time.
///
/// # Errors
/// The system allows no handler.
pub fn heed_hangup(runtime: &Runtime) -> io::Result<()> {
    let _within = runtime.enter();
    // The handler stays when what waits for it goes.
    signal(SignalKind::hangup()).map(drop)
}

/// SIGTERM and SIGINT, by which a program is asked to end.
#[derive(Debug)]
pub struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    /// From now on neither ends this process by itself. Call within a tokio runtime.
    ///
    /// # Errors
    /// The system allows no handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits until one of them comes.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
