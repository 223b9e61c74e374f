//! One history, and what must be so at its end.

use core_node::store::record::{Gap, Status};
use mesh::wire::Epoch;

use crate::world::{CORES, Event, Kind, MS, NODES, Plan, SECOND, START, World};

/// Faults for so long, then none.
const TROUBLE: u64 = 40 * SECOND;
/// And for so long it must hold from then on.
const HOLD: u64 = 5 * SECOND;

/// What is captured is heard, and its end noticed, later by up to so much where cores are well: a beat, a slow write.
const LATE: u64 = 1500 * MS;
/// An edge may die unnoticed until its lease is over; as long as another captures by then, nobody knows.
const UNKNOWN: u64 = 3500 * MS;
/// Time in a gap in which an edge may have captured all the same: it was not known yet.
const KNOWN: u64 = 300 * MS;
/// What ended within this before the end of a history may be named later.
const UNNAMED: u64 = 6 * SECOND;

/// After the last fault.
fn bound(kind: Kind) -> u64 {
    match kind {
        // A lease that a core takes up again after its restart (6.75 s), an edge that was asked and does not open (15 s) and another that
        // does; and time to find each other again (10 s).
        Kind::Any | Kind::Drain | Kind::Gaps => 35 * SECOND,
        // A secondary edge that often failed is sought after a minute's pause.
        Kind::Two => 100 * SECOND,
        // An edge that was told to leave, and is gone, is waited for as long as one that is on its way home (150 s), and another that was
        // sought then as well.
        Kind::Left => 180 * SECOND,
    }
}

pub(crate) fn history(plan: Plan) -> World {
    let end = TROUBLE + bound(plan.kind);
    let mut world = World::new(plan);
    for n in 0..NODES {
        world.begin(n);
    }
    world.create(0);
    let first = world.rng.range(2 * SECOND, 8 * SECOND);
    world.after(first, Event::Fault);
    world.after(TROUBLE, Event::Calm);
    world.run(end);
    if world.oracle.violation.is_none() {
        let frames = world.oracle.frames;
        world.now = end;
        world.run(end + HOLD);
        judge(&mut world, frames);
    }
    world
}

fn judge(world: &mut World, frames: u64) {
    let wrong = match world.plan.kind {
        Kind::Left => left(world),
        _ if is_over(world) => None,
        Kind::Gaps => owned(world, frames).or_else(|| named(world)),
        _ => owned(world, frames),
    };
    if let Some(wrong) = wrong {
        world.oracle.violated(format!("after all was healed {wrong}"));
    }
}

/// One core serves, the meeting is active, and in each slot one edge captures it and gets its speech through. What is wrong, if it is not so.
fn owned(world: &World, frames: u64) -> Option<String> {
    let serving: Vec<_> = (0..CORES).filter_map(|c| Some((c, world.cores[c].serves()?))).collect();
    let [(c, _)] = serving[..] else { return Some(format!("{} cores serve: {serving:?}", serving.len())) };
    let status = world.cores[c].status();
    if status != Some((Status::Active, Status::Active)) {
        return Some(format!("core {c} holds it to be {status:?}"));
    }
    if world.oracle.frames == frames {
        return Some(format!("no frame is taken; {serving:?}"));
    }
    let capturing = world.capturing();
    let slots: Vec<Option<u8>> = capturing.iter().map(|(_, epoch)| world.oracle.slot(*epoch)).collect();
    let one_each = match world.plan.kind.redundancy() {
        1 => slots.len() == 1,
        _ => matches!(slots[..], [one, other] if one != other),
    };
    let wanted = capturing.iter().all(|(_, epoch)| world.cores[c].wants(*epoch));
    (!one_each || !wanted).then(|| format!("these capture: {capturing:?}, in slots {slots:?}"))
}

/// It was ended. The core that did so may have crashed as soon as that was written.
fn is_over(world: &World) -> bool {
    let ended = |c: usize| world.cores[c].held().is_some_and(|record| record.status.ended());
    world.oracle.ended.is_some() || (0..CORES).any(ended)
}

/// It has come to its end, and nobody captures it.
fn left(world: &World) -> Option<String> {
    let live: Vec<usize> = (0..CORES).filter(|c| world.cores[*c].live.is_some()).collect();
    let capturing: Vec<(usize, Epoch)> = world.capturing();
    let over = live.is_empty() && capturing.is_empty() && is_over(world);
    (!over).then(|| format!("cores {live:?} serve what was left, and {capturing:?} capture it"))
}

/// A gap is named if and only if nobody captured.
fn named(world: &World) -> Option<String> {
    let silences = &world.oracle.silences;
    let span = |gap: &Gap| Some((gap.from.0.saturating_sub(START), gap.to?.0.saturating_sub(START)));
    let gaps: Vec<(u64, u64)> = world.oracle.gaps.iter().filter_map(span).collect();
    let long = |(from, to): (u64, u64)| to.saturating_sub(from) > UNKNOWN && to + UNNAMED < world.now;
    let near = |(from, to): (u64, u64)| gaps.iter().any(|(f, t)| *f <= to + LATE && from <= *t + LATE);
    // Before the first has captured there is none.
    let whole = silences.iter().skip(1).filter_map(|(from, to)| Some((*from, (*to)?)));
    if let Some((from, to)) = whole.clone().find(|span| long(*span) && !near(*span)) {
        return Some(format!("nobody captured from {} to {} ms, and no gap is named: {gaps:?}", from / MS, to / MS));
    }
    let silent = |from: u64, to: u64| -> u64 {
        let end = |to: &Option<u64>| to.unwrap_or(u64::MAX);
        silences.iter().map(|(f, t)| end(t).min(to).saturating_sub((*f).max(from))).sum()
    };
    let captured = |(from, to): (u64, u64)| {
        let (from, to) = (from + LATE, to.saturating_sub(LATE));
        to.saturating_sub(from) > silent(from, to) + KNOWN
    };
    let wrong = gaps.iter().find(|gap| captured(**gap))?;
    Some(format!("a gap is named from {} to {} ms, in which an edge captured", wrong.0 / MS, wrong.1 / MS))
}
