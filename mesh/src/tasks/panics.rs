//! What is told of a panic: where it was. What it said may quote a word that was spoken, a name or a token; so that is in the log at
//! DEBUG, and nowhere else.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    fmt,
    panic::{PanicHookInfo, resume_unwind},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tracing::Span;

/// A trace is being told. Whatever panics meanwhile is told without one: to take a trace waits for the one before.
static TRACING: Mutex<bool> = Mutex::new(false);
/// It has been told.
static TRACED: Condvar = Condvar::new();

/// How long the end of a program waits for the last trace.
const LAST_TRACE: Duration = Duration::from_secs(5);

thread_local! {
    /// Where this thread panicked last. Only the hook is told, and only whoever catches it asks.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// That something panicked, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Panic {
    /// `file:line:column`; `None` where [`tell_panic`] is not the hook, as in tests.
    at: Option<String>,
}

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It panicked.
    #[error(transparent)]
    Panicked(#[from] Panic),
    /// It was stopped, or the runtime ended.
    #[error("it was stopped")]
    Stopped,
}

/// The panic hook: whatever panics says so in the log, as everything else does; who it was follows (see [`super`]).
pub fn tell_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string);
    tracing::error!(at, "panic");
    tracing::debug!(at, said = panic.payload_as_str().unwrap_or("nothing"), "what the panic said");
    if let Some(tracing) = Tracing::begin() {
        tell_trace(at.clone(), tracing);
    }
    // A thread that ends has no more use for it.
    let _ = LAST.try_with(|last| last.replace(at));
}

/// How it came to that, where RUST_BACKTRACE asks for it.
fn tell_trace(at: Option<String>, tracing: Tracing) {
    let (trace, span) = (Backtrace::capture(), Span::current());
    if trace.status() != BacktraceStatus::Captured {
        return;
    }
    beside_the_runtime(move || {
        let _tracing = tracing;
        span.in_scope(|| tracing::error!(at, %trace, "the way to a panic"));
    });
}

/// A trace is told until this is dropped, whatever becomes of who tells it.
#[derive(Debug)]
pub(crate) struct Tracing(());

impl Tracing {
    /// `None` while another is told.
    pub(crate) fn begin() -> Option<Self> {
        let mut tracing = TRACING.lock().unwrap_or_else(PoisonError::into_inner);
        // Not made where it is not to be: to drop one ends what another tells.
        (!std::mem::replace(&mut *tracing, true)).then(|| Self(()))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        *TRACING.lock().unwrap_or_else(PoisonError::into_inner) = false;
        TRACED.notify_all();
    }
}

/// At the end of a program: waits for the trace that is being told, if that takes no longer than [`LAST_TRACE`].
pub(crate) fn await_trace() {
    let tracing = TRACING.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = TRACED.wait_timeout_while(tracing, LAST_TRACE, |tracing| *tracing);
}

/// Names of frames are read from the whole program's debugging information. The first time this takes a second or several, for which a
/// thread of the runtime must not stand still: leases run out in less.
fn beside_the_runtime(work: impl FnOnce() + Send + 'static) {
    if Handle::try_current().is_err() {
        // The program may end with this thread.
        return work();
    }
    // No thread, no trace: there is no room to tell of that either.
    let _ = std::thread::Builder::new().name("trace".into()).spawn(work);
}

impl Panic {
    /// Of what was caught on this thread just now.
    pub fn caught(payload: Box<dyn Any + Send>) -> Self {
        match payload.downcast::<Self>() {
            // It began in another task.
            Ok(known) => *known,
            Err(_) => Self { at: LAST.take() },
        }
    }

    /// Has whoever runs this break of it as well. Nothing is told again.
    pub fn go_on(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "it panicked at {at}"),
            None => f.write_str("it panicked"),
        }
    }
}

#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the one place")]
impl From<tokio::task::JoinError> for Broken {
    fn from(error: tokio::task::JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::Panicked(payload.downcast().map_or(Panic { at: None }, |known| *known)),
            Err(_) => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{sync::mpsc, thread};

    use super::*;

    fn thread_of(work: impl FnOnce(Box<dyn FnOnce() + Send>)) -> thread::ThreadId {
        let (told, tells) = mpsc::channel();
        work(Box::new(move || told.send(thread::current().id()).unwrap()));
        tells.recv().unwrap()
    }

    #[test]
    fn a_panic_while_a_trace_is_told_is_no_reason_never_to_tell_another() {
        let told = thread::spawn(|| {
            let _tracing = Tracing::begin().unwrap();
            assert!(Tracing::begin().is_none(), "one at a time");
            resume_unwind(Box::new(()));
        });
        assert!(told.join().is_err() && Tracing::begin().is_some());
    }

    #[tokio::test]
    async fn no_thread_of_the_runtime_waits_for_the_names_of_a_trace() {
        assert_ne!(thread_of(beside_the_runtime), thread::current().id());
    }

    #[test]
    fn a_thread_that_may_be_the_last_tells_its_trace_itself() {
        assert_eq!(thread_of(beside_the_runtime), thread::current().id());
    }
}
