//! Copies of items that race their spurt's stream: whichever comes first is taken.

use mesh::wire::spurt::Item;

use super::{Append, Ingest, Refusal};
use crate::key::SpurtKey;

impl Ingest {
    /// Whether a header has come for this spurt already.
    pub fn knows(&self, key: &SpurtKey) -> bool {
        self.spurts.contains_key(key) || self.is_done(key)
    }

    /// Copies of some items, by number, in any order. Returns what is now next in turn; the rest waits
    /// for its turn, as far as there is room. Copies for a spurt that is not open are ignored.
    ///
    /// # Errors
    /// Taken together with the spurt's stream they make no sense; the stream will show it as well.
    pub fn handle_copies(&mut self, key: &SpurtKey, items: Vec<(u32, Item)>) -> Result<Option<Append>, Refusal> {
        let Some(spurt) = self.spurts.get_mut(key) else { return Ok(None) };
        for (number, item) in items {
            spurt.ahead.keep(spurt.accepted, number, item);
        }
        let run = spurt.ahead.take(spurt.accepted);
        if run.is_empty() {
            return Ok(None);
        }
        let taken = spurt.take(key, spurt.accepted, run, self.limits.items_per_spurt, &mut self.counts);
        if taken.is_err() {
            spurt.ahead.clear();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::{
        clock::Micros,
        trace::TraceContext,
        wire::{Epoch, SpurtNo, spurt::SpurtEnd},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::speech::ingest::{Event, Limits};

    fn key() -> SpurtKey {
        SpurtKey { epoch: Epoch(1), participant: "ada".into(), spurt: SpurtNo(0) }
    }

    fn item(number: u32, of: u32) -> Item {
        if number == of {
            return Item::End(SpurtEnd::of(of));
        }
        Item::Frame(vec![0x78, number as u8, (number >> 8) as u8].into())
    }

    /// Every append so far continues the one before it; returns the numbers taken.
    fn follow(taken: &mut Vec<Item>, append: Option<Append>) -> Option<crate::speech::ingest::Receipt> {
        let append = append?;
        assert_eq!(append.first as usize, taken.len());
        let receipt = append.receipt();
        taken.extend(append.items);
        taken.extend(append.end.map(Item::End));
        Some(receipt)
    }

    proptest! {
        /// The stream comes whole and in order, cut anywhere, perhaps twice (a replay); copies come, get lost,
        /// doubled and reordered at will.
        #[test]
        fn every_item_is_taken_once_in_order(
            items in 0u32..120,
            moves in prop::collection::vec((any::<bool>(), 0u32..130, 1u32..20), 0..300),
            replay in any::<bool>(),
        ) {
            let mut ingest = Ingest::new(Limits::default());
            ingest.handle_header(&key(), Micros(1), TraceContext::new(1), 0).unwrap();
            let (mut taken, mut streamed) = (vec![], 0);
            let whole = [(false, 0, items + 1)];
            for (copy, number, count) in moves.into_iter().chain(whole) {
                let append = if copy {
                    let numbers = number..(number + count.min(4)).min(items + 1);
                    ingest.handle_copies(&key(), numbers.map(|n| (n, item(n, items))).collect()).unwrap()
                } else if streamed <= items {
                    let first = streamed;
                    streamed = (streamed + count).min(items + 1);
                    ingest.handle_items(&key(), first, (first..streamed).map(|n| item(n, items)).collect()).unwrap()
                } else {
                    None
                };
                follow(&mut taken, append).into_iter().for_each(|receipt| ingest.handle_logged(receipt));
            }
            if replay {
                let again = ingest.handle_items(&key(), 0, (0..=items).map(|n| item(n, items)).collect()).unwrap();
                prop_assert_eq!(again, None);
            }
            prop_assert_eq!(taken, (0..=items).map(|n| item(n, items)).collect::<Vec<_>>());
            let events: Vec<_> = std::iter::from_fn(|| ingest.poll_event()).collect();
            prop_assert_eq!(events.iter().filter(|e| matches!(e, Event::Whole { .. })).count(), 1);
            prop_assert_eq!(ingest.counts().frames_durable, u64::from(items));
        }
    }

    #[test]
    fn copies_before_any_header_or_after_the_words_are_out_are_ignored() {
        let mut ingest = Ingest::new(Limits::default());
        assert_eq!(ingest.handle_copies(&key(), vec![(0, item(0, 1))]), Ok(None));
        assert!(!ingest.knows(&key()));
        ingest.handle_header(&key(), Micros(1), TraceContext::new(1), 0).unwrap();
        ingest.handle_done(&key());
        assert!(ingest.knows(&key()));
        assert_eq!(ingest.handle_copies(&key(), vec![(0, item(0, 1))]), Ok(None));
    }
}
