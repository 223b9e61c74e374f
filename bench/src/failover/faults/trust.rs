//! Certificates that are exchanged while a meeting runs: the nodes learn of it by their files alone.

mod stranger;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh::identity::{Identity, certs::Authority};

use self::stranger::Stranger;
use super::{Broken, Resumes, Stage, Times, now};
use crate::bed::TRUST_DOMAIN;

/// How long nodes may take to read what is new in their files.
const READ: Duration = Duration::from_secs(30);
/// How long the first new leaves are valid; the second ones are told from them by another time.
const FIRST: Duration = Duration::from_secs(200 * 24 * 3600);
const SECOND: Duration = Duration::from_secs(100 * 24 * 3600);
/// How long a certificate is valid that expires while we look.
const BRIEF: Duration = Duration::from_secs(4);
/// The metric by which a node says which certificate it has.
const EXPIRES: &str = "nearfield_mesh_certificate_expires_timestamp_seconds";

/// New leaves; then a new authority, trusted beside the old one, new leaves of it, and the old one trusted no more.
pub(super) async fn rotate(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    stage.meeting().wait_until(times.fault).await;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    let files = Files::of(stage);
    let processes = processes(stage);
    let old = files.authority()?;
    let mut stranger = Stranger::new(stage)?;

    files.issue(&old, FIRST)?;
    let taken = until_expiry(stage, FIRST).await;
    if taken.is_none() {
        // Nothing of what follows can work then.
        broken.must(false, || format!("new leaves were not taken up within {READ:?}"));
        return Ok(broken);
    }
    say(&format!("new leaves are in use everywhere: {taken:.1?}"));

    let new = Authority::create(TRUST_DOMAIN, FIRST)?;
    stranger.trusts(&format!("{}{}", old.ca_pem(), new.ca_pem()));
    broken.must(!stranger.welcome_anywhere(stage, &new).await?, || {
        "the new authority was trusted before its time".into()
    });
    let lists = |authority: &Authority| authority.revoke(None, None, FIRST);
    files.write("crl.pem", &format!("{}{}", lists(&old)?, lists(&new)?))?;
    files.write("ca.pem", &format!("{}{}", old.ca_pem(), new.ca_pem()))?;
    let taken = stranger.until(stage, &new, true).await?;
    broken.must(taken.is_some(), || format!("the new authority was not trusted within {READ:?}"));
    say(&format!("the new authority is trusted everywhere: {taken:.1?}"));

    files.issue(&new, SECOND)?;
    let taken = until_expiry(stage, SECOND).await;
    broken.must(taken.is_some(), || format!("the new authority's leaves were not taken up within {READ:?}"));
    files.write("crl.pem", &lists(&new)?)?;
    files.write("ca.pem", new.ca_pem())?;
    let taken = stranger.until(stage, &old, false).await?;
    broken.must(taken.is_some(), || format!("the old authority was still trusted after {READ:?}"));
    say(&format!("the old authority is trusted nowhere: {taken:.1?}"));

    refuse_expired(stage, &stranger, &new, &mut broken, say).await?;
    refuse_revoked(stage, &stranger, &files, &new, &mut broken, say).await?;
    broken.must(processes == self::processes(stage), || "a node was restarted".into());
    let taken = now().since(stage.meeting().started);
    broken.must(taken < times.meeting, || format!("the meeting was over before that was done: {taken:?}"));
    Ok(broken)
}

/// A certificate that was good is refused once it has expired.
async fn refuse_expired(
    stage: &Stage,
    stranger: &Stranger,
    authority: &Authority,
    broken: &mut Broken,
    say: &dyn Fn(&str),
) -> Result<()> {
    let (pass, _) = stranger.pass(authority, BRIEF)?;
    let begun = Instant::now();
    broken.must(stranger.all(stage, &pass, true).await, || "a certificate that is still valid was refused".into());
    tokio::time::sleep(BRIEF.saturating_sub(begun.elapsed()) + Duration::from_secs(1)).await;
    broken.must(stranger.all(stage, &pass, false).await, || "an expired certificate was accepted".into());
    say("an expired certificate is refused");
    Ok(())
}

/// A certificate that was good is refused once it is on the list, and another one still is not.
async fn refuse_revoked(
    stage: &Stage,
    stranger: &Stranger,
    files: &Files,
    authority: &Authority,
    broken: &mut Broken,
    say: &dyn Fn(&str),
) -> Result<()> {
    let (pass, cert) = stranger.pass(authority, SECOND)?;
    broken.must(stranger.all(stage, &pass, true).await, || "a certificate was refused before it was revoked".into());
    files.write("crl.pem", &authority.revoke(None, Some(&cert), FIRST)?)?;
    let taken = stranger.until_all(stage, &pass, false).await;
    broken.must(taken.is_some(), || format!("a revoked certificate was still accepted after {READ:?}"));
    let (other, _) = stranger.pass(authority, SECOND)?;
    broken.must(stranger.all(stage, &other, true).await, || "one was revoked, and others are refused too".into());
    say(&format!("a revoked certificate is refused: {taken:.1?}"));
    Ok(())
}

/// Until every node says that it has the certificate that expires after `validity`.
async fn until_expiry(stage: &Stage, validity: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let due = now().plus(validity).as_millis() as f64 / 1000.0;
    // Issued and asked for within minutes of each other.
    let is_new = |expires: Option<f64>| expires.is_some_and(|at| (at - due).abs() < 600.0);
    while begun.elapsed() < READ {
        if stage.gauges(EXPIRES).await.values().all(|expires| is_new(*expires)) {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    None
}

fn processes(stage: &Stage) -> BTreeMap<String, Option<u32>> {
    let process = |id| stage.bed.process(id);
    stage.bed.nodes.iter().map(|n| (n.identity.node.to_string(), process(&n.identity.node))).collect()
}

/// The nodes' certificates on disk.
struct Files {
    dir: PathBuf,
    nodes: Vec<Identity>,
}

impl Files {
    fn of(stage: &Stage) -> Self {
        let nodes = stage.bed.nodes.iter().map(|node| node.identity.clone()).collect();
        Self { dir: stage.bed.dir().join("certs"), nodes }
    }

    fn authority(&self) -> Result<Authority> {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).with_context(|| name.to_owned());
        Ok(Authority::load(TRUST_DOMAIN, &read("ca.pem")?, &read("ca.key")?)?)
    }

    /// A new certificate and key for every node.
    fn issue(&self, authority: &Authority, validity: Duration) -> Result<()> {
        for identity in &self.nodes {
            let (cert, key) = authority.issue(identity, validity)?;
            self.write(&format!("{}.key", identity.node), &key)?;
            self.write(&format!("{}.pem", identity.node), &cert)?;
        }
        Ok(())
    }

    /// Replaces a file at once, as whoever renews certificates should.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, next) = (self.dir.join(name), self.dir.join(format!("{name}.next")));
        write_private(&next, text)?;
        fs::rename(&next, &path).with_context(|| format!("cannot replace {}", path.display()))
    }
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
