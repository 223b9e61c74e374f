//! The ways to a meeting's edges.

use std::collections::BTreeMap;

use mesh::wire::Epoch;

/// Edges that may be connected about one meeting; beyond it the one with the oldest epoch is not answered.
const MAX_LINKS: usize = 8;

/// By epoch: an edge whose epoch is over may still bring what it kept.
#[derive(Debug)]
pub(super) struct Links<L>(BTreeMap<Epoch, (u64, L)>);

impl<L> Default for Links<L> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<L: Clone> Links<L> {
    /// Keeps the newest: of one that is lost the last message may be read late.
    pub(super) fn attach(&mut self, epoch: Epoch, number: u64, link: L) {
        if self.0.get(&epoch).is_none_or(|(newest, _)| *newest <= number) {
            self.0.insert(epoch, (number, link));
        }
        if self.0.len() > MAX_LINKS {
            self.0.pop_first();
        }
    }

    pub(super) fn get(&self, epoch: Epoch) -> Option<L> {
        self.0.get(&epoch).map(|(_, link)| link.clone())
    }

    pub(super) fn all(&self) -> Vec<(Epoch, L)> {
        self.0.iter().map(|(epoch, (_, link))| (*epoch, link.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_link_of_an_epoch_is_kept_and_the_oldest_epoch_makes_room() {
        let mut links = Links::default();
        links.attach(Epoch(1), 7, "new");
        links.attach(Epoch(1), 6, "read late");
        assert_eq!(links.get(Epoch(1)), Some("new"));
        (2..20).for_each(|epoch| links.attach(Epoch(epoch), epoch, "other"));
        assert_eq!((links.len(), links.get(Epoch(1)), links.get(Epoch(19))), (MAX_LINKS, None, Some("other")));
    }
}
