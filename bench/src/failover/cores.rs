//! The cores' APIs as one: a user who asks whichever answers.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{client::Client, world::Host};

/// A core that does not answer for so long is left for the next one.
const ANSWER: Duration = Duration::from_secs(4);

/// Every core, and the host from which they are asked.
#[derive(Debug, Clone)]
pub(super) struct Cores {
    /// Where the user is.
    pub(super) user: Host,
    /// In the order of being asked.
    pub(super) apis: Vec<SocketAddr>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// `GET`
    Get(String),
    /// `POST`
    Post(String, Value),
    /// `DELETE`
    Delete(String),
}

impl Cores {
    /// The first good answer, redirects followed.
    ///
    /// # Errors
    /// No core gave one; the last one's reason.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Value> {
        let mut last = None;
        for api in &self.apis {
            match self.ask_one(*api, ask.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("there is no core")?)
    }

    /// `GET path` of the first that answers.
    ///
    /// # Errors
    /// As [`Cores::ask`].
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Ask::Get(path.to_owned())).await
    }

    /// The answer of one core.
    ///
    /// # Errors
    /// It gives none in time, or a bad one.
    pub(super) async fn ask_one(&self, api: SocketAddr, ask: Ask) -> Result<Value> {
        let call = self.user.run(move || async move {
            let client = Client::new(api)?;
            match ask {
                Ask::Get(path) => client.get(&path).await,
                Ask::Post(path, body) => client.post(&path, &body).await,
                Ask::Delete(path) => client.delete(&path).await,
            }
        });
        tokio::time::timeout(ANSWER, call).await.with_context(|| format!("{api} does not answer"))??
    }

    /// Which cores say that they serve the meeting at `path`, asked one by one.
    pub(super) async fn serving(&self, path: &str) -> BTreeSet<String> {
        let mut serving = BTreeSet::new();
        for api in &self.apis {
            if let Ok(meeting) = self.ask_one(*api, Ask::Get(path.to_owned())).await {
                serving.extend(meeting["core"].as_str().map(str::to_owned));
            }
        }
        serving
    }
}
