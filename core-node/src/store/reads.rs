//! Reads that an API request asks for: off the runtime's threads and a few at a time, so that speech never waits for them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use mesh::tasks::blocking;
use tokio::sync::Semaphore;

use super::{Store, StoreError};

/// Reads that may wait for their turn; more are turned away.
const MAX_WAITING: usize = 256;

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Too many others wait already.
    #[error("too many requests read the store: try again")]
    Busy,
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A door to the store for reading. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    store: Arc<Store>,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Reads {
    /// Reads of `store`, by half of the machine's cores at most.
    pub fn new(store: Arc<Store>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(store, (cores / 2).max(1))
    }

    /// Reads of `store`, so many at a time.
    pub fn with(store: Arc<Store>, at_a_time: usize) -> Self {
        let places = Arc::new(Semaphore::new(MAX_WAITING + at_a_time));
        Self { store, turns: Arc::new(Semaphore::new(at_a_time)), places }
    }

    /// Reads on a thread of its own, when its turn has come. What is begun goes on if this is dropped, and keeps its turn so long.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run<T, F>(&self, read: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            metrics::counter!("nearfield_core_store_reads_refused_total").increment(1);
            return Err(ReadError::Busy);
        };
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| ReadError::Busy)?;
        let store = self.store.clone();
        let done = blocking("read", move || {
            let _held = (place, turn);
            // A file that was damaged may break the database's own code: that is this request's affair.
            catch_unwind(AssertUnwindSafe(|| read(&store)))
        });
        let broken = || StoreError::Record { what: "file", why: "the database could not read it".into() };
        Ok(done.await.map_err(|_| broken())?.map_err(|_| broken())??)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn reads_wait_for_their_turn_and_only_so_many_do() {
        let dir = tempfile::tempdir().unwrap();
        let reads = Reads::with(Arc::new(Store::open(&dir.path().join("core.redb")).unwrap()), 1);
        let (go, gone) = mpsc::channel::<()>();
        let first = reads.clone();
        let first = tokio::spawn(async move { first.run(move |_| Ok(gone.recv().is_err())).await });
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..MAX_WAITING {
            let reads = reads.clone();
            waiting.spawn(async move { reads.run(|_| Ok(())).await.is_ok() });
        }
        while reads.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(reads.run(|_| Ok(())).await, Err(ReadError::Busy)));
        drop(go);
        assert!(first.await.unwrap().unwrap());
        assert!(waiting.join_all().await.into_iter().all(|read| read));
        let broken = reads.run(|_| -> Result<(), StoreError> { panic!("as damaged pages may have it") }).await;
        assert!(matches!(broken, Err(ReadError::Store(StoreError::Record { .. }))));
        reads.run(|_| Ok(())).await.unwrap();
    }
}
