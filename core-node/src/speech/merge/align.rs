//! Lays what two edges heard of one speaker on top of each other.
//!
//! A relay forwards the same Opus packets to each of its subscribers, so equal packets are the same moment, whatever the
//! edges' clocks say and whatever RTP numbers the relay gave out. Speech hardly ever repeats a packet; silence does, and so does
//! what is played rather than said (announcements, hold music). So packets that are there once on either side, at the same time
//! as well as the clocks are known to each other, are *anchors*, those that most of them contradict are dropped, and from
//! anchor to anchor items are paired by their number: an item is a packet or the place of one that was lost. Where an edge
//! encoded anew between, before or behind them, items are laid by the clocks, which the anchors have shown.

use std::{collections::BTreeMap, time::Duration};

use super::slot::{Cell, span};

/// How far two edges' clocks may be apart.
pub(super) const SLACK: Duration = Duration::from_secs(2);
/// How far anchors may disagree about that: lost time is rounded to packets at either edge.
const CONSENSUS: i64 = 250_000;

/// Pairs of equal packets, by index, rising on either side; none if nothing shows that the two have anything in common. The
/// clocks are known to each other but for `margin`.
pub(super) fn align(a: &[Cell], b: &[Cell], margin: Duration) -> Vec<(usize, usize)> {
    // One packet of silence that looks like another is no proof. Either may be off by the margin.
    trusted(extend(a, b, &anchors(a, b, (2 * margin).min(SLACK))))
}

/// The same for two that have nothing but silence in common: only as good as the clocks are known.
pub(super) fn align_by_time(a: &[Cell], b: &[Cell]) -> Vec<(usize, usize)> {
    trusted(by_time(a, b))
}

fn trusted((pairs, contradicted): (Vec<(usize, usize)>, usize)) -> Vec<(usize, usize)> {
    if contradicted >= pairs.len() { vec![] } else { pairs }
}

/// By how much `b` is to be moved to lie on `a`, in microseconds: the median over all pairs.
pub(super) fn shift(a: &[Cell], b: &[Cell], pairs: &[(usize, usize)]) -> i64 {
    median(pairs.iter().map(|(i, j)| a[*i].at - b[*j].at).collect())
}

fn median(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn anchors(a: &[Cell], b: &[Cell], margin: Duration) -> Vec<(usize, usize)> {
    let (in_a, in_b) = (once(a), once(b));
    let near = |(i, j): &(usize, usize)| u128::from(a[*i].at.abs_diff(b[*j].at)) <= margin.as_micros();
    let both = in_a.iter().filter_map(|(print, i)| Some(((*i)?, (*in_b.get(print)?)?)));
    let mut pairs: Vec<(usize, usize)> = both.filter(near).collect();
    let lag = shift(a, b, &pairs);
    pairs.retain(|(i, j)| (a[*i].at - b[*j].at - lag).abs() <= CONSENSUS);
    pairs.sort_unstable();
    rising(&pairs)
}

/// Where each packet is that is there once.
fn once(cells: &[Cell]) -> BTreeMap<u32, Option<usize>> {
    let mut seen = BTreeMap::new();
    for (at, cell) in cells.iter().enumerate().filter(|(_, c)| c.is_frame()) {
        seen.entry(cell.print).and_modify(|first| *first = None).or_insert(Some(at));
    }
    seen
}

/// The longest choice of `pairs`, sorted by their first numbers, of which the second rise too.
fn rising(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // Patience sorting: the pile of each pair, and the top of the pile before it when it was laid.
    let (mut tops, mut before): (Vec<usize>, Vec<Option<usize>>) = (vec![], vec![]);
    for (n, (_, j)) in pairs.iter().enumerate() {
        let pile = tops.partition_point(|top| pairs[*top].1 < *j);
        before.push(pile.checked_sub(1).map(|left| tops[left]));
        if pile == tops.len() { tops.push(n) } else { tops[pile] = n }
    }
    let mut chain: Vec<(usize, usize)> = vec![];
    let mut at = tops.last().copied();
    while let Some(n) = at {
        chain.push(pairs[n]);
        at = before[n];
    }
    chain.reverse();
    chain
}

/// What follows from the anchors for the items around them; and how many packets contradict.
fn extend(a: &[Cell], b: &[Cell], anchors: &[(usize, usize)]) -> (Vec<(usize, usize)>, usize) {
    let (Some(first), Some(last)) = (anchors.first(), anchors.last()) else { return (vec![], 0) };
    let before = (1..=first.0.min(first.1)).map(|k| (first.0 - k, first.1 - k));
    let (mut pairs, mut contradicted) = walk(a, b, before);
    pairs.reverse();
    for (one, two) in anchors.iter().zip(anchors.iter().skip(1)) {
        pairs.push(*one);
        let (da, db) = (two.0 - one.0, two.1 - one.1);
        let (left, wrong) = walk(a, b, (1..da.min(db)).map(|k| (one.0 + k, one.1 + k)));
        let reached = left.last().copied().unwrap_or(*one);
        pairs.extend(left);
        if da == db {
            contradicted += wrong;
        } else {
            let room = (two.0 - reached.0).min(two.1 - reached.1);
            let (right, _) = walk(a, b, (1..room).map(|k| (two.0 - k, two.1 - k)));
            pairs.extend(right.into_iter().rev());
        }
    }
    pairs.push(*last);
    let after = (1..(a.len() - last.0).min(b.len() - last.1)).map(|k| (last.0 + k, last.1 + k));
    let (right, wrong) = walk(a, b, after);
    pairs.extend(right);
    (pairs, contradicted + wrong)
}

/// The equal ones among these, up to the first two packets that differ; what may be encoded anew contradicts nothing.
fn walk(a: &[Cell], b: &[Cell], steps: impl Iterator<Item = (usize, usize)>) -> (Vec<(usize, usize)>, usize) {
    let mut pairs = vec![];
    for (i, j) in steps {
        if a[i].same(&b[j]) {
            pairs.push((i, j));
        } else if a[i].is_frame() && b[j].is_frame() {
            return (pairs, usize::from(!a[i].is_long() && !b[j].is_long()));
        }
    }
    (pairs, 0)
}

/// Equal packets at the same time.
fn by_time(a: &[Cell], b: &[Cell]) -> (Vec<(usize, usize)>, usize) {
    let (mut pairs, mut contradicted, mut next) = (vec![], 0, 0);
    for (i, cell) in a.iter().enumerate().filter(|(_, c)| c.is_frame()) {
        let half = i64::from(cell.micros / 2);
        next += b[next..].iter().take_while(|other| other.at < cell.at - half).count();
        match b.get(next).filter(|other| other.at <= cell.at + half && other.is_frame()) {
            Some(other) if other.same(cell) => {
                pairs.push((i, next));
                next += 1;
            }
            Some(_) => contradicted += 1,
            None => {}
        }
    }
    (pairs, contradicted)
}

/// All that is in `a` and in `b`, what is in both once. `b` has been moved onto `a`.
pub(super) fn zip(a: &[Cell], b: &[Cell], pairs: &[(usize, usize)]) -> Vec<Cell> {
    let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { return overlay(a, b) };
    let mut out = vec![];
    head(&a[..first.0], &b[..first.1], &mut out);
    for (one, two) in pairs.iter().zip(pairs.iter().skip(1)) {
        out.push(a[one.0]);
        let (in_a, in_b) = (&a[one.0 + 1..two.0], &b[one.1 + 1..two.1]);
        match in_a.len() == in_b.len() {
            _ if unlike(in_a, in_b) => out.extend(overlay(in_a, in_b)),
            true => by_number(in_a, in_b, &mut out),
            false => out.extend(by_order(in_a, in_b)),
        }
    }
    out.push(a[last.0]);
    tail(&a[last.0 + 1..], &b[last.1 + 1..], &mut out);
    out
}

/// What both have before their first pair.
fn head(a: &[Cell], b: &[Cell], out: &mut Vec<Cell>) {
    if unlike(a, b) {
        return out.extend(overlay(a, b));
    }
    let both = a.len().min(b.len());
    let ((more_a, a), (more_b, b)) = (a.split_at(a.len() - both), b.split_at(b.len() - both));
    out.extend_from_slice(more_a);
    out.extend_from_slice(more_b);
    by_number(a, b, out);
}

/// What both have behind their last pair.
fn tail(a: &[Cell], b: &[Cell], out: &mut Vec<Cell>) {
    if unlike(a, b) {
        return out.extend(overlay(a, b));
    }
    let both = a.len().min(b.len());
    let ((a, more_a), (b, more_b)) = (a.split_at(both), b.split_at(both));
    by_number(a, b, out);
    out.extend_from_slice(more_a);
    out.extend_from_slice(more_b);
}

/// Item by item: the packet, if either has it.
fn by_number(a: &[Cell], b: &[Cell], out: &mut Vec<Cell>) {
    for (one, two) in a.iter().zip(b) {
        match (one.is_frame(), two.is_frame()) {
            (false, true) => out.push(*two),
            // Two packets where one is expected: neither is to be lost.
            (true, true) if !one.same(two) => out.extend([*one, *two]),
            _ => out.push(*one),
        }
    }
}

/// Packets of both by their time, where the two count different items between the same two moments.
fn by_order(a: &[Cell], b: &[Cell]) -> Vec<Cell> {
    let frames: Vec<Cell> = b.iter().filter(|c| c.is_frame()).copied().collect();
    if frames.is_empty() {
        return a.to_vec();
    }
    let mut all: Vec<Cell> = a.iter().filter(|c| c.is_frame() || !fills(&frames, c)).copied().collect();
    all.extend(frames);
    all.sort_by_key(|c| c.at);
    all
}

fn fills(frames: &[Cell], gap: &Cell) -> bool {
    frames.iter().any(|f| f.at <= gap.middle() && gap.middle() < f.end())
}

/// Whether packets of these may be the same speech and no equals, so that only the clocks can tell: once these are known
/// to each other, that is as good for packets that the source made so long.
pub(super) fn unlike(a: &[Cell], b: &[Cell]) -> bool {
    a.iter().chain(b).any(Cell::is_long)
}

/// Two that are the same speech in other packets (a relay that encodes anew for each subscriber, an edge that does for its
/// uplink): `a`, and of `b` what `a` has not half of, by the clocks.
pub(super) fn overlay(a: &[Cell], b: &[Cell]) -> Vec<Cell> {
    let within = span(a);
    let is_new = |c: &&Cell| !within.contains(&c.middle()) || (c.is_frame() && 2 * common(a, c) < i64::from(c.micros));
    by_order(a, &b.iter().filter(is_new).copied().collect::<Vec<_>>())
}

/// How much of `cell` lies in packets of `cells`, in microseconds.
fn common(cells: &[Cell], cell: &Cell) -> i64 {
    let from = cells.partition_point(|c| c.end() <= cell.at);
    let beside = cells[from..].iter().take_while(|c| c.at < cell.end()).filter(|c| c.is_frame());
    beside.map(|c| c.end().min(cell.end()) - c.at.max(cell.at)).sum()
}
