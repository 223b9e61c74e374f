//! Requests to Janus that are under way.

use std::{collections::BTreeMap, time::Duration};

use mesh::wire::request::Secret;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{super::ConnectError, access::Access, message::Incoming};

/// For each request, from sending to its last answer.
pub(super) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Requests under way at once; more means that something is wrong.
pub(super) const MAX_PENDING: usize = 32;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Create,
    AttachRoster,
    Join,
    AttachMedia,
    Subscribe,
    Start,
    Restart,
    Trickle,
    Keepalive,
    Destroy,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::AttachRoster | Self::AttachMedia => "attach",
            Self::Join => "join",
            Self::Subscribe => "subscribe",
            Self::Start => "start",
            Self::Restart => "configure",
            Self::Trickle => "trickle",
            Self::Keepalive => "keepalive",
            Self::Destroy => "destroy",
        }
    }

    /// Messages to a plugin are acknowledged first and answered later.
    fn is_answered_later(self) -> bool {
        matches!(self, Self::Join | Self::Subscribe | Self::Start | Self::Restart)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Requests {
    access: Access,
    session: Option<u64>,
    /// What each was for, and until when it is waited for.
    pending: BTreeMap<u64, (Purpose, Instant)>,
    next_transaction: u64,
}

impl Requests {
    pub(super) fn new(access: Access) -> Self {
        Self { access, session: None, pending: BTreeMap::new(), next_transaction: 0 }
    }

    /// How we get in.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// From here on they are of this session.
    pub(super) fn open(&mut self, session: u64) {
        self.session = Some(session);
    }

    /// Whether there is a session.
    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// The text of a new one, with what every one must have.
    pub(super) fn begin(&mut self, purpose: Purpose, mut message: Value, now: Instant) -> String {
        let transaction = self.next_transaction;
        self.next_transaction += 1;
        message["transaction"] = json!(transaction.to_string());
        if let Some(session) = self.session {
            message["session_id"] = json!(session);
        }
        for (key, secret) in [("apisecret", &self.access.api_secret), ("token", &self.access.token)] {
            if let Some(Secret(secret)) = secret {
                message[key] = json!(secret);
            }
        }
        self.pending.insert(transaction, (purpose, now + REQUEST_DEADLINE));
        message.to_string()
    }

    /// Finds the request this answers, and ends it unless more is to come.
    pub(super) fn settle(&mut self, message: &Incoming) -> Option<Purpose> {
        let transaction = message.transaction.as_deref()?.parse().ok()?;
        let purpose = self.pending.get(&transaction)?.0;
        if message.janus != "ack" || !purpose.is_answered_later() {
            self.pending.remove(&transaction);
        }
        Some(purpose)
    }

    /// Whether one for this is under way.
    pub(super) fn has(&self, purpose: Purpose) -> bool {
        self.pending.values().any(|(pending, _)| *pending == purpose)
    }

    /// When the next one will have been waited for in vain.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.values().map(|(_, deadline)| *deadline).min()
    }

    /// # Errors
    /// Janus has not answered one in time.
    pub(super) fn handle_timeout(&self, now: Instant) -> Result<(), ConnectError> {
        match self.pending.values().find(|(_, deadline)| *deadline <= now) {
            Some((purpose, _)) => Err(ConnectError::Timeout { what: purpose.name(), after: REQUEST_DEADLINE }),
            None => Ok(()),
        }
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// # Errors
    /// So many are under way that something must be wrong.
    pub(super) fn check_room(&self) -> Result<(), ConnectError> {
        if self.len() < MAX_PENDING {
            return Ok(());
        }
        Err(ConnectError::Timeout { what: "answers to many requests", after: REQUEST_DEADLINE })
    }
}
