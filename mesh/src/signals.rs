//! Signals that are for a node as a whole.

use std::io;

use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
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
