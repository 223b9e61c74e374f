//! A meeting that a traitor would like to have: made while it lies, and open to the region in which it pretends to be.
#![allow(clippy::disallowed_methods, reason = "a shell: it waits by the wall clock")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::{cores::Ask, stage::Stage},
    watch::Watch,
};

/// The lie is believed by then, if at all.
const BELIEVED: Duration = Duration::from_secs(4);
/// Until it has an edge, a core and a standby.
const PLACED: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Makes the meeting, waits until it is placed, and ends it; who should have no part in it and has.
///
/// # Errors
/// It is not made, or not placed in time.
pub(super) async fn set(stage: &Stage, watch: &Watch, body: Value, patience: u32) -> Result<Vec<String>> {
    tokio::time::sleep(BELIEVED).await;
    let cores = &stage.meeting().cores;
    let made = cores.ask(Ask::Post("/v1/meetings".into(), body)).await.context("no meeting can be made")?;
    let path = format!("/v1/meetings/{}", made["id"].as_str().context("it has no id")?);
    let begun = Instant::now();
    let view = loop {
        let view = cores.get(&path).await?;
        let is_placed = view["status"] == "active" && view["standby"].is_string();
        if is_placed || begun.elapsed() > PLACED * patience {
            break view;
        }
        tokio::time::sleep(LOOK).await;
    };
    let wrong = watch.misplaced(&view);
    cores.ask(Ask::Delete(path)).await?;
    Ok(wrong)
}
