//! What a meeting was asked to have and has not: shown with it, in `/readyz` and in the metrics, until it has.

use std::{collections::BTreeMap, sync::Mutex};

use mesh::clock::Micros;
use serde::Serialize;
use utoipa::ToSchema;

use crate::lock;

/// What may be wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// A core that would take it over.
    Standby,
    /// A secondary edge.
    Redundancy,
    /// An edge whose speech has a way to this core.
    Path,
}

impl Wish {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Standby, Self::Redundancy, Self::Path];

    /// As the API and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Redundancy => "redundancy",
            Self::Path => "path",
        }
    }
}

/// A wish that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// Which.
    pub wish: Wish,
    /// Since when.
    pub since: Micros,
    /// Why, in words, as far as is known.
    pub why: String,
}

/// One meeting's unmet wishes.
#[derive(Debug, Default)]
pub struct Wishes(Mutex<BTreeMap<Wish, Unmet>>);

impl Wishes {
    /// `wish` is not met as of `now`, for this reason.
    pub fn handle_unmet(&self, wish: Wish, why: impl Into<String>, now: Micros) {
        let (why, mut unmet) = (why.into(), lock(&self.0));
        let row = unmet.entry(wish).or_insert_with(|| {
            metrics::counter!("nearfield_core_wishes_unmet_total", "wish" => wish.as_str()).increment(1);
            Unmet { wish, since: now, why: String::new() }
        });
        row.why = why;
    }

    /// `wish` is met, or is no wish any more.
    pub fn handle_met(&self, wish: Wish) {
        lock(&self.0).remove(&wish);
    }

    /// What is not met.
    pub fn unmet(&self) -> Vec<Unmet> {
        lock(&self.0).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_told_with_its_newest_reason_and_since_when_until_it_is_met() {
        let wishes = Wishes::default();
        wishes.handle_unmet(Wish::Standby, "nobody", Micros(1));
        wishes.handle_unmet(Wish::Standby, "full", Micros(2));
        let told = Unmet { wish: Wish::Standby, since: Micros(1), why: "full".into() };
        assert_eq!(wishes.unmet(), [told]);
        wishes.handle_met(Wish::Standby);
        assert_eq!(wishes.unmet(), []);
    }
}
