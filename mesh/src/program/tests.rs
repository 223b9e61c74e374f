#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use clap::{CommandFactory, Parser};

use super::*;
use crate::{
    geo_dns::Config,
    identity::{Identity, certs::Authority},
};

/// A program of three options and its own.
#[derive(Parser)]
#[command(name = "some")]
struct Some {
    #[command(flatten)]
    options: Options,
    /// Its own.
    #[arg(long)]
    own: bool,
}

fn source(sets: &[String]) -> Source {
    Source::of_text("dns.toml", Config::EXAMPLE, "NEARFIELD_UNSET", sets).unwrap()
}

fn told(report: &Report) -> Vec<String> {
    report.errors.iter().map(ToString::to_string).collect()
}

/// Settings with which the example runs on this machine, with the certificate of `node`.
fn settings(dir: &Path, node: &str) -> Vec<String> {
    let hour = Duration::from_secs(3600);
    let authority = Authority::create("nearfield.internal", hour).unwrap();
    let uri = format!("spiffe://nearfield.internal/region/eu-central/role/dns/node/{node}");
    let identity = Identity::from_spiffe(&uri, "nearfield.internal").unwrap();
    let (cert, key) = authority.issue(&identity, hour).unwrap();
    let mut sets: Vec<String> =
        ["mesh.listen", "http.listen", "dns.listen"].map(|key| format!("{key}=127.0.0.1:0")).into();
    for (name, text) in [("ca", authority.ca_pem()), ("cert", &cert), ("key", &key)] {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        sets.push(format!("tls.{name}={}", path.display()));
    }
    sets
}

#[test]
fn every_program_takes_the_same_options_beside_its_own_and_says_what_it_is() {
    let some =
        Some::try_parse_from(["some", "--config", "a", "--set", "b=1", "--set", "c=2", "--check", "--own"]).unwrap();
    assert_eq!((some.options.sets.len(), some.options.check, some.own), (2, true, true));
    assert_eq!(Some::command().get_about().unwrap().to_string(), "A program of three options and its own");
    assert!(Some::command().get_arguments().all(|argument| argument.get_help().is_some()));
}

#[test]
fn a_right_configuration_is_loaded_with_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(&settings(dir.path(), "dns-eu-central-1"));
    assert_eq!(told(&check::<Config>(&source, Reach::Machine)), [""; 0]);
    let loaded = load::<Config>(&source).unwrap();
    assert_eq!(loaded.node.credentials.identity().node.as_str(), "dns-eu-central-1");
    assert_eq!((loaded.parts.tcp_connections, loaded.limits.connections), (128, 1024));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut sets = settings(dir.path(), "dns-2");
    sets.extend(["dns.tcp_idle=0", "http.connections=1", "log.filter=a=b=c"].map(str::to_owned));
    let errors = load::<Config>(&source(&sets)).unwrap_err();
    let keys = ["dns.tcp_idle", "log.filter", "http.connections", "node.id"];
    assert_eq!(errors.iter().count(), keys.len(), "{errors}");
    for (error, key) in errors.iter().zip(keys) {
        assert!(error.to_string().contains(&format!(": {key} = ")), "{error} is not of {key}");
    }
}

#[test]
fn the_values_can_be_checked_without_the_machine_that_they_are_for() {
    let report = check::<Config>(&source(&[]), Reach::Values);
    assert_eq!(told(&report), [""; 0], "what the example names is not here");
    let report = check::<Config>(&source(&["dns.edges_ttl=0".into()]), Reach::Values);
    assert_eq!(told(&report).len(), 1);
    let elsewhere = told(&check::<Config>(&source(&[]), Reach::Machine));
    assert!(elsewhere.iter().any(|text| text.contains("tls.ca")), "{elsewhere:?}");
}

#[test]
fn each_cause_of_an_error_is_told_once_and_in_one_line() {
    assert_eq!(in_a_line(&anyhow!("no route").context("dns.listen")), "dns.listen: no route");
    assert_eq!(in_a_line(&anyhow!("no route").context("cannot bind: no route")), "cannot bind: no route");
}
