//! A receipt for people.

use std::fmt::Write;

use comfy_table::Table;
use mesh::identity::Identity;

use super::Receipt;

/// What a receipt that was checked says, in tables.
pub fn show(receipt: &Receipt, signer: &Identity) -> String {
    let mut out = String::new();
    let why = receipt.sub_code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    let allowed = if receipt.residency.is_empty() { "anywhere".into() } else { receipt.residency.join(", ") };
    let counts = receipt.counts;
    let lines = [
        ("meeting", receipt.meeting_id.to_string()),
        ("status", format!("{}{why}", receipt.status.as_str())),
        ("begun", receipt.begun_at.to_string()),
        ("ended", receipt.ended_at.to_string()),
        ("allowed in", allowed),
        ("relay", format!("{} at {}", receipt.relay.kind, receipt.relay.host)),
        ("speech", format!("{} frames in {} spurts", counts.frames, counts.spurts)),
        ("transcript", format!("{} segments, {} words", counts.segments, counts.words)),
        ("its SHA-256", receipt.transcript.sha256.clone()),
        ("not captured", format!("{} times", receipt.gaps.len())),
        ("signed", format!("{} by {} in {} ({})", receipt.issued_at, signer.node, signer.region, receipt.software)),
    ];
    for (name, value) in lines {
        // Writing to a text cannot fail.
        let _ = writeln!(out, "{name:<13}{value}");
    }
    let _ = writeln!(out, "{}", nodes(receipt));
    out
}

fn nodes(receipt: &Receipt) -> Table {
    let mut table = Table::new();
    table.set_header(["node", "region", "role", "term or epoch", "from", "to", "frames", "software"]);
    for core in &receipt.cores {
        let role = format!("core, {}", core.role.as_str());
        let times = [core.from.to_string(), core.to.to_string()];
        let [from, to] = times;
        table.add_row([&core.node, &core.region, &role, &core.term.to_string(), &from, &to, "", &core.software]);
    }
    for edge in &receipt.edges {
        let from = edge.from.map(|at| at.to_string()).unwrap_or_default();
        let role = format!("edge, slot {}", edge.slot);
        let (epoch, to, frames) = (edge.epoch.to_string(), edge.to.to_string(), edge.frames.to_string());
        table.add_row([&edge.node, &edge.region, &role, &epoch, &from, &to, &frames, ""]);
    }
    table
}
