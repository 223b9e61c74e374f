//! When the meeting is left: in some histories somebody asks for it, nobody is in it any more, or its time is up.

use core_node::{meeting::Notice, store::record::LeaveRules};
use mesh::clock::Micros;

use crate::world::{CORES, Event, Kind, SECOND, World};

/// How often it is asked for anew.
const AGAIN: u64 = 5 * SECOND;

impl World {
    pub(crate) fn leave_rules(&mut self) -> LeaveRules {
        let kind = self.plan.kind;
        if kind != Kind::Left {
            return LeaveRules { alone_after_seconds: None, at: None };
        }
        let left = self.rng.range(5 * SECOND, 45 * SECOND);
        self.left = Some(left);
        self.tell(|_| format!("it is left at {} ms", left / 1000));
        match self.rng.range(0, 3) {
            0 => LeaveRules { alone_after_seconds: Some(3), at: None },
            1 => LeaveRules { alone_after_seconds: None, at: Some(Micros(self.wall(0).0 + left)) },
            _ => {
                self.after(left, Event::Stop);
                LeaveRules { alone_after_seconds: None, at: None }
            }
        }
    }

    /// How many people are there.
    pub(super) fn present(&self) -> usize {
        usize::from(self.left.is_none_or(|left| self.now < left))
    }

    /// Whoever serves the meeting is asked to leave it, by somebody who asks again.
    pub(crate) fn ask_to_leave(&mut self) {
        for c in (0..CORES).filter(|c| self.is_awake(*c)).collect::<Vec<_>>() {
            if let Some(live) = &mut self.cores[c].live {
                live.driver.notify(Notice::Stop);
                self.core_pump(c);
            }
        }
        if self.cores.iter().any(|core| core.live.is_some()) || self.now < 60 * SECOND {
            self.after(AGAIN, Event::Stop);
        }
    }
}
