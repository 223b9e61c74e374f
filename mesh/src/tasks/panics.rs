//! What is told of a panic: where it was. What it said may quote a word that was spoken, a name or a token; so that is in the log at
//! DEBUG, and nowhere else.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    fmt,
    panic::{PanicHookInfo, resume_unwind},
};

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
    let trace = Backtrace::capture();
    // By RUST_BACKTRACE.
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(at, trace, "panic");
    tracing::debug!(at, said = panic.payload_as_str().unwrap_or("nothing"), "what the panic said");
    // A thread that ends has no more use for it.
    let _ = LAST.try_with(|last| last.replace(at));
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
