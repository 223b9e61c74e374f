//! Which spurts may be called *done*: all that was used of them is published, and nothing more will be.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::SpurtKey;

/// One meeting's spurts between merging and publishing.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Utterances under way that have to do with a spurt.
    under_way: BTreeMap<SpurtKey, u32>,
    settled: BTreeSet<SpurtKey>,
}

impl Ledger {
    /// An utterance that has to do with these is under way.
    pub fn begin(&mut self, spurts: &[SpurtKey]) {
        for key in spurts {
            *self.under_way.entry(key.clone()).or_default() += 1;
        }
    }

    /// No other utterance will have to do with this one; whether it is done by that.
    #[must_use]
    pub fn settle(&mut self, key: &SpurtKey) -> bool {
        let waits = self.under_way.contains_key(key);
        if waits {
            self.settled.insert(key.clone());
        }
        !waits
    }

    /// The words of an utterance are being published. Returns what is done with them.
    pub fn finish(&mut self, spurts: &[SpurtKey]) -> Vec<SpurtKey> {
        let mut done = vec![];
        for key in spurts {
            match self.under_way.get_mut(key) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => {
                    self.under_way.remove(key);
                    if self.settled.remove(key) {
                        done.push(key.clone());
                    }
                }
                None => {}
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use mesh::wire::{Epoch, SpurtNo};

    use super::*;

    fn key(epoch: u64) -> SpurtKey {
        SpurtKey { epoch: Epoch(epoch), participant: "a".into(), spurt: SpurtNo(0) }
    }

    #[test]
    fn a_spurt_in_two_utterances_is_done_with_the_last_of_them() {
        let mut ledger = Ledger::default();
        ledger.begin(&[key(1), key(2)]);
        ledger.begin(&[key(2)]);
        assert!(!ledger.settle(&key(1)) && !ledger.settle(&key(2)));
        assert_eq!(ledger.finish(&[key(2)]), []);
        assert_eq!(ledger.finish(&[key(1), key(2)]), [key(1), key(2)]);
    }

    #[test]
    fn a_spurt_that_grows_on_is_not_done_with_its_beginning() {
        let mut ledger = Ledger::default();
        ledger.begin(&[key(1)]);
        assert_eq!(ledger.finish(&[key(1)]), []);
        assert!(ledger.settle(&key(1)), "nothing else came of it");
    }
}
