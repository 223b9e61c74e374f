//! All that is heard of one participant: a media path for each source, whose spurts are numbered together.
//!
//! ```text
//!  source 7 (microphone)      ──▶ pipeline ──[ 0 ........ ]        ──[ 2 .... ]
//!  source 9 (a shared screen) ──▶ pipeline      ──[ 1 ........... ]
//! ```
//!
//! Two sources may speak at once: then two spurts of the participant are open. A source that takes another's place gets that
//! one's path, so that a participant who is always given new ones has a few paths and no more. What goes on after a cut has the
//! next number, whoever else begins in between.
//!
//! Calling contract: as of [`Pipeline`].

use std::time::{Duration, Instant};

use mesh::{
    clock::Micros,
    wire::{SpurtNo, control::EdgeTotals},
};
use smallvec::{SmallVec, smallvec};

use crate::{
    media::RtpPacket,
    pipeline::{Output, Pipeline},
};

/// Sources of one participant that are heard at a time.
pub const MAX_PATHS: usize = 4;
/// A source not heard for so long may have been replaced;
const REPLACED: Duration = Duration::from_secs(2);
/// where all paths are taken, after so long: no two of those who speak share one.
const CROWDED: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub struct Paths {
    /// One at least.
    paths: SmallVec<[Path; 1]>,
    /// The next spurt's number.
    next: SpurtNo,
}

#[derive(Debug)]
struct Path {
    /// Whose, and when it was last heard.
    source: Option<(u32, Instant)>,
    pipeline: Pipeline,
    /// What its spurt under way is called.
    spurt: SpurtNo,
    /// What the next one is called, if it goes on with the one before.
    promised: Option<SpurtNo>,
}

impl Path {
    fn new(pipeline: Pipeline) -> Self {
        Self { source: None, pipeline, spurt: SpurtNo::default(), promised: None }
    }
}

impl Paths {
    /// Those of a participant who has said nothing yet: `pipeline` is the first of them.
    pub fn new(pipeline: Pipeline) -> Self {
        Self { paths: smallvec![Path::new(pipeline)], next: SpurtNo::default() }
    }

    /// Numbers the spurts to come from `next` on, if that is later than they would be.
    pub fn number_from(&mut self, next: SpurtNo) {
        self.next = self.next.max(next);
    }

    /// The number of the next spurt.
    pub fn next_spurt(&self) -> SpurtNo {
        self.next
    }

    /// Whether nothing of what was said is under way in here.
    pub fn is_idle(&self) -> bool {
        self.paths.iter().all(|path| path.pipeline.is_idle())
    }

    /// Takes a packet off the socket.
    pub fn handle_packet(&mut self, packet: RtpPacket, now: Instant) {
        let Some(n) = self.path_of(packet.source, now) else {
            metrics::counter!("nearfield_edge_sources_refused_packets_total").increment(1);
            return;
        };
        let path = &mut self.paths[n];
        path.source = Some((packet.source, now));
        path.pipeline.handle_packet(packet, now);
    }

    /// A deadline has passed, or may have.
    pub fn handle_timeout(&mut self, now: Instant, wall: Micros) {
        self.paths.iter_mut().for_each(|path| path.pipeline.handle_timeout(now, wall));
    }

    /// When [`Paths::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.paths.iter().filter_map(|path| path.pipeline.poll_timeout()).min()
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let (n, output) = self.paths.iter_mut().enumerate().find_map(|(n, p)| Some((n, p.pipeline.poll_output()?)))?;
        Some(self.numbered(n, output))
    }

    /// Waits for nothing any more and ends the spurts under way.
    pub fn finish(&mut self, now: Instant, wall: Micros) {
        self.paths.iter_mut().for_each(|path| path.pipeline.finish(now, wall));
    }

    /// What all of them have done so far.
    pub fn totals(&self) -> impl Iterator<Item = EdgeTotals> + '_ {
        self.paths.iter().map(|path| path.pipeline.totals())
    }

    /// The path of a source: its own, or that of one that is not heard any more, or another one; none where more speak at once
    /// than are heard.
    fn path_of(&mut self, source: u32, now: Instant) -> Option<usize> {
        let own = |path: &Path| path.source.is_some_and(|(of, _)| of == source);
        if let Some(n) = self.paths.iter().position(own) {
            return Some(n);
        }
        let heard = |path: &Path| path.source.map(|(_, heard)| heard);
        let quietest = (0..self.paths.len()).min_by_key(|n| heard(&self.paths[*n])).unwrap_or(0);
        let crowded = self.paths.len() >= MAX_PATHS;
        let quiet = if crowded { CROWDED } else { REPLACED };
        if heard(&self.paths[quietest]).is_none_or(|heard| heard + quiet <= now) {
            return Some(quietest);
        }
        if crowded {
            return None;
        }
        let another = Path::new(self.paths[0].pipeline.another());
        self.paths.push(another);
        Some(self.paths.len() - 1)
    }

    /// With the participant's number for the path's own.
    fn numbered(&mut self, n: usize, mut output: Output) -> Output {
        let next = self.next;
        let Path { spurt: ours, promised, .. } = &mut self.paths[n];
        match &mut output {
            Output::Start { spurt, .. } => {
                *ours = promised.take().unwrap_or_else(|| after(&mut self.next));
                *spurt = *ours;
            }
            Output::Item { spurt, .. } => *spurt = *ours,
            Output::End { spurt, end } => {
                *spurt = *ours;
                // What goes on has the next number; another source's spurt may have taken it.
                end.continues &= next.0 == ours.0.wrapping_add(1);
                *promised = end.continues.then(|| after(&mut self.next));
            }
        }
        output
    }
}

/// The next number, which is used by that.
fn after(next: &mut SpurtNo) -> SpurtNo {
    std::mem::replace(next, SpurtNo(next.0.wrapping_add(1)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use mesh::wire::{request::VadSettings, spurt::SpurtEnd};

    use super::*;
    use crate::{media::ParticipantId, pipeline::Settings};

    fn paths(count: usize) -> Paths {
        let mut paths = Paths::new(Pipeline::new(VadSettings::default(), Settings::default()));
        while paths.paths.len() < count {
            paths.paths.push(Path::new(paths.paths[0].pipeline.another()));
        }
        paths
    }

    #[test]
    fn what_goes_on_after_a_cut_has_the_next_number_though_another_source_begins_first() {
        let mut paths = paths(2);
        let spurt = SpurtNo::default();
        let start = || Output::Start { spurt, captured: Micros(1) };
        let end = |continues| Output::End { spurt, end: SpurtEnd { continues, ..SpurtEnd::of(1) } };
        let mut told = |n, output| match paths.numbered(n, output) {
            Output::End { spurt, end } => (spurt.0, end.continues),
            other => (other.spurt().0, false),
        };
        assert_eq!([told(0, start()), told(0, end(true))], [(0, false), (0, true)]);
        assert_eq!([told(1, start()), told(0, start())], [(2, false), (1, false)]);
        // Where another has begun before the cut, what goes on cannot be called so.
        assert_eq!([told(1, end(true)), told(0, end(true))], [(2, true), (1, false)]);
        assert_eq!([told(0, start()), told(1, start())], [(4, false), (3, false)]);
        assert_eq!(paths.next_spurt(), SpurtNo(5));
    }

    #[test]
    fn more_sources_at_once_than_are_heard_leave_the_others_their_paths() {
        let (mut paths, begun) = (paths(1), Instant::now());
        let mut hear = |source: u32, at: Instant, sequence: u16| {
            let participant = ParticipantId::new("p").unwrap();
            let (timestamp, payload) = (u32::from(sequence) * 960, vec![8].into());
            let (level, arrived_at) = (None, Micros(1));
            paths.handle_packet(
                RtpPacket { participant, source, sequence, timestamp, level, payload, arrived: at, arrived_at },
                at,
            );
            paths.paths.iter().filter_map(|path| Some(path.source?.0)).collect::<Vec<_>>()
        };
        for n in 0..50 {
            for source in 0..=MAX_PATHS as u32 {
                let now = begun + Duration::from_millis(20) * u32::from(n);
                let heard = hear(source, now, n);
                assert!(!heard.contains(&(MAX_PATHS as u32)), "{n}: {heard:?}");
            }
        }
        let later = begun + Duration::from_millis(980) + CROWDED;
        assert_eq!(hear(9, later, 1), [9, 1, 2, 3], "one that has fallen silent makes room");
    }
}
