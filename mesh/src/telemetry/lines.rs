//! The log on its way to standard error.
//!
//! Whoever logs has something better to do: a line is handed to a thread of its own and never waited for. One that cannot be
//! written (the disk is full, the reader of a pipe has died or does not read) is dropped and counted, and the log says so
//! as soon as it can be written again.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::tasks::await_trace;

/// Bytes that wait to be written; lines beyond them are lost.
const MAX_WAITING: usize = 1 << 20;
/// How long the end of a program waits for its last lines.
const FLUSH: Duration = Duration::from_secs(1);
/// How often at most it is said that lines were lost.
const TELL_EVERY: Duration = Duration::from_secs(1);

enum Sent {
    Line(Vec<u8>),
    /// Answer when all before this is written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Tally {
    /// Bytes.
    waiting: AtomicUsize,
    /// Lines, since it was last told.
    lost: AtomicU64,
}

impl Tally {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("nearfield_log_lines_lost_total").increment(1);
    }
}

/// Where lines go.
pub(super) struct Lines {
    to: Sender<Sent>,
    tally: Arc<Tally>,
}

/// When it is dropped, what is still waiting is written, if that takes no longer than a second; the trace of a panic before that, which
/// may take some seconds.
#[derive(Debug)]
pub struct LastLines(Sender<Sent>);

/// Starts the thread that writes to `out`.
///
/// # Errors
/// The system has no thread to give.
pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Lines, LastLines)> {
    let (to, queue) = channel();
    let tally = Arc::<Tally>::default();
    let shared = tally.clone();
    // A limit on memory may be set as soon as this returns; a thread that starts under it may find none for itself, and aborts.
    let (up, is_up) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        let _ = up.send(());
        write_lines(out, &queue, &shared);
    };
    thread::Builder::new().name("log".into()).spawn(run)?;
    let _ = is_up.recv();
    Ok((Lines { to: to.clone(), tally }, LastLines(to)))
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The subscriber writes each event at once, as one line.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bytes = line.len();
        let fits = self.tally.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_WAITING;
        if !fits || self.to.send(Sent::Line(line.to_vec())).is_err() {
            self.tally.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.tally.lose();
        }
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        await_trace();
        let (done, wait) = sync_channel(1);
        // Without the thread there is nothing to be waited for.
        if self.0.send(Sent::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH);
        }
    }
}

fn write_lines(out: impl Write, queue: &Receiver<Sent>, tally: &Tally) {
    let mut out = Out { out, torn: false };
    let (mut why, mut told) = (None, None::<Instant>);
    while let Ok(sent) = queue.recv() {
        let line = match sent {
            Sent::Line(line) => line,
            Sent::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        tally.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if let Err(error) = out.put(&line) {
            tally.lose();
            why = Some(error.to_string());
        } else if tally.lost.load(Ordering::Relaxed) > 0 && told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let lines = tally.lost.swap(0, Ordering::Relaxed);
            let reason = why.take().unwrap_or_else(|| "they came faster than they could be written".into());
            // Comes back here as any other line.
            tracing::warn!(lines, reason, "lines of the log were lost");
        }
    }
}

struct Out<W> {
    out: W,
    /// The last line was written in part.
    torn: bool,
}

impl<W: Write> Out<W> {
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.out.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn = rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Mutex, mpsc};

    use tracing_subscriber::util::SubscriberInitExt;

    use super::*;

    /// A disk with so many bytes of room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().unwrap();
            let count = bytes.len().min(disk.1);
            if count == 0 {
                return Err(io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32));
            }
            disk.0.extend_from_slice(&bytes[..count]);
            disk.1 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn subscriber(lines: Lines) -> impl SubscriberInitExt {
        tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(lines).log_internal_errors(false).finish()
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nobody_and_says_later_what_was_lost() {
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 100;
        let (lines, last) = start(disk.clone()).unwrap();
        let tally = lines.tally.clone();
        let _subscriber = subscriber(lines).set_default();
        (0..5).for_each(|n| tracing::info!(n, "a line that is lost in part or as a whole"));
        drop(last);
        assert_eq!(tally.lost.load(Ordering::Relaxed), 4);

        // Space again: on the thread of the log there is no subscriber in a test, so what it says is not seen here.
        disk.0.lock().unwrap().1 = 1000;
        tracing::info!("after");
        while tally.lost.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        let written = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
        let mut written = written.lines();
        assert!(written.next().unwrap().ends_with("n=0"), "whole");
        written.next().unwrap();
        assert!(written.next().unwrap().ends_with("after"), "on a line of its own, after the torn one");
    }

    #[test]
    fn the_trace_of_the_last_panic_is_waited_for_and_is_in_the_log() {
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 1000;
        let (lines, last) = start(disk.clone()).unwrap();
        let tracing = crate::tasks::Tracing::begin().unwrap();
        let telling = thread::spawn(move || {
            // As long as names are being read.
            thread::sleep(Duration::from_millis(50));
            (&lines).write_all(b"the way to a panic\n").unwrap();
            drop(tracing);
        });
        drop(last);
        assert_eq!(disk.0.lock().unwrap().0, b"the way to a panic\n");
        telling.join().unwrap();
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_back() {
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_held, stuck) = mpsc::channel();
        let (lines, last) = start(Stuck(stuck)).unwrap();
        let line = vec![b'x'; 1024];
        for _ in 0..2000 {
            assert_eq!((&lines).write(&line).unwrap(), 1024);
        }
        assert!(lines.tally.waiting.load(Ordering::Relaxed) <= MAX_WAITING);
        assert!(lines.tally.lost.load(Ordering::Relaxed) >= 2000 - 1025);
        std::mem::forget(last);
    }
}
