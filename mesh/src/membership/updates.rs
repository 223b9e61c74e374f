//! Whose state is still to be passed on, and how often.

use std::collections::BTreeMap;

use super::{
    items::{ITEM_FRAME, Item, Mark},
    reports::{Reports, Telling},
};
use crate::identity::NodeId;

/// How often each node passes on what has hardly changed: nobody waits for it, and the next one comes within 10 s.
/// Of random telling with `k` receipts each, a share `s = exp(-k (1 - s))` never hears: 20 %, and six times in a row
/// one in 16 000.
const CALM: u8 = 2;
/// How often it passes on what others act on: of 10 000 nodes 5 do not hear at 5 % loss, and ask when they see that they lack it.
const BRISK: u8 = 8;
/// So often in its own words, with their signature; then by its mark, for which whoever lacks them asks.
const EAGER: u8 = 3;

/// Reports that may prove too long for what room is left before a packet is held to be full: to find out costs an encoding.
const MISFITS: u8 = 3;

/// More never fit into one packet, not even as marks.
const MOST: usize = 256;

/// What waits to be told, by whose it is. Bounded by the reports there are, for it holds none itself;
/// what is newer takes the place of what is older.
#[derive(Debug, Default)]
pub(super) struct Updates(BTreeMap<NodeId, Update>);

#[derive(Debug)]
struct Update {
    told: u8,
    brisk: bool,
    telling: Telling,
    /// Who knows it already.
    from: Option<NodeId>,
    /// Whom it was told last: several packets go to one node in a row, and all but the first would be wasted on it.
    to: Option<NodeId>,
}

impl Updates {
    /// There is something new of `node`: others should know soon if `brisk`.
    pub(super) fn hear(&mut self, node: NodeId, telling: Telling, brisk: bool, from: Option<NodeId>) {
        let old = self.0.get(&node);
        // Less cannot replace more that has not gone out: the others would have to ask for it.
        let telling = old.map_or(telling, |old| old.telling.max(telling));
        let brisk = brisk || old.is_some_and(|old| old.brisk);
        self.0.insert(node, Update { told: 0, brisk, telling, from, to: None });
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| keep(node));
    }

    /// Whether any wait that others act on.
    pub(super) fn are_brisk(&self) -> bool {
        self.0.values().any(|update| update.brisk)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What `to` should hear, as items for the end of a packet with `room`: what is urgent first, then what was
    /// told least.
    pub(super) fn fill(&mut self, to: &NodeId, room: usize, reports: &Reports) -> Vec<u8> {
        let (mut marks, mut notes, mut items) = (vec![], vec![], vec![]);
        let (mut left, mut misfits) = (room.saturating_sub(2 * ITEM_FRAME), 0);
        for node in self.in_order(to) {
            let Some(update) = self.0.get_mut(&node) else { continue };
            let telling = if update.told < EAGER { update.telling } else { Telling::Mark };
            let (Some(mark), Some(signed)) = (reports.mark(&node), reports.signed(&node)) else {
                self.0.remove(&node);
                continue;
            };
            let note = reports.note(&node).filter(|_| telling == Telling::Note);
            let before = left;
            match (telling, note) {
                (Telling::Note, Some(note)) if note.len() <= left => {
                    left -= note.len();
                    notes.push(note.clone());
                }
                (Telling::Note, Some(_)) => break,
                (Telling::Full | Telling::Note, _) if misfits < MISFITS => {
                    let item = Item::Report(Box::new(signed.clone())).encode(left).unwrap_or_default();
                    left -= item.len();
                    misfits += u8::from(item.is_empty());
                    items.extend(item);
                }
                (Telling::Mark, _) if Mark::LENGTH <= left => {
                    marks.push(mark);
                    left -= Mark::LENGTH;
                }
                _ => break,
            }
            if left < before {
                update.told += 1;
                update.to = Some(to.clone());
            }
            if update.told >= if update.brisk { BRISK } else { CALM } {
                self.0.remove(&node);
            }
        }
        let rest = [(notes.is_empty(), Item::Notes(notes)), (marks.is_empty(), Item::Marks(marks))];
        let rest = rest.into_iter().filter(|(empty, _)| !empty);
        items.extend(rest.filter_map(|(_, item)| item.encode(room)).flatten());
        items
    }

    fn in_order(&self, to: &NodeId) -> Vec<NodeId> {
        let knows = |update: &Update| [&update.from, &update.to].into_iter().flatten().any(|node| node == to);
        let lacks = |(node, update): &(&NodeId, &Update)| *node != to && !knows(update);
        let mut order: Vec<_> = self.0.iter().filter(lacks).map(|(node, r)| (!r.brisk, r.told, node)).collect();
        if order.len() > MOST {
            order.select_nth_unstable(MOST);
            order.truncate(MOST);
        }
        order.sort_unstable();
        order.into_iter().map(|(.., node)| node.clone()).collect()
    }
}
