//! What each node holds at one moment: memory, files, threads, and the rows of every table by name.

use std::{collections::BTreeMap, fs};

use anyhow::Result;

use crate::{bed::Bed, client::Client, world::Host};

/// Gauges of rows, as the nodes name them: `..._table_rows{table="..."} N`.
const ROWS: &str = "_table_rows{";

/// By node, then by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauges(pub(super) BTreeMap<String, BTreeMap<String, f64>>);

impl Gauges {
    pub(super) async fn of_all(user: &Host, bed: &Bed) -> Result<Self> {
        let mut all = BTreeMap::new();
        for node in &bed.nodes {
            let api = node.api;
            let metrics = user.run(move || async move { Client::new(api)?.text("/metrics").await }).await??;
            let process = bed.process(&node.identity.node).map(of_process).unwrap_or_default();
            all.insert(node.identity.node.to_string(), tables(&metrics).chain(process).collect());
        }
        Ok(Self(all))
    }
}

/// The tables in a node's metrics.
fn tables(metrics: &str) -> impl Iterator<Item = (String, f64)> {
    metrics.lines().filter_map(|line| {
        let (_, rest) = line.split_once(ROWS)?;
        let (labels, rows) = rest.rsplit_once("} ")?;
        let table = labels.split("table=\"").nth(1)?.split('"').next()?;
        Some((format!("rows of {table}"), rows.parse().ok()?))
    })
}

/// What `/proc` says of a process (proc(5)).
fn of_process(id: u32) -> BTreeMap<String, f64> {
    let entries = |what: &str| fs::read_dir(format!("/proc/{id}/{what}")).map_or(0, Iterator::count) as f64;
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let memory = kib("RssAnon:").or(kib("VmRSS:")).unwrap_or(0.0) / 1024.0;
    BTreeMap::from([
        ("memory, MiB".into(), memory),
        ("open files".into(), entries("fd")),
        ("threads".into(), entries("task")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_from_prometheus_text_and_nothing_else_is() {
        let text = "# TYPE nearfield_core_table_rows gauge\nnearfield_core_table_rows{table=\"links\"} 3\nother{table=\"x\"} 9\nnearfield_edge_table_rows{table=\"meetings\"} 0\n";
        let rows: Vec<_> = tables(text).collect();
        assert_eq!(rows, [("rows of links".into(), 3.0), ("rows of meetings".into(), 0.0)]);
    }
}
