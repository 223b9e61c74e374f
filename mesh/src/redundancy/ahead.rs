//! Items of one spurt that came before their turn.

use std::collections::BTreeMap;

use crate::wire::spurt::Item;

/// Items kept for one spurt: over a second of speech, longer than any copy is late.
const MAX_ITEMS: usize = 64;
/// How far an item may be ahead of its turn, in items.
const MAX_AHEAD: u32 = 256;

/// What came early, by number. Beyond its bounds (64 items, 256 numbers) it takes nothing: the stream brings it.
#[derive(Debug, Default)]
pub struct Ahead {
    items: BTreeMap<u32, Item>,
}

impl Ahead {
    /// Keeps an item if it is of use when `next` is the next number: not in the past, not here, not too far ahead.
    /// A trailer that contradicts its own number is none. Says whether it was kept.
    pub fn keep(&mut self, next: u32, number: u32, item: Item) -> bool {
        let honest = !matches!(&item, Item::End(end) if end.items != number);
        let useful = honest && number >= next && number - next <= MAX_AHEAD;
        if !useful || self.items.len() >= MAX_ITEMS || self.items.contains_key(&number) {
            return false;
        }
        self.items.insert(number, item);
        true
    }

    /// The items whose turn it is when `next` is the next number, in order, a trailer last. What is in the past is forgotten.
    pub fn take(&mut self, next: u32) -> Vec<Item> {
        if self.items.first_key_value().is_some_and(|(number, _)| *number < next) {
            self.items = self.items.split_off(&next);
        }
        let (mut run, mut next) = (vec![], next);
        while let Some(item) = self.items.remove(&next) {
            let last = matches!(item, Item::End(_));
            run.push(item);
            next += 1;
            if last {
                self.items.clear();
            }
        }
        run
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::spurt::SpurtEnd;

    fn item(number: u32, of: u32) -> Item {
        if number == of {
            return Item::End(SpurtEnd::of(of));
        }
        Item::Frame(number.to_be_bytes().to_vec().into())
    }

    proptest! {
        /// A stream that advances in steps of any size, and copies in any order, some of them twice or never.
        #[test]
        fn any_mixture_of_copies_and_stream_yields_every_item_once_in_order(
            items in 0u32..150,
            copies in prop::collection::vec((0u32..160, 0u32..40), 0..400),
            steps in prop::collection::vec(1u32..30, 1..200),
        ) {
            let (mut ahead, mut got, mut streamed) = (Ahead::default(), vec![], 0);
            let mut copies = copies.into_iter().filter(|(number, _)| *number <= items);
            for step in steps.iter().chain(std::iter::repeat(&200)) {
                for (number, _) in copies.by_ref().take(*step as usize) {
                    ahead.keep(got.len() as u32, number, item(number, items));
                    let run = ahead.take(got.len() as u32);
                    got.extend(run);
                }
                let upto = (streamed + step).min(items + 1);
                for number in streamed..upto {
                    if number as usize == got.len() {
                        got.push(item(number, items));
                        let run = ahead.take(got.len() as u32);
                        got.extend(run);
                    }
                }
                streamed = upto;
                if streamed > items {
                    break;
                }
            }
            prop_assert_eq!(got, (0..=items).map(|number| item(number, items)).collect::<Vec<_>>());
        }

        #[test]
        fn it_never_keeps_more_than_its_bound(numbers in prop::collection::vec(any::<u32>(), 0..500), next: u32) {
            let mut ahead = Ahead::default();
            let kept = numbers.iter().filter(|n| ahead.keep(next, **n, Item::Gap)).count();
            prop_assert!(kept <= MAX_ITEMS && ahead.items.len() == kept);
            prop_assert!(ahead.items.keys().all(|n| *n >= next && *n - next <= MAX_AHEAD));
        }
    }

    #[test]
    fn a_trailer_that_contradicts_its_number_is_not_kept() {
        assert!(!Ahead::default().keep(0, 3, item(4, 4)));
        assert!(Ahead::default().keep(0, 4, item(4, 4)));
    }
}
