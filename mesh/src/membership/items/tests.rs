#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = Key> {
    (0..=Key::LAST.0).prop_map(Key)
}

prop_compose! {
    fn note()(key in key(), at: u32, sum: u16, stress in 0u16..=1000, draining: bool, meetings: u32, tag: u8, anchor in link(),
         signature in prop::collection::vec(any::<u8>(), 0..300)) -> Note {
        let proof = Proof { tag, anchor, signature };
        Note { key, at, sum, stress_permille: stress, draining, meetings, proof }
    }
}

fn link() -> impl Strategy<Value = Link> {
    any::<[u8; Link::LENGTH]>().prop_map(|bytes| Link::take(&mut &bytes[..]).unwrap())
}

prop_compose! {
    fn mark()(key in key(), at: u32, steps: u16, link in link()) -> Mark {
        Mark { key, at, steps, link }
    }
}

fn item() -> impl Strategy<Value = Item> {
    let keys = || prop::collection::vec(key(), 0..100);
    prop_oneof![
        prop::collection::vec(note(), 0..60).prop_map(Item::Notes),
        prop::collection::vec(mark(), 0..60).prop_map(Item::Marks),
        keys().prop_map(Item::Cards),
        any::<u64>().prop_map(Item::Clock),
        keys().prop_map(Item::Want),
        keys().prop_map(Item::Doubt),
        keys().prop_map(Item::Missing),
        (any::<u16>(), any::<u32>(), any::<bool>()).prop_map(|(count, sum, quiet)| Item::Digest(Digest {
            count,
            sum,
            quiet
        })),
        (any::<bool>(), key(), key(), keys()).prop_map(|(answer, from, to, lives)| Item::Roll {
            answer,
            range: (from, to),
            lives
        }),
    ]
}

proptest! {
    #[test]
    fn an_item_is_read_as_it_was_written(item in item()) {
        let bytes = item.encode(usize::MAX).unwrap();
        prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
        if let Item::Notes(notes) = &item {
            prop_assert_eq!(bytes.len(), ITEM_FRAME + notes.iter().map(Note::len).sum::<usize>());
        }
        if let Item::Marks(marks) = &item {
            // Some need a byte more: `steps` beyond 16383, which no chain is long enough for.
            prop_assert!(bytes.len() <= ITEM_FRAME + marks.len() * (Mark::LENGTH + 1));
        }
        prop_assert_eq!(item.encode(bytes.len() - 1), None);
        prop_assert_eq!(Item::decode(&bytes[2..]).unwrap(), item);
    }

    #[test]
    fn arbitrary_bytes_are_an_item_or_an_error(kind in 0u8..14, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Item::decode(&[&[kind], &bytes[..]].concat());
        let _ = Item::decode(&bytes);
    }

    #[test]
    fn a_note_s_time_is_found_within_24_days(known in 1_700_000_000_000u64..2_000_000_000_000, later in -2_000_000_000i64..2_000_000_000) {
        let at = known.saturating_add_signed(later);
        prop_assert_eq!(millis(at as u32, known), at);
    }
}

#[test]
fn a_full_packet_of_keys_fits() {
    let keys = vec![Key::LAST; keys_in(1000)];
    let roll = Item::Roll { answer: false, range: (Key::FIRST, Key::LAST), lives: keys };
    assert!(roll.encode(1000).is_some());
}
