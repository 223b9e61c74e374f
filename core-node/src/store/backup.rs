//! `core-node backup`, `restore` and `repair`: a store is copied while it is used, put in place, or saved from damage.

#![allow(clippy::disallowed_methods, reason = "I/O shell: names files by the wall clock")]

use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh::identity::NodeId;
use nix::sys::statvfs::fstatvfs;

use super::{Copied, DISK_RESERVE, Op, Opening, Store, StoreError, new_file};

/// A core that runs on this machine takes a connection within this.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Its copy is whole before it sends the first byte, and a large store takes a while.
const READ_WAIT: Duration = Duration::from_secs(600);

/// The store that is copied, put in place or repaired.
pub struct Kept<'a> {
    /// Its file.
    pub file: PathBuf,
    /// Whose it is.
    pub node: &'a NodeId,
    /// How it is opened.
    pub opening: Opening,
    /// Where the core that runs serves its API.
    pub listen: SocketAddr,
    /// What that asks for.
    pub token: Option<&'a str>,
}

/// Writes all that the core's store holds at one moment to `to`, a new file: the core that runs is asked for it, or if none does, the
/// store is read here. Returns what it says of itself.
///
/// # Errors
/// There is no whole copy; `to` is not made then.
pub fn backup(kept: &Kept<'_>, to: &Path) -> Result<String> {
    let store = kept.file.clone();
    ensure!(store.exists(), "there is no store at {}", store.display());
    ensure!(!to.exists(), "{} is there already", to.display());
    let part = beside(to, "part");
    let made = copy(kept, &store, &part).and_then(|()| {
        // What is put away must be of use: it is read through.
        let copied = Store::copy_file(&part, kept.node, None)?;
        File::open(&part)?.sync_all()?;
        put_in_place(&part, to)?;
        Ok(copied)
    });
    let copied = made.inspect_err(|_| drop(fs::remove_file(&part)))?;
    Ok(format!("{}: {}", to.display(), told(&copied)))
}

fn copy(kept: &Kept<'_>, store: &Path, part: &Path) -> Result<()> {
    // What an earlier try has left.
    drop(fs::remove_file(part));
    let file = new_file(part).with_context(|| part.display().to_string())?;
    match Store::open_as(store, Opening { lock_wait: Duration::ZERO, ..kept.opening }) {
        Ok(store) => {
            store.belong_to(kept.node)?;
            store.copy_to(file)?;
            Ok(())
        }
        Err(StoreError::Locked { .. }) => fetch(kept, file),
        Err(error) => Err(error.into()),
    }
}

/// Asks the core that runs.
fn fetch(kept: &Kept<'_>, mut file: File) -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = local(kept.listen);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_WAIT).read_timeout(READ_WAIT);
        let mut request = client.build()?.get(format!("http://{api}/v1/backup"));
        if let Some(token) = kept.token {
            request = request.bearer_auth(token);
        }
        let asked = || format!("a process has the store open, and the core's API was asked for a copy at {api}");
        let mut answer = request.send().await.with_context(asked)?;
        if !answer.status().is_success() {
            let (status, problem) = (answer.status(), answer.text().await.unwrap_or_default());
            let problem: serde_json::Value = serde_json::from_str(&problem).unwrap_or_default();
            return Err(anyhow!("{status}: {}", problem["detail"].as_str().unwrap_or("no reason given")))
                .with_context(asked);
        }
        // The copy is made by now, and takes room on that disk, too, if it is the store's.
        let (needed, left) = (answer.content_length().unwrap_or(0), room(&file));
        ensure!(
            left >= needed.saturating_add(DISK_RESERVE),
            "the copy is {needed} bytes, {DISK_RESERVE} more must stay free, and the disk has {left}"
        );
        while let Some(piece) = answer.chunk().await.with_context(asked)? {
            file.write_all(&piece)?;
        }
        Ok(())
    })
}

/// Bytes that its disk has left; as many as there can be if the system does not say.
fn room(file: &File) -> u64 {
    fstatvfs(file).map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Where this machine reaches what listens on `listen`.
fn local(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Puts a copy that [`backup`] has made in the store's place, and sets what is there aside. What was removed there since stays removed.
/// Returns what it says of itself.
///
/// # Errors
/// `from` is no whole copy of this node's store, or the core runs; the store is as it was.
pub fn restore(kept: &Kept<'_>, from: &Path) -> Result<String> {
    let store = kept.file.clone();
    let removed = removed(&store, kept.opening)?;
    let _held = held(&store)?;
    let part = beside(&store, "part");
    let copied = fill(&part, |file| Store::copy_file(from, kept.node, Some(file))).and_then(|mut copied| {
        let copy = Store::open(&part)?;
        copy.belong_to(kept.node)?;
        for removal in &removed {
            let Op::Remove(id, _) = removal else { continue };
            copied.meetings -= u64::from(copy.meeting(*id)?.is_some());
        }
        copy.write(&removed)?;
        Ok(copied)
    });
    let copied = copied.inspect_err(|_| drop(fs::remove_file(&part)))?;
    let aside = replace(&part, &store, "before-restore")?;
    Ok(format!(
        "{}: {}{}",
        store.display(),
        told(&copied),
        aside.map_or_else(String::new, |a| format!("; what was there: {}", a.display()))
    ))
}

/// Removes what was removed of the store at `path`; nothing if that cannot be read.
fn removed(path: &Path, opening: Opening) -> Result<Vec<Op>> {
    if !path.exists() {
        return Ok(vec![]);
    }
    match Store::open_as(path, Opening { lock_wait: Duration::ZERO, ..opening }) {
        Ok(store) => Ok(store.removals()?.into_iter().map(|(id, removal)| Op::Remove(id, removal)).collect()),
        Err(locked @ StoreError::Locked { .. }) => Err(locked).context("the core must not run meanwhile"),
        Err(_) => Ok(vec![]),
    }
}

/// Copies what can be read of a damaged store to a new file in its place, and sets the damaged one aside. Returns what it says of
/// itself.
///
/// # Errors
/// The store is not damaged, nothing of it can be read, or the core runs; it is as it was.
pub fn repair(kept: &Kept<'_>) -> Result<String> {
    let store = kept.file.clone();
    ensure!(store.exists(), "there is no store at {}", store.display());
    match Store::open_as(&store, Opening { lock_wait: Duration::ZERO, ..kept.opening }) {
        Ok(_) => bail!("{}: it can be opened: nothing to repair", store.display()),
        Err(StoreError::Damaged { .. } | StoreError::Database(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let _held = held(&store)?;
    let part = beside(&store, "part");
    let copied = fill(&part, |file| Store::salvage(&store, file)).and_then(|copied| {
        Store::open(&part)?.belong_to(kept.node)?;
        Ok(copied)
    });
    let copied = copied.inspect_err(|_| drop(fs::remove_file(&part)))?;
    let aside = replace(&part, &store, "damaged")?.unwrap_or_default();
    let lost = match copied.broken.len() {
        0 => "nothing is missing".to_owned(),
        _ => format!("rows are missing of: {}", copied.broken.join(", ").to_lowercase()),
    };
    Ok(format!("{}: {}; {lost}; the damaged file: {}", store.display(), told(&copied), aside.display()))
}

fn held(store: &Path) -> Result<crate::store::Held> {
    if let Some(dir) = store.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Store::hold(store).context("the core must not run meanwhile")
}

fn fill(part: &Path, copy: impl FnOnce(File) -> Result<Copied, StoreError>) -> Result<Copied> {
    drop(fs::remove_file(part));
    let file = new_file(part).with_context(|| part.display().to_string())?;
    Ok(copy(file)?)
}

/// Puts `part` in the place of `path`, and what is there, if anything is, aside. There is a file at `path` at every moment, the one or
/// the other: a core that starts meanwhile, or after a crash, would make an empty one.
fn replace(part: &Path, path: &Path, why: &str) -> Result<Option<PathBuf>> {
    if !path.exists() {
        // Unlike a rename it fails if a core has made one meanwhile.
        fs::hard_link(part, path).with_context(|| path.display().to_string())?;
        fs::remove_file(part).with_context(|| part.display().to_string())?;
        sync_folder(path)?;
        return Ok(None);
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let aside = beside(path, &format!("{why}-{now}"));
    ensure!(!aside.exists(), "{} is there already", aside.display());
    fs::hard_link(path, &aside).with_context(|| aside.display().to_string())?;
    put_in_place(part, path)?;
    Ok(Some(aside))
}

/// The disk has `part` as `path` when this returns.
fn put_in_place(part: &Path, path: &Path) -> Result<()> {
    fs::rename(part, path).with_context(|| path.display().to_string())?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(dir)?.sync_all()?)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn told(copied: &Copied) -> String {
    format!("{} meetings, {} rows", copied.meetings, copied.rows)
}

#[cfg(test)]
mod tests;
