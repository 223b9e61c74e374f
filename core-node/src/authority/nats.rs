//! Claims in a key-value bucket of NATS JetStream, which keeps them by Raft: one for all cores of a region.
//!
//! A key is the meeting's id, or `key-` and the digest of a request's key, which stands for a meeting, or `core-` and a core's name, which
//! is written again while it lives; a revision the number of the message in the bucket's stream. A change names the revision that it
//! replaces (`Nats-Expected-Last-Subject-Sequence`), and the stream's leader takes it only after that one. Reads go to the
//! leader too, not to a replica that may be behind. What is removed is purged, so that ended meetings leave nothing.

use std::{path::PathBuf, time::Duration};

use async_nats::{
    ConnectOptions, HeaderMap, ServerAddr,
    jetstream::{
        context::ContextBuilder,
        kv::{CreateErrorKind, Store, UpdateErrorKind},
        stream::{Config, DiscardPolicy, LastRawMessageErrorKind},
    },
};
use async_trait::async_trait;
use futures_util::TryStreamExt;
use mesh::{
    identity::NodeId,
    wire::{MeetingId, keys::KeyDigest},
};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    Authority, AuthorityError, Claim, Revision, Stands,
    claim::{MAX_CLAIM, Unreadable},
};

/// The longest message in the bucket, in bytes: a claim and the headers that come with it.
const MAX_MESSAGE: i32 = MAX_CLAIM as i32 + 256;

/// The longest pause between two tries to reach a server.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(2);

/// Where the bucket is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers; one that is reached tells of the others of its cluster.
    pub servers: Vec<ServerAddr>,
    /// The bucket's name. It is made if it is not there.
    pub bucket: String,
    /// How many servers keep it, if it is made.
    pub replicas: usize,
    /// A NATS credentials file (JWT and NKey seed).
    pub credentials: Option<PathBuf>,
    /// Who vouches for the servers, PEM; TLS is required then.
    pub ca: Option<PathBuf>,
    /// How long one try may take.
    pub attempt: Duration,
}

/// Why NATS cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The credentials file cannot be read.
    #[error("authority.credentials_file {path}: {source}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not for want of a server: those are sought for ever.
    #[error("authority.servers: {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// See the module.
pub struct Nats {
    settings: Settings,
    context: async_nats::jetstream::Context,
    bucket: OnceCell<Store>,
}

impl Nats {
    /// Connects in the background, again and again. Call within a tokio runtime.
    ///
    /// # Errors
    /// See [`NatsError`].
    pub async fn connect(settings: Settings) -> Result<Self, NatsError> {
        let mut options = ConnectOptions::new()
            .name(crate::SOFTWARE)
            .retry_on_initial_connect()
            .connection_timeout(settings.attempt)
            .request_timeout(Some(settings.attempt))
            .reconnect_delay_callback(reconnect_pause);
        if let Some(path) = &settings.credentials {
            let refuse = |source| NatsError::Credentials { path: path.clone(), source };
            options = options.credentials_file(path).await.map_err(refuse)?;
        }
        if let Some(ca) = &settings.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        let client = options.connect(&settings.servers[..]).await?;
        let context = ContextBuilder::new().timeout(settings.attempt).build(client);
        Ok(Self { settings, context, bucket: OnceCell::new() })
    }

    /// The bucket, found or made when it is first needed.
    async fn bucket(&self) -> Result<&Store, AuthorityError> {
        self.bucket.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Store, AuthorityError> {
        let Settings { bucket, replicas, .. } = &self.settings;
        let store = match self.context.get_key_value(bucket).await {
            Ok(store) => store,
            Err(_) => self.make(bucket, *replicas).await?,
        };
        let config = &store.stream.cached_info().config;
        if config.max_age > Duration::ZERO {
            return Err(unavailable(format!("bucket {bucket} lets claims expire: its max age must be 0")));
        }
        Ok(store)
    }

    async fn make(&self, bucket: &str, replicas: usize) -> Result<Store, AuthorityError> {
        // A bucket is such a stream (NATS ADR-8). `create_key_value` would first ask for what servers before 2.10 do not tell.
        let config = Config {
            name: format!("KV_{bucket}"),
            description: Some("Nearfield: which core serves which meeting".into()),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            max_message_size: MAX_MESSAGE,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: replicas,
            ..Config::default()
        };
        // An error if another core was faster: then the bucket is there.
        let made = self.context.create_stream(config).await.map(|_| ());
        let found = self.context.get_key_value(bucket).await;
        found.map_err(|missing| made.map_or_else(unavailable, |()| unavailable(missing)))
    }

    async fn find(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        let bucket = self.bucket().await?;
        let subject = format!("{}{}", bucket.prefix, key(meeting));
        let message = match bucket.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        if is_marker(&message.headers) {
            return Ok(None);
        }
        Ok(Some(Stands { claim: Claim::decode(&message.payload)?, revision: Revision(message.sequence) }))
    }

    async fn put(&self, meeting: MeetingId, after: Option<Revision>, bytes: Vec<u8>) -> Result<Revision, Refused> {
        let bucket = self.bucket().await?;
        let key = key(meeting);
        match after {
            Some(revision) => {
                bucket.update(key, bytes.into(), revision.0).await.map(Revision).map_err(|e| match e.kind() {
                    UpdateErrorKind::TimedOut => unavailable(e).into(),
                    _ => Refused::Perhaps(e.to_string()),
                })
            }
            // Also over what somebody has deleted by hand.
            None => bucket.create(key, bytes.into()).await.map(Revision).map_err(|e| match e.kind() {
                CreateErrorKind::InvalidKey => unavailable(e).into(),
                _ => Refused::Perhaps(e.to_string()),
            }),
        }
    }

    async fn purge(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        let bucket = self.bucket().await?;
        let subject = format!("{}{}", bucket.prefix, key(meeting));
        // What has come after it stays.
        let purge = bucket.stream.purge().filter(subject).sequence(revision.0.saturating_add(1));
        let purged = purge.await.map_err(unavailable)?;
        match purged.purged {
            0 => self.find(meeting).await?.map_or(Ok(()), |found| Err(AuthorityError::Conflict(Some(Box::new(found))))),
            _ => Ok(()),
        }
    }

    /// The meeting that a request's key stands for.
    async fn held(&self, key: &KeyDigest) -> Result<Option<(MeetingId, Revision)>, AuthorityError> {
        let bucket = self.bucket().await?;
        let subject = format!("{}{}", bucket.prefix, held_key(key));
        match bucket.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) if is_marker(&message.headers) => Ok(None),
            Ok(message) => {
                // What is no id stands for no meeting, and gives way.
                let meeting = MeetingId::from_slice(&message.payload).unwrap_or_default();
                Ok(Some((meeting, Revision(message.sequence))))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn put_held(
        &self,
        key: &KeyDigest,
        after: Option<MeetingId>,
        meeting: MeetingId,
    ) -> Result<Option<MeetingId>, AuthorityError> {
        let found = self.held(key).await?;
        let other = found.map(|(other, _)| other);
        if other == Some(meeting) {
            return Ok(None);
        }
        if other.is_some() && other != after {
            return Ok(other);
        }
        let (bucket, name, bytes) = (self.bucket().await?, held_key(key), meeting.as_bytes().to_vec());
        let put = match found {
            Some((_, revision)) => bucket.update(name, bytes.into(), revision.0).await.map_err(|e| e.to_string()),
            None => bucket.create(name, bytes.into()).await.map_err(|e| e.to_string()),
        };
        let Err(why) = put else { return Ok(None) };
        // Because somebody was faster, or of something else; what stands says it for certain.
        match self.held(key).await?.map(|(stands, _)| stands) {
            Some(stands) if stands == meeting => Ok(None),
            stands if stands == other => Err(unavailable(why)),
            stands => Ok(stands),
        }
    }

    async fn purge_held(&self, key: &KeyDigest, meeting: MeetingId) -> Result<(), AuthorityError> {
        let Some((_, revision)) = self.held(key).await?.filter(|(of, _)| *of == meeting) else { return Ok(()) };
        let bucket = self.bucket().await?;
        let subject = format!("{}{}", bucket.prefix, held_key(key));
        let purge = bucket.stream.purge().filter(subject).sequence(revision.0.saturating_add(1));
        purge.await.map(|_| ()).map_err(unavailable)
    }

    async fn list(&self) -> Result<Vec<MeetingId>, AuthorityError> {
        let bucket = self.bucket().await?;
        let subjects = bucket.stream.info_with_subjects(format!("{}*", bucket.prefix)).await.map_err(unavailable)?;
        let ours = subjects.try_filter_map(|(subject, _)| {
            // Other keys are no ids.
            let meeting = subject.strip_prefix(&bucket.prefix).and_then(|key| key.parse::<MeetingId>().ok());
            std::future::ready(Ok(meeting))
        });
        let mut meetings: Vec<MeetingId> = ours.try_collect().await.map_err(unavailable)?;
        meetings.sort();
        Ok(meetings)
    }

    async fn sign(&self, core: &NodeId) -> Result<Option<Revision>, AuthorityError> {
        let bucket = self.bucket().await?;
        let subject = format!("{}{}", bucket.prefix, life_key(core));
        match bucket.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some(Revision(message.sequence))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, AuthorityError>>) -> Result<T, AuthorityError> {
        let late = |_| unavailable(format!("no answer within {:?}", self.settings.attempt));
        timeout(self.settings.attempt, work).await.map_err(late)?
    }
}

#[async_trait]
impl Authority for Nats {
    fn is_shared(&self) -> bool {
        true
    }

    async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        self.in_time(self.find(meeting)).await
    }

    async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: &Claim,
    ) -> Result<Revision, AuthorityError> {
        let bytes = claim.encode()?;
        let put = async {
            match self.put(meeting, after, bytes).await {
                Ok(revision) => Ok(revision),
                Err(Refused::Authority(error)) => Err(error),
                // Servers say so by different codes; what stands says it for certain.
                Err(Refused::Perhaps(why)) => {
                    let found = self.find(meeting).await?;
                    if found.as_ref().map(|f| f.revision) == after {
                        return Err(unavailable(why));
                    }
                    Err(AuthorityError::Conflict(found.map(Box::new)))
                }
            }
        };
        self.in_time(put).await
    }

    async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        self.in_time(self.purge(meeting, revision)).await
    }

    async fn hold(
        &self,
        key: &KeyDigest,
        after: Option<MeetingId>,
        meeting: MeetingId,
    ) -> Result<Option<MeetingId>, AuthorityError> {
        self.in_time(self.put_held(key, after, meeting)).await
    }

    async fn let_go(&self, key: &KeyDigest, meeting: MeetingId) -> Result<(), AuthorityError> {
        self.in_time(self.purge_held(key, meeting)).await
    }

    async fn claimed(&self) -> Result<Vec<MeetingId>, AuthorityError> {
        self.in_time(self.list()).await
    }

    async fn live(&self, me: &NodeId) -> Result<(), AuthorityError> {
        let put = async {
            let put = self.bucket().await?.put(life_key(me), Default::default()).await;
            put.map(|_| ()).map_err(unavailable)
        };
        self.in_time(put).await
    }

    async fn life(&self, core: &NodeId) -> Result<Option<Revision>, AuthorityError> {
        self.in_time(self.sign(core)).await
    }
}

/// A change was not made.
enum Refused {
    Authority(AuthorityError),
    /// Because of the revision, or of something else.
    Perhaps(String),
}

impl From<AuthorityError> for Refused {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}

impl From<Unreadable> for Refused {
    fn from(error: Unreadable) -> Self {
        Self::Authority(error.into())
    }
}

fn life_key(core: &NodeId) -> String {
    format!("core-{core}")
}

fn held_key(key: &KeyDigest) -> String {
    format!("key-{key}")
}

fn key(meeting: MeetingId) -> String {
    meeting.to_string()
}

/// What the bucket keeps of a key that was deleted (NATS ADR-8).
fn is_marker(headers: &HeaderMap) -> bool {
    headers.get("KV-Operation").is_some_and(|op| matches!(op.as_str(), "DEL" | "PURGE"))
}

fn reconnect_pause(tries: usize) -> Duration {
    FIRST_RECONNECT_PAUSE.saturating_mul(1 << tries.min(6) as u32).min(MAX_RECONNECT_PAUSE)
}

/// The first of them.
const FIRST_RECONNECT_PAUSE: Duration = Duration::from_millis(50);

fn unavailable(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Unavailable(error.to_string())
}
