#![allow(clippy::unwrap_used)]

use std::path::Path;

use mesh::{
    config::{ConfigErrors, Reach, Source},
    program,
};

use super::*;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("core.example.toml")
}

fn load(sets: &[&str]) -> Result<Config, ConfigErrors> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let source = Source::read(Some(&example()), "NEARFIELD_CORE_TEST_UNSET", &sets)?;
    let config: Config = source.parse()?;
    let mut checks = Checks::new(&source, Reach::Machine);
    config.check(&mut checks);
    checks.finish().map(|()| config)
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
        let keys: Vec<&str> =
            expected.split('`').skip(1).step_by(2).filter(|k| !["openai", "sherpa"].contains(k)).collect();
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
    let error = load(&["transcribe.workers=0", "limits.meetings=0"]).unwrap_err();
    assert_eq!(error.iter().count(), 2, "each is told: {error}");
    let error = load(&["api.token=short"]).unwrap_err().to_string();
    assert!(error.contains("api.token") && !error.contains("short"), "{error}");
}

/// Where its store's file is with the example's configuration and `sets`, and what a check says of it.
fn opening(sets: &[String]) -> (PathBuf, String) {
    let source = Source::read(Some(&example()), "NEARFIELD_CORE_TEST_UNSET", sets).unwrap();
    let report = program::check::<Config>(&source, Reach::Machine);
    let told: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
    (source.parse::<Config>().unwrap().store_file(), told.join("\n"))
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
        opening(&sets).1
    };
    assert!(tried("info=loud").contains("log.filter"));
    assert!(tried("info").contains("transcribe.model") && !tried("info").contains("log.filter"));
    std::fs::write(&model, vec![0; 100]).unwrap();
    assert!(tried("info").contains("ggml"));
    assert!(!store.exists() && !store.parent().unwrap().exists());
    let at = |path: &str| {
        let sets = ["http.listen=127.0.0.1:0", "mesh.listen=127.0.0.1:0"].map(str::to_owned).into_iter();
        let sets: Vec<_> = sets.chain([set("transcribe.model", &model), format!("store.path={path}")]).collect();
        opening(&sets)
    };
    let folder = dir.path().join("to-come/").display().to_string();
    assert_eq!(at(&folder).0, dir.path().join("to-come/core.redb"), "a folder that is not there yet");
    assert!(at("").1.contains("store.path"), "no file at all");
    assert!(at(&format!("{folder}{}/x", "n".repeat(300))).1.contains("longer than 255 bytes"));
    std::fs::create_dir(store.parent().unwrap()).unwrap();
    std::fs::write(&store, "no store").unwrap();
    assert!(tried("info").contains("store.path"));
}
