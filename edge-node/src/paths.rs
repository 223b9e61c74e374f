//! All that is heard of one participant: a media path for each source, whose spurts are numbered together.
//!
//! ```text
//!  source 7 (microphone)      ──▶ pipeline ──[ 0 ........ ]        ──[ 2 .... ]
//!  source 9 (a shared screen) ──▶ pipeline      ──[ 1 ........... ]
//! ```
//!
//! Two sources may speak at once: then two spurts of the participant are open. A source that takes another's place gets that
//! one's path, so that a participant who is always given new ones has a few paths and no more.
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
/// A source not heard for so long may have been replaced.
const REPLACED: Duration = Duration::from_secs(2);

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
}

impl Path {
    fn new(pipeline: Pipeline) -> Self {
        Self { source: None, pipeline, spurt: SpurtNo::default() }
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
        let n = self.path_of(packet.source, now);
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

    /// The path of a source: its own, or that of one that is not heard any more, or another one.
    fn path_of(&mut self, source: u32, now: Instant) -> usize {
        let own = |path: &Path| path.source.is_some_and(|(of, _)| of == source);
        if let Some(n) = self.paths.iter().position(own) {
            return n;
        }
        let heard = |path: &Path| path.source.map(|(_, heard)| heard);
        let quietest = (0..self.paths.len()).min_by_key(|n| heard(&self.paths[*n])).unwrap_or(0);
        let replaced = heard(&self.paths[quietest]).is_none_or(|heard| heard + REPLACED <= now);
        if replaced || self.paths.len() >= MAX_PATHS {
            return quietest;
        }
        let another = Path::new(self.paths[0].pipeline.another());
        self.paths.push(another);
        self.paths.len() - 1
    }

    /// With the participant's number for the path's own.
    fn numbered(&mut self, n: usize, mut output: Output) -> Output {
        let ours = &mut self.paths[n].spurt;
        match &mut output {
            Output::Start { spurt, .. } => {
                *ours = self.next;
                self.next = SpurtNo(ours.0.wrapping_add(1));
                *spurt = *ours;
            }
            Output::Item { spurt, .. } => *spurt = *ours,
            Output::End { spurt, end } => {
                *spurt = *ours;
                // What goes on has the next number; another source's spurt may have taken it.
                end.continues &= self.next.0 == ours.0.wrapping_add(1);
            }
        }
        output
    }
}
