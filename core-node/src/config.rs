//! The core's settings, as `core.example.toml` documents them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use async_nats::ServerAddr;
use mesh::{
    config::{
        ConfigError, Source,
        sections::{HttpSection, LogSection, MeshSection, NodeSection, TlsSection},
    },
    wire::request::Secret,
};
use serde::Deserialize;

use crate::{
    authority::nats,
    ingest::Limits,
    link::{Caps, ROW_WAIT},
    meetings,
    replicate::sender,
    store::{LOCK_WAIT, Opening, Store},
    transcribe::{openai, whisper},
};

/// Prefix of environment variables that override the file.
pub const ENV_PREFIX: &str = "NEARFIELD_CORE";

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this node is.
    pub node: NodeSection,
    /// Its mesh endpoint.
    pub mesh: MeshSection,
    /// Its certificate.
    pub tls: TlsSection,
    /// What it logs.
    #[serde(default)]
    pub log: LogSection,
    /// The API, health and metrics.
    pub http: HttpSection,
    /// Who may use the API.
    #[serde(default)]
    pub api: ApiSection,
    /// What it keeps on disk.
    pub store: StoreSection,
    /// How words are made.
    #[serde(default)]
    pub transcribe: TranscribeSection,
    /// How much it takes on.
    #[serde(default)]
    pub limits: LimitsSection,
    /// How meetings survive this core.
    #[serde(default)]
    pub failover: FailoverSection,
    /// Where it is kept which core serves a meeting.
    #[serde(default)]
    pub authority: AuthoritySection,
    /// Where regions are.
    #[serde(default)]
    pub geo: GeoSection,
}

/// `[failover]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailoverSection {
    /// Whether another core holds a replica of each meeting and takes it over.
    pub standby: bool,
    /// How long a standby may acknowledge nothing before words go on without it.
    pub stall_ms: u64,
    /// How long a core must be gone before its standby takes meetings over that no edge asked it to.
    pub takeover_seconds: u64,
}

impl Default for FailoverSection {
    fn default() -> Self {
        Self { standby: true, stall_ms: 1500, takeover_seconds: 300 }
    }
}

/// Which authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityKind {
    /// This core's own store.
    #[default]
    Embedded,
    /// A bucket of NATS JetStream.
    Nats,
}

/// `[authority]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthoritySection {
    /// Which.
    pub kind: AuthorityKind,
    /// NATS servers, `nats://host:port` or `tls://host:port` each.
    pub servers: Vec<String>,
    /// The bucket's name.
    pub bucket: String,
    /// How many servers keep the bucket, if this core makes it.
    pub replicas: usize,
    /// A NATS credentials file; absent: none are needed.
    pub credentials_file: Option<PathBuf>,
    /// Who vouches for the servers, PEM; absent: the system's authorities, if the servers want TLS.
    pub ca_file: Option<PathBuf>,
    /// How long it is asked for one answer.
    pub timeout_ms: u64,
}

impl Default for AuthoritySection {
    fn default() -> Self {
        Self {
            kind: AuthorityKind::Embedded,
            servers: vec![],
            bucket: "nearfield_leases".into(),
            replicas: 1,
            credentials_file: None,
            ca_file: None,
            timeout_ms: 3000,
        }
    }
}

impl AuthoritySection {
    /// How long it is asked for one answer.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn check(&self, source: &Source) -> Result<(), ConfigError> {
        source.range("authority.replicas", self.replicas, 1..=5)?;
        source.range("authority.timeout_ms", self.timeout_ms, 200..=60_000)?;
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let bucket = (1..=64).contains(&self.bucket.len()) && self.bucket.bytes().all(name);
        source.ensure("authority.bucket", bucket, "1 to 64 letters, digits, `-` or `_`")?;
        let named = self.kind != AuthorityKind::Nats || !self.servers.is_empty();
        source.ensure("authority.servers", named, "one server or more when authority.kind is `nats`")?;
        for (n, server) in self.servers.iter().enumerate() {
            let key = format!("authority.servers[{n}]");
            if server.contains('@') {
                // An error repeats the value.
                return source.ensure(
                    "authority",
                    false,
                    "without passwords in `servers`: `credentials_file` is for them",
                );
            }
            let known = server.parse::<ServerAddr>().is_ok_and(|s| !s.host().is_empty());
            source.ensure(&key, known, "a server such as `nats://host:4222` or `tls://host:4222`")?;
        }
        for (key, path) in [("credentials_file", &self.credentials_file), ("ca_file", &self.ca_file)] {
            let there = path.as_ref().is_none_or(|path| path.is_file());
            source.ensure(&format!("authority.{key}"), there, "a file that is there, or absent")?;
        }
        Ok(())
    }
}

/// `[api]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSection {
    /// Where clients and other cores reach it; if absent, `http.listen`.
    pub advertise: Option<String>,
    /// Bearer token of `/v1`; if absent, `/v1` is open.
    pub token: Option<Secret>,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// The file; in a directory, `core.redb` there.
    pub path: PathBuf,
    /// No new meeting while the file is longer, in bytes.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// The most memory that pages of the file are kept in, in bytes.
    #[serde(default = "cache_bytes")]
    pub cache_bytes: usize,
}

fn cache_bytes() -> usize {
    64 << 20
}

fn max_bytes() -> u64 {
    20 << 30
}

/// Which engine makes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Whisper in this process.
    #[default]
    Local,
    /// An OpenAI-compatible server.
    Openai,
}

/// `[transcribe]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscribeSection {
    /// Which engine.
    pub engine: Engine,
    /// The local engine's ggml file.
    pub model: Option<PathBuf>,
    /// Utterances transcribed at a time.
    pub workers: usize,
    /// Threads for each with the local engine.
    pub threads: u16,
    /// Finals that wait for a worker before their meetings wait.
    pub queue: usize,
    /// Language where a meeting does not say, ISO 639-1; absent: detected.
    pub language: Option<String>,
    /// Whether noise is taken out of what the engine hears, where a meeting does not say.
    pub noise_suppression: bool,
    /// Whether partials are made for meetings that want them.
    pub interim: bool,
    /// How often.
    pub interim_every_ms: u64,
    /// The remote engine.
    pub openai: OpenAiSection,
}

/// `[transcribe.openai]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiSection {
    /// Where the server is; `/v1/audio/transcriptions` is added.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Bearer token.
    pub api_key: Option<Secret>,
    /// How long one clip may take, retries included.
    pub timeout_ms: u64,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Meetings at a time.
    pub meetings: usize,
    /// Participants in one meeting.
    pub participants_per_meeting: usize,
    /// Talk spurts of one meeting that wait for their words before its edge is held back.
    pub undone_spurts_per_meeting: usize,
    /// Seconds to make the last words after SIGTERM.
    pub drain_seconds: u64,
}

/// `[geo]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeoSection {
    /// Your own regions, laid over the built-in table.
    pub regions_file: Option<PathBuf>,
}

impl Default for TranscribeSection {
    fn default() -> Self {
        Self {
            engine: Engine::Local,
            model: None,
            workers: 1,
            threads: 1,
            queue: 64,
            language: None,
            noise_suppression: false,
            interim: true,
            interim_every_ms: 1000,
            openai: OpenAiSection::default(),
        }
    }
}

impl Default for OpenAiSection {
    fn default() -> Self {
        Self { url: "http://127.0.0.1:8000".into(), model: "whisper-1".into(), api_key: None, timeout_ms: 30_000 }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { meetings: 200, participants_per_meeting: 500, undone_spurts_per_meeting: 4096, drain_seconds: 20 }
    }
}

impl Config {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first value that is not allowed, with its file, key and what is allowed.
    pub fn check(&self, source: &Source) -> Result<(), ConfigError> {
        let (transcribe, limits) = (&self.transcribe, &self.limits);
        source.range("store.max_bytes", self.store.max_bytes, 1 << 20..=1 << 50)?;
        source.range("store.cache_bytes", self.store.cache_bytes, 1 << 20..=64 << 30)?;
        source.range("transcribe.workers", transcribe.workers, 1..=256)?;
        source.range("transcribe.threads", transcribe.threads, 1..=64)?;
        source.range("transcribe.queue", transcribe.queue, 1..=10_000)?;
        source.range("transcribe.interim_every_ms", transcribe.interim_every_ms, 200..=60_000)?;
        source.range("transcribe.openai.timeout_ms", transcribe.openai.timeout_ms, 100..=600_000)?;
        source.range("limits.meetings", limits.meetings, 1..=100_000)?;
        source.range("limits.participants_per_meeting", limits.participants_per_meeting, 1..=10_000)?;
        source.range("limits.undone_spurts_per_meeting", limits.undone_spurts_per_meeting, 16..=100_000)?;
        source.range("limits.drain_seconds", limits.drain_seconds, 1..=600)?;
        source.range("failover.stall_ms", self.failover.stall_ms, 200..=60_000)?;
        source.range("failover.takeover_seconds", self.failover.takeover_seconds, 10..=86_400)?;
        let code = |l: &String| l.len() == 2 && l.bytes().all(|b| b.is_ascii_lowercase());
        let language = transcribe.language.as_ref().is_none_or(code);
        source.ensure("transcribe.language", language, "an ISO 639-1 code such as `en`, or absent")?;
        let named = transcribe.engine != Engine::Local || transcribe.model.is_some();
        source.ensure("transcribe.model", named, "the path of a ggml file when transcribe.engine is `local`")?;
        let token = self.api.token.as_ref().is_none_or(|t| t.0.len() >= 16);
        source.ensure("api.token", token, "at least 16 characters long, or absent")?;
        let guarded = self.api.token.is_some() || !is_public(self.http.listen.ip());
        source.ensure(
            "api.token",
            guarded,
            "set where http.listen is a public address: without it anybody may use the API",
        )?;
        let reachable = self.api.advertise.is_some() || !self.http.listen.ip().is_unspecified();
        source.ensure("api.advertise", reachable, "set when http.listen is a wildcard")?;
        // A name, or the URL of a proxy, is the operator's word.
        let unfit = |addr: SocketAddr| geo::address::told(addr).err();
        if let Some(why) = self.api.advertise.as_ref().and_then(|api| unfit(api.parse().ok()?)) {
            return Err(source.refuse("api.advertise", why));
        }
        self.authority.check(source)
    }

    /// A warning where anybody who reaches the machine may use the API.
    pub fn exposed(&self) -> Option<String> {
        let open = self.api.token.is_none() && self.http.listen.ip().is_unspecified();
        let listen = self.http.listen;
        open.then(|| {
            format!("the API listens on every address of this machine ({listen}) and needs no token: set api.token")
        })
    }

    /// Where the store's file is.
    pub fn store_file(&self) -> PathBuf {
        let path = &self.store.path;
        let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if is_folder { path.join("core.redb") } else { path.clone() }
    }

    /// Tries what a start would open: addresses, the log filter, the store's place, the model. Nothing is made or kept open.
    ///
    /// # Errors
    /// The first that cannot be opened, by its key.
    pub fn try_all(&self, source: &Source) -> Result<(), ConfigError> {
        source.try_common(&self.log, &self.mesh, &self.http)?;
        let file = self.store_file();
        source.ensure("store.path", file.file_name().is_some(), "a file, or a folder for one")?;
        match file.parent().filter(|_| !file.exists()) {
            Some(dir) => source.try_folder("store.path", dir)?,
            None => {
                Store::check(&file).map_err(|e| source.refuse("store.path", e))?;
                let (of, node) = (Store::owner_of(&file), &self.node.id);
                let mine = of.as_ref().is_none_or(|of| of == node.as_str());
                source.ensure(
                    "store.path",
                    mine,
                    &format!("{node}'s own store: it is that of {}", of.unwrap_or_default()),
                )?;
            }
        }
        let model = self.whisper().map_or(Ok(()), |settings| whisper::check(&settings.model));
        model.map_err(|e| source.refuse("transcribe.model", e))
    }

    /// How the store is opened.
    pub fn opening(&self) -> Opening {
        Opening { cache_bytes: self.store.cache_bytes, lock_wait: LOCK_WAIT }
    }

    /// Where this core's API is for others.
    pub fn api_address(&self, bound: SocketAddr) -> String {
        let given = self.api.advertise.clone().unwrap_or_else(|| bound.to_string());
        let told = given.parse().ok().and_then(|addr| geo::address::told(addr).ok());
        told.map_or(given, |addr: SocketAddr| addr.to_string())
    }

    /// How meetings are served.
    pub fn meetings(&self) -> meetings::Settings {
        let intake = Limits {
            participants: self.limits.participants_per_meeting,
            undone_spurts: self.limits.undone_spurts_per_meeting,
            ..Limits::default()
        };
        let takeover = Duration::from_secs(self.failover.takeover_seconds);
        let stall = Duration::from_millis(self.failover.stall_ms);
        meetings::Settings {
            failover: meetings::Failover {
                standby: self.failover.standby,
                pair: sender::Settings { stall, alone_after: takeover },
                takeover,
            },
            meetings: self.limits.meetings,
            intake,
            max_store_bytes: self.store.max_bytes,
            interim: self.transcribe.interim.then(|| Duration::from_millis(self.transcribe.interim_every_ms)),
            language: self.transcribe.language.clone(),
            noise_suppression: self.transcribe.noise_suppression,
            parallel: self.transcribe.workers,
        }
    }

    /// The NATS servers that keep claims, if they do.
    pub fn nats(&self) -> Option<nats::Settings> {
        let authority = self.authority.clone();
        // What `check` has refused is none.
        let servers = authority.servers.iter().filter_map(|server| server.parse().ok()).collect();
        (authority.kind == AuthorityKind::Nats).then(|| nats::Settings {
            servers,
            bucket: authority.bucket.clone(),
            replicas: authority.replicas,
            credentials: authority.credentials_file.clone(),
            ca: authority.ca_file.clone(),
            // Twice within its patience.
            attempt: authority.patience() / 2,
        })
    }

    /// How many rows one edge may fill.
    pub fn link_caps(&self) -> Caps {
        let limits = &self.limits;
        Caps { meetings: limits.meetings, participants: limits.participants_per_meeting, row_wait: ROW_WAIT }
    }

    /// The local engine's settings, if that is the engine.
    pub fn whisper(&self) -> Option<whisper::Settings> {
        let model = self.transcribe.model.clone().filter(|_| self.transcribe.engine == Engine::Local)?;
        Some(whisper::Settings { model, threads: self.transcribe.threads })
    }

    /// The remote engine's settings.
    pub fn openai(&self) -> openai::Settings {
        let OpenAiSection { url, model, api_key, timeout_ms } = self.transcribe.openai.clone();
        openai::Settings { url, model, key: api_key, deadline: Duration::from_millis(timeout_ms) }
    }
}

/// Whether an address is one that the Internet may reach: of none of the blocks that RFC 6890 keeps from it, for one machine,
/// one link or one organisation.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("core.example.toml")
    }

    fn load(sets: &[&str]) -> Result<Config, ConfigError> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let source = Source::read(Some(&example()), "NEARFIELD_CORE_TEST_UNSET", &sets)?;
        let config: Config = source.parse()?;
        config.check(&source)?;
        Ok(config)
    }

    #[test]
    fn the_example_is_valid_and_names_every_key() {
        load(&[]).unwrap();
        let text = std::fs::read_to_string(example()).unwrap();
        for section in [
            "node",
            "mesh",
            "tls",
            "log",
            "http",
            "api",
            "store",
            "transcribe",
            "transcribe.openai",
            "limits",
            "failover",
            "authority",
            "geo",
        ] {
            let body = text.split(&format!("\n[{section}]\n")).nth(1).unwrap_or_else(|| panic!("[{section}]"));
            let body = body.split("\n[").next().unwrap();
            // The parser itself lists the keys that it knows.
            let error = load(&[&format!("{section}.zzz=1")]).unwrap_err().to_string();
            let expected = error.split("expected").nth(1).unwrap_or_else(|| panic!("{error}"));
            let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).filter(|k| *k != "openai").collect();
            assert!(!keys.is_empty(), "{error}");
            for key in keys {
                let named = body.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} =")));
                assert!(named, "[{section}] {key} is not in core.example.toml");
            }
        }
    }

    #[test]
    fn an_api_that_the_internet_reaches_needs_a_token() {
        let with = |sets: &[&str]| load(sets).map(|config| config.exposed().is_some()).map_err(|e| e.to_string());
        for public in ["93.184.216.34:80", "[2606:4700::1111]:80", "[::ffff:93.184.216.34]:80"] {
            let listen = format!("http.listen={public}");
            let text = with(&[&listen]).unwrap_err();
            assert!(text.contains("api.token") && text.contains("public address"), "{text}");
            assert_eq!(with(&[&listen, "api.token=correct horse battery"]), Ok(false));
        }
        for own in ["127.0.0.1:80", "10.77.0.1:80", "192.168.1.1:80", "100.64.0.1:80", "[::1]:80", "[fd00::1]:80"] {
            assert_eq!(with(&[&format!("http.listen={own}")]), Ok(false), "{own}");
        }
        assert_eq!(with(&["http.listen=0.0.0.0:80"]), Ok(true), "it may be");
        assert_eq!(with(&["http.listen=0.0.0.0:80", "api.token=correct horse battery"]), Ok(false));
    }

    #[test]
    fn every_metric_is_described_and_named_as_prometheus_wants() {
        use crate::measures::METRICS;
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        assert_eq!(mesh::telemetry::lint::sources(sources.as_ref(), METRICS).unwrap(), Vec::<String>::new());
        assert_eq!(mesh::telemetry::lint::promtool(METRICS).expect("promtool, of Debian's package prometheus"), "");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_what_is_allowed() {
        let refused = |set: &str, parts: &[&str]| {
            let error = load(&[set]).unwrap_err().to_string();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        };
        refused("transcribe.workers=0", &["--set", "transcribe.workers", "0", "1 to 256"]);
        refused("transcribe.engine=magic", &["transcribe.engine", "magic", "local"]);
        refused("transcribe.language=english", &["transcribe.language", "english", "ISO 639-1"]);
        refused("limits.meeting=3", &["limits", "meeting", "participants_per_meeting"]);
        refused("authority.kind=etcd", &["authority.kind", "etcd", "embedded", "nats"]);
        refused("authority.kind=nats", &["authority.servers", "one server or more"]);
        refused("authority.servers=[\"ftp://x\"]", &["authority.servers[0]", "ftp://x", "nats://host:4222"]);
        refused("authority.bucket=a.b", &["authority.bucket", "a.b", "letters, digits"]);
        refused("authority.replicas=7", &["authority.replicas", "7", "1 to 5"]);
        refused("authority.ca_file=/no/such.pem", &["authority.ca_file", "/no/such.pem", "there"]);
        let error = load(&["authority.servers=[\"nats://me:hush@x:4222\"]"]).unwrap_err().to_string();
        assert!(error.contains("credentials_file") && !error.contains("hush"), "{error}");
        let error = load(&["api.token=short"]).unwrap_err().to_string();
        assert!(error.contains("api.token") && !error.contains("short"), "{error}");
    }

    #[test]
    fn what_a_start_would_open_is_tried_and_named_by_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let (store, model) = (dir.path().join("a/core.redb"), dir.path().join("model.bin"));
        let set = |key: &str, value: &Path| format!("{key}={}", value.display());
        let tried = |log: &str| {
            let sets = [
                set("store.path", &store),
                set("transcribe.model", &model),
                format!("log.filter={log}"),
                "mesh.listen=127.0.0.1:0".into(),
                "http.listen=127.0.0.1:0".into(),
                "mesh.seeds=[]".into(),
            ];
            let source = Source::read(Some(&example()), "NEARFIELD_CORE_TEST_UNSET", &sets).unwrap();
            source.parse::<Config>().unwrap().try_all(&source).map_err(|e| e.to_string())
        };
        assert!(tried("info=loud").unwrap_err().contains("log.filter"));
        assert!(tried("info").unwrap_err().contains("transcribe.model"));
        std::fs::write(&model, vec![0; 100]).unwrap();
        assert!(tried("info").unwrap_err().contains("ggml"));
        assert!(!store.exists() && !store.parent().unwrap().exists());
        let at = |path: &str| {
            let sets = ["http.listen=127.0.0.1:0", "mesh.listen=127.0.0.1:0"].map(str::to_owned).into_iter();
            let sets: Vec<_> = sets.chain([set("transcribe.model", &model), format!("store.path={path}")]).collect();
            let source = Source::read(Some(&example()), "NEARFIELD_CORE_TEST_UNSET", &sets).unwrap();
            let config = source.parse::<Config>().unwrap();
            (config.store_file(), config.try_all(&source).map_err(|e| e.to_string()).unwrap_err())
        };
        let folder = dir.path().join("to-come/").display().to_string();
        assert_eq!(at(&folder).0, dir.path().join("to-come/core.redb"), "a folder that is not there yet");
        assert!(at("").1.contains("store.path"), "no file at all");
        assert!(at(&format!("{folder}{}/x", "n".repeat(300))).1.contains("longer than 255 bytes"));
        std::fs::create_dir(store.parent().unwrap()).unwrap();
        std::fs::write(&store, "no store").unwrap();
        assert!(tried("info").unwrap_err().contains("store.path"));
    }
}
