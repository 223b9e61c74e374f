//! What happens in a history.

use std::{collections::VecDeque, time::Instant};

use core_node::{
    key::SpurtKey,
    meeting::machine::{Order, seek::Found},
};
use mesh::{
    clock::Micros,
    wire::{
        Epoch,
        control::{ToCore, ToEdge},
        request::{Request, Response},
    },
};

use crate::authority::Ask;

#[derive(Debug, Clone)]
pub(crate) enum Up {
    Message(ToCore),
    /// A spurt of one frame: its number, and when it was captured.
    Frame(u32, Micros),
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) enum Down {
    Message(ToEdge),
    Closed,
}

/// A control stream; each end closes by itself.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) edge: usize,
    pub(crate) core: usize,
    pub(crate) instance: usize,
    pub(crate) up: VecDeque<Up>,
    pub(crate) down: VecDeque<Down>,
    pub(crate) edge_open: bool,
    pub(crate) core_open: bool,
    /// Messages that have arrived and wait for the way to be free, up and down, and whether that is looked at again.
    pub(crate) due: [usize; 2],
    pub(crate) again: [bool; 2],
}

/// What a node asked, to go on when it is answered.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Replicate,
    Join {
        step: u64,
    },
    Captures {
        step: u64,
        former: Option<Epoch>,
    },
    Release,
    Former {
        tries: u32,
    },
    Reunite,
    Adopt,
    Renew {
        instance: usize,
        core: usize,
        sent: Instant,
    },
    /// Passed on for another node's request.
    Passed {
        asker: usize,
        request: u64,
    },
    WhoServes {
        instance: usize,
        of: usize,
    },
}

#[derive(Debug)]
pub(crate) enum Event {
    Timer(usize, u32),
    Up(usize),
    Down(usize),
    /// Whether what has arrived can be taken by now.
    Again(usize, usize),
    Dialled(usize, u32, usize, usize),
    Request {
        id: u64,
        from: usize,
        to: usize,
        request: Box<Request>,
        tries: u32,
    },
    Response {
        id: u64,
        from: usize,
        to: usize,
        response: Box<Option<Response>>,
        tries: u32,
    },
    Disk(usize, u32),
    Tick(usize, u32),
    Capture(usize, u32),
    Transcribed(usize, u32, u64, SpurtKey),
    Former(usize, u32, usize),
    Authority(usize, u32, Box<Ask>),
    CallOver(usize, u32, usize),
    /// What a step of a search for an edge has come to.
    Found(usize, u32, u64, Box<Found>),
    Ranked(usize, u32, u64, Box<Order>),
    /// The relay of an edge's meeting.
    Relay(usize, u32, usize),
    Fault,
    /// An edge that drains ends.
    Exit(usize, u32),
    /// Somebody asks for the meeting's end.
    Stop,
    Restart(usize),
    Calm,
}
