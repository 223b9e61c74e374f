//! How full this core's tables are: a gauge for each by name, so that one that only grows is found before it is full.

use std::{collections::BTreeMap, sync::Arc};

use super::Meetings;
use crate::{
    lock,
    meeting::{
        Meeting,
        wishes::{Unmet, Wish},
    },
};

impl Meetings {
    /// Every table that outlives a request, and its rows; those of meetings are summed over all that are live.
    pub fn tables(&self) -> BTreeMap<&'static str, usize> {
        let mut tables = BTreeMap::from([
            ("reserved_keys", lock(&self.reservations).rows()),
            ("unsettled_claims", lock(&self.unsettled).len()),
            ("lives_looked_at", lock(&self.lives).rows()),
            ("removed_meetings", lock(&self.removals).len()),
            ("tasks", self.tasks.len()),
        ]);
        tables.extend(self.standbys.tables());
        tables.extend(self.placer.tables());
        let live = self.all_live();
        tables.insert("live_meetings", live.len());
        for (name, rows) in live.iter().flat_map(|meeting| meeting.tables()) {
            *tables.entry(name).or_default() += rows;
        }
        tables
    }

    /// What of the live meetings' wishes is not met: of each wish how many meetings lack it, and the newest example.
    pub fn unmet(&self) -> BTreeMap<Wish, (usize, Unmet)> {
        let mut unmet = BTreeMap::new();
        for row in self.all_live().iter().flat_map(|meeting| meeting.wishes.unmet()) {
            let (count, newest) = unmet.entry(row.wish).or_insert_with(|| (0, row.clone()));
            *count += 1;
            if row.since > newest.since {
                *newest = row;
            }
        }
        unmet
    }

    /// What an operator should know although new meetings are taken; one sentence each.
    pub fn shortcomings(&self) -> Vec<String> {
        let live = self.live_count();
        let tell = |(wish, (count, newest)): (Wish, (usize, Unmet))| {
            format!("{}: {count} of {live} live meetings lack it ({})", wish.as_str(), newest.why)
        };
        let refusal = self.pool.refusal().map(|why| format!("the engine makes words of nothing: {why}"));
        refusal.into_iter().chain(self.unmet().into_iter().map(tell)).collect()
    }

    pub(super) fn note_tables(&self) {
        for (table, rows) in self.tables() {
            metrics::gauge!("nearfield_core_table_rows", "table" => table).set(rows as f64);
        }
        let unmet = self.unmet();
        for wish in Wish::ALL {
            let count = unmet.get(&wish).map_or(0, |(count, _)| *count);
            metrics::gauge!("nearfield_core_unmet_wishes_meetings", "wish" => wish.as_str()).set(count as f64);
        }
    }

    fn all_live(&self) -> Vec<Arc<Meeting>> {
        lock(&self.live).values().cloned().collect()
    }
}
