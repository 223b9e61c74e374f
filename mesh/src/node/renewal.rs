//! Certificates that change while the node runs: the files are watched, and what they hold is taken up.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{Shared, note_expiry};
use crate::{
    identity::{
        certs::{CertError, CertPaths, Credentials, Pem},
        rotation::Rotation,
    },
    tasks::{Broken, blocking},
};

/// How often the files are read. A change is taken up after the second read that finds it.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Reads the node's certificate files again and again, and at once on SIGHUP, until the node stops.
/// Does nothing for credentials that were not loaded from files.
pub(super) async fn run(shared: Arc<Shared>) {
    let credentials = shared.transport.credentials();
    let Some((files, in_use)) = credentials.files() else { return };
    let mut hangup = signal(SignalKind::hangup())
        .inspect_err(|e| warn!(%e, "SIGHUP will not renew certificates; their files are watched all the same"))
        .ok();
    let mut rotation = Rotation::new(Ok(in_use.clone()));
    loop {
        let at_once = tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sleep(READ_EVERY) => false,
            () = next(&mut hangup) => true,
        };
        let Ok(found) = read(files).await else { return };
        if let Some(found) = rotation.handle_read(found, at_once) {
            attempt(&shared, &mut rotation, found);
        }
        metrics::gauge!("nearfield_mesh_certificate_refused").set(f64::from(u8::from(rotation.is_refused())));
    }
}

/// What the files hold, or why they cannot be read: equal errors are the same error.
type Found = Result<Pem, String>;

fn attempt(shared: &Shared, rotation: &mut Rotation<Found>, found: Found) {
    let current = shared.transport.credentials();
    let renewed = match &found {
        Ok(pem) => current.renewed(pem).map_err(|e: CertError| e.to_string()),
        Err(unread) => Err(unread.clone()),
    };
    let renewed = renewed.and_then(|new| take_up(shared, new).map_err(|e| e.to_string()));
    let outcome = if renewed.is_ok() { "taken" } else { "refused" };
    metrics::counter!("nearfield_mesh_certificate_renewals_total", "outcome" => outcome).increment(1);
    match renewed {
        Ok(()) => rotation.handle_taken(found),
        Err(reason) => {
            error!(reason, "new certificate files refused; the node goes on with what it had");
            rotation.handle_refused(found);
        }
    }
}

/// From here on every handshake uses `credentials`; connections are judged anew by them (see `validity`).
pub(super) fn take_up(shared: &Shared, credentials: Credentials) -> std::io::Result<()> {
    note_expiry(&credentials);
    let left = credentials.expires().duration_since(SystemTime::now()).unwrap_or_default();
    shared.transport.renew(credentials.clone())?;
    shared.keyring.renew(credentials, SystemTime::now());
    shared.keys_changed.notify_one();
    info!(days = left.as_secs() / 86_400, "certificates renewed");
    Ok(())
}

async fn read(files: &CertPaths) -> Result<Found, Broken> {
    let files = files.clone();
    Ok(blocking("certificates", move || files.read().map_err(|e| e.to_string())).await?)
}

async fn next(hangup: &mut Option<Signal>) {
    let Some(signal) = hangup else { return std::future::pending().await };
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}
