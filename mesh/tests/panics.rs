//! What is told of a panic that quotes what nobody is to read: in a process of its own, for its hook.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io,
    sync::{Arc, Mutex},
};

use mesh::tasks::{self, Broken, Panic, Tasks};
use tracing::{Level, subscriber};
use tracing_subscriber::fmt::MakeWriter;

const SECRET: &str = "Ada says 4711";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// All ways in which a task may be run; what whoever waits for it is told.
async fn broken() -> Vec<String> {
    let tasks = Tasks::default();
    tasks.keep("kept", || async { panic!("{SECRET}") });
    tasks.need("needed", async { panic!("{SECRET}") });
    let mut set = tokio::task::JoinSet::new();
    set.spawn(tasks::told("one of many", async { panic!("{SECRET}") }));
    let once: Result<(), _> = tasks::once("once", async { panic!("{SECRET}") }).await;
    let blocking: Result<(), _> = tasks::blocking("blocking", || panic!("{SECRET}")).await;
    // As errors are shown where nobody thought of panics.
    let mut told = vec![once.as_ref().unwrap_err().to_string(), blocking.as_ref().unwrap_err().to_string()];
    told.extend([once, blocking].map(|ended| Broken::from(ended.unwrap_err()).to_string()));
    told.push(Broken::from(set.join_next().await.unwrap().unwrap_err()).to_string());
    told.push(tasks::caught("caught", async { panic!("{SECRET}") }).await.map(|()| "").unwrap_err().to_string());
    let contained: Result<(), Panic> = tasks::contained("contained", async { panic!("{SECRET}") }).await;
    let again: Result<(), Panic> = tasks::contained("again", async { contained.unwrap_err().go_on() }).await;
    told.extend([again.unwrap_err().to_string(), tasks.failed().await]);
    told
}

#[test]
fn what_a_panic_says_is_logged_at_debug_only_and_where_it_was_is_told() {
    std::panic::set_hook(Box::new(tasks::tell_panic));
    for level in [Level::INFO, Level::DEBUG] {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(lines.clone()).finish();
        let told = subscriber::with_default(log, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(broken())
        });
        let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(logged.contains(SECRET), level == Level::DEBUG, "{logged}");
        for line in &told {
            assert!(!line.contains(SECRET), "{line}");
        }
        // The first two are tokio's own words.
        assert!(told[2..].iter().all(|line| line.contains("it panicked at mesh/tests/panics.rs:")), "{told:#?}");
        for task in ["kept", "needed", "once", "one of many", "caught", "contained"] {
            let named = |line: &&str| line.contains("ERROR") && line.contains(&format!("task=\"{task}\""));
            let line = logged.lines().find(named).unwrap_or_else(|| panic!("no line of {task}: {logged}"));
            assert!(line.contains("mesh/tests/panics.rs:"), "{line}");
        }
    }
}
