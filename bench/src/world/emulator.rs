//! The Internet between the hosts: one thread that reads what each host sends, asks the path for its
//! fate, and hands it to its destination when it is due.
#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, Read, Write},
    net::Ipv4Addr,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
    prctl,
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use super::{
    path::{Quality, Verdict},
    route::{Location, PathReport, Place, Routes},
    tun::MTU,
};

/// Packets on their way at once. Beyond it the newest is dropped and counted: only a flood over a
/// long path without a bottleneck gets there.
const MAX_IN_FLIGHT: usize = 200_000;

/// Packets read from one host before the others have their turn.
const READS_PER_TURN: usize = 64;

/// Tokens of the two files that are no host's.
const COMMANDS: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What the emulator is asked to do.
pub(super) enum Command {
    Attach { location: Location, ip: Ipv4Addr, tun: File },
    SetPath { from: Place, to: Place, quality: Quality },
    Cut { a: Place, b: Place },
    Heal { a: Place, b: Place },
    Report { reply: mpsc::SyncSender<(Vec<PathReport>, Strays)> },
    Stop,
}

/// Packets that never took a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Strays {
    /// Addressed to no host of this world, or not IPv4.
    pub unroutable: u64,
    /// Dropped because too many packets were on their way.
    pub overflow: u64,
    /// Refused by the destination's kernel.
    pub refused: u64,
}

/// The handle on the emulator's thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Emulator {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel's own.
    pub(super) fn start(routes: Routes) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let forwarder = Forwarder::new(routes, inbox, wake.clone())?;
        let thread = thread::Builder::new().name("internet".into()).spawn(move || forwarder.run())?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Hands a command over; it takes effect before any packet sent from now on is looked at.
    pub(super) fn send(&self, command: Command) {
        // The thread ends only on `Stop`, which only `drop` sends.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Link {
    location: Location,
    tun: File,
}

/// A packet on its way, ordered by when it is due and then by when it was sent.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    due: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

struct Forwarder {
    epoll: Epoll,
    timer: TimerFd,
    armed: Option<Instant>,
    wake: Arc<EventFd>,
    inbox: mpsc::Receiver<Command>,
    routes: Routes,
    links: Vec<Link>,
    by_ip: BTreeMap<Ipv4Addr, usize>,
    in_flight: BinaryHeap<Reverse<Parcel>>,
    sent: u64,
    strays: Strays,
}

impl Forwarder {
    fn new(routes: Routes, inbox: mpsc::Receiver<Command>, wake: Arc<EventFd>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, COMMANDS))?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            epoll,
            timer,
            armed: None,
            wake,
            inbox,
            routes,
            links: Vec::new(),
            by_ip: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            sent: 0,
            strays: Strays::default(),
        })
    }

    fn run(mut self) {
        run_ahead_of_others();
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.arm();
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return tracing::error!(%error, "the emulated Internet has stopped"),
            };
            for event in &events[..ready] {
                match event.data() {
                    COMMANDS if !self.obey() => return,
                    COMMANDS => {}
                    TIMER => drop(self.timer.wait()),
                    link => self.read(link as usize),
                }
                self.deliver();
            }
        }
    }

    /// Sets the timer to the next packet due.
    fn arm(&mut self) {
        let next = self.in_flight.peek().map(|parcel| parcel.0.due);
        if next == self.armed {
            return;
        }
        self.armed = next;
        let set = match next {
            Some(due) => {
                // Zero would switch the timer off.
                let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        if let Err(error) = set {
            tracing::error!(%error, "the emulated Internet's timer failed");
        }
    }

    /// Obeys all waiting commands; false once it is to stop.
    fn obey(&mut self) -> bool {
        let _ = self.wake.read();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Attach { location, ip, tun } => self.attach(Link { location, tun }, ip),
                Command::SetPath { from, to, quality } => self.routes.set((from, to), quality),
                Command::Cut { a, b } => self.routes.cut(a, b),
                Command::Heal { a, b } => self.routes.heal(a, b),
                // Whoever asked may have given up.
                Command::Report { reply } => drop(reply.try_send((self.routes.report(), self.strays))),
                Command::Stop => return false,
            }
        }
        true
    }

    fn attach(&mut self, link: Link, ip: Ipv4Addr) {
        let token = self.links.len();
        if let Err(error) = self.epoll.add(&link.tun, EpollEvent::new(EpollFlags::EPOLLIN, token as u64)) {
            return tracing::error!(%error, host = &*link.location.name, "a host could not be attached");
        }
        self.by_ip.insert(ip, token);
        self.links.push(link);
    }

    /// Takes what a host has sent.
    fn read(&mut self, from: usize) {
        let mut buffer = [0; MTU];
        for _ in 0..READS_PER_TURN {
            // A reader that finds nothing, or whose link is gone, has read all there is.
            let Ok(length) = (&self.links[from].tun).read(&mut buffer) else { return };
            self.send(from, &buffer[..length]);
        }
    }

    fn send(&mut self, from: usize, packet: &[u8]) {
        let Some(&to) = destination(packet).and_then(|ip| self.by_ip.get(&ip)) else {
            self.strays.unroutable += 1;
            return;
        };
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.strays.overflow += 1;
            return;
        }
        let (path, cut) = self.routes.find(&self.links[from].location, &self.links[to].location);
        let cut = cut || (path.quality().no_udp && is_udp(packet));
        if let Verdict::Deliver { at: due } = path.transit(Instant::now(), packet.len(), cut) {
            self.sent += 1;
            self.in_flight.push(Reverse(Parcel { due, number: self.sent, to, bytes: packet.to_vec() }));
        }
    }

    /// Hands over what is due.
    fn deliver(&mut self) {
        let now = Instant::now();
        while self.in_flight.peek().is_some_and(|parcel| parcel.0.due <= now) {
            let Some(Reverse(parcel)) = self.in_flight.pop() else { return };
            if (&self.links[parcel.to].tun).write(&parcel.bytes).is_err() {
                self.strays.refused += 1;
            }
        }
    }
}

/// The destination in an IPv4 header (RFC 791 section 3.1).
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let &[a, b, c, d] = packet.get(16..20)?.first_chunk()?;
    (packet[0] >> 4 == 4).then_some(Ipv4Addr::new(a, b, c, d))
}

/// By the protocol in an IPv4 header.
fn is_udp(packet: &[u8]) -> bool {
    const UDP: u8 = 17;
    packet.get(9) == Some(&UDP)
}

/// The emulator's own lateness shows as delay in every measurement: it goes before other work where
/// it is allowed to, and the kernel does not round its timers.
#[allow(unsafe_code)]
fn run_ahead_of_others() {
    let _ = prctl::set_timerslack(1);
    // SAFETY: a system call with plain numbers; 0 is the calling thread.
    if unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, -15) } != 0 {
        tracing::debug!("the emulated Internet runs at ordinary priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_packets_have_a_destination() {
        let mut packet = [0; 20];
        packet[16..].copy_from_slice(&[10, 77, 0, 2]);
        assert_eq!(destination(&packet), None);
        packet[0] = 0x45;
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 77, 0, 2)));
        assert_eq!(destination(&packet[..19]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn parcels_leave_in_order_of_time_then_of_sending() {
        let now = Instant::now();
        let parcel =
            |ms, number| Reverse(Parcel { due: now + Duration::from_millis(ms), number, to: 0, bytes: vec![] });
        let mut heap: BinaryHeap<_> = [parcel(5, 1), parcel(3, 3), parcel(3, 2)].into();
        let order: Vec<u64> = std::iter::from_fn(|| heap.pop()).map(|parcel| parcel.0.number).collect();
        assert_eq!(order, [2, 3, 1]);
    }
}
