//! The soak's findings.

use std::{collections::BTreeMap, fmt, time::Duration};

use comfy_table::Table;
use serde::Serialize;

use super::{count, gauges::Gauges, meeting::Ended};

/// A table may have so many rows more at the end than when it was warm: what a moment more or less makes.
const ROWS: f64 = 16.0;
/// Memory may have grown so much, in MiB: allocators keep some of what they were given.
const MEMORY: f64 = 48.0;
/// It is judged from so many minutes on: until then each thing is done for the first time.
const MEMORY_FROM: f64 = 5.0;
/// Files and threads may be so many more.
const HANDLES: f64 = 8.0;

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Soak {
    minutes: f64,
    meetings: usize,
    failed: usize,
    /// Of those that did not fail.
    without_standby: usize,
    words: usize,
    words_missing: usize,
    join_ms_median: u64,
    /// Why the first of those failed that did.
    failures: Vec<String>,
    /// By node and name: when warm, and at the end.
    held: BTreeMap<String, BTreeMap<String, (f64, f64)>>,
    unclean: Vec<String>,
}

impl Soak {
    pub(super) fn of(took: Duration, ended: &[Ended], warm: Gauges, last: Gauges, unclean: Vec<String>) -> Self {
        let mut joined: Vec<Duration> = ended.iter().filter(|e| e.failure.is_none()).map(|e| e.joined).collect();
        joined.sort();
        let before = |node: &str, name: &str| warm.0.get(node).and_then(|all| all.get(name)).copied().unwrap_or(0.0);
        let row = |node: &str, (name, now): (&String, &f64)| (name.clone(), (before(node, name), *now));
        let rows = |node: &str, all: &BTreeMap<String, f64>| all.iter().map(|one| row(node, one)).collect();
        Self {
            minutes: took.as_secs_f64() / 60.0,
            meetings: ended.len(),
            failed: count(ended, |one| one.failure.is_some()),
            without_standby: count(ended, |one| one.failure.is_none() && !one.standby),
            words: ended.iter().map(|one| one.words).sum(),
            words_missing: ended.iter().map(|one| one.wrong).sum(),
            join_ms_median: joined.get(joined.len() / 2).map_or(0, |median| median.as_millis() as u64),
            failures: ended.iter().filter_map(|one| one.failure.clone()).take(5).collect(),
            held: last.0.iter().map(|(node, all)| (node.clone(), rows(node, all))).collect(),
            unclean,
        }
    }

    /// What is not as it should be, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.failures.clone();
        if self.without_standby > 0 {
            faults.push(format!("{} of {} meetings had no standby", self.without_standby, self.meetings));
        }
        let grown = self.held.iter().flat_map(|(node, all)| all.iter().map(move |(name, held)| (node, name, held)));
        faults.extend(grown.filter_map(|(node, name, (warm, last))| {
            let grown = last - warm > allowed(name);
            let judged = self.minutes >= MEMORY_FROM || !name.starts_with("memory");
            (grown && judged).then(|| format!("{node}: {name} grew from {warm:.0} to {last:.0}"))
        }));
        faults.extend(self.unclean.iter().cloned());
        faults
    }
}

fn allowed(name: &str) -> f64 {
    match name {
        _ if name.starts_with("rows of") => ROWS,
        _ if name.starts_with("memory") => MEMORY,
        _ => HANDLES,
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.meetings - self.failed;
        let share = 100.0 * (made - self.without_standby) as f64 / made.max(1) as f64;
        writeln!(
            f,
            "{} meetings in {:.1} minutes: {} failed, {share:.1} % of the others had a standby; joined within {} ms (median); \
             of {} words said {} are missing",
            self.meetings, self.minutes, self.failed, self.join_ms_median, self.words, self.words_missing
        )?;
        let mut table = Table::new();
        table.set_header(["node", "what", "warm", "end"]);
        for (node, all) in &self.held {
            for (name, (warm, last)) in all.iter().filter(|(_, (warm, last))| *warm > 0.0 || *last > 0.0) {
                table.add_row([node.clone(), name.clone(), format!("{warm:.0}"), format!("{last:.0}")]);
            }
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges(rows: f64, memory: f64) -> Gauges {
        let held = BTreeMap::from([("rows of links".to_owned(), rows), ("memory, MiB".to_owned(), memory)]);
        Gauges(BTreeMap::from([("core-1".to_owned(), held)]))
    }

    #[test]
    fn a_table_that_grows_is_a_fault_by_name_and_so_is_a_missing_standby() {
        let ended = [Ended { standby: true, ..Ended::default() }, Ended::default()];
        let fine = Soak::of(Duration::from_secs(60), &ended[..1], gauges(3.0, 100.0), gauges(9.0, 120.0), vec![]);
        assert_eq!(fine.faults(), Vec::<String>::new());
        let bad = Soak::of(Duration::from_secs(60), &ended, gauges(3.0, 100.0), gauges(90.0, 120.0), vec![]);
        let grown = |seconds| {
            Soak::of(Duration::from_secs(seconds), &ended[..1], gauges(3.0, 100.0), gauges(3.0, 200.0), vec![]).faults()
        };
        assert_eq!((grown(60), grown(600)), (vec![], vec!["core-1: memory, MiB grew from 100 to 200".to_owned()]));
        assert_eq!(bad.faults(), ["1 of 2 meetings had no standby", "core-1: rows of links grew from 3 to 90"]);
    }
}
