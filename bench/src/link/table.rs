//! The figures of one path, for people.

use comfy_table::Table;

use super::Row;

/// All ways on one path, each beside the WebSocket.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    let path = rows.first().map_or(String::new(), |row| {
        let bursts = if row.burst_ms > 0 { format!(" in {} ms bursts", row.burst_ms) } else { String::new() };
        format!("{} ms, {:.0} % lost{bursts}", row.rtt_ms, row.loss * 100.0)
    });
    let header = ["delivered", "p50 ms", "p99 ms", "max ms", "kB", "p99 / websocket", "bytes / websocket"];
    table.set_header(std::iter::once(path.as_str()).chain(header));
    let base = rows.iter().find(|row| row.way == "websocket");
    for row in rows {
        let ratio =
            |of: f64, to: Option<f64>| to.filter(|to| *to > 0.0).map_or("-".into(), |to| format!("{:.2}", of / to));
        table.add_row([
            row.way.clone(),
            format!("{:.2} %", row.delivered * 100.0),
            format!("{:.1}", row.p50_ms),
            format!("{:.1}", row.p99_ms),
            format!("{:.1}", row.max_ms),
            format!("{:.0}", row.bytes as f64 / 1e3),
            ratio(row.p99_ms, base.map(|b| b.p99_ms)),
            ratio(row.bytes as f64, base.map(|b| b.bytes as f64)),
        ]);
    }
    table
}
