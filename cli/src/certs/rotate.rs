//! The steps of a rotation, on the files of one folder.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh::identity::{
    Identity,
    certs::{Authority, identity_in},
};

use super::{AUTHORITY_VALID, LISTS_VALID, OWN, authority, read, write};

/// Every list in `crl.pem` ends with it.
const LIST_END: &str = "-----END X509 CRL-----\n";

/// Adds the certificate in NODE.pem to its authority's list.
pub(super) fn revoke(dir: &Path, trust_domain: &str, node: &str) -> Result<()> {
    let path = dir.join(format!("{node}.pem"));
    let cert = read(&path)?;
    let known = authorities(dir, trust_domain)?;
    let issuer = known.iter().find(|a| a.has_issued(&cert));
    let issuer = issuer.with_context(|| format!("{}: issued by no authority in this folder", path.display()))?;
    let (own, others): (Vec<_>, Vec<_>) = lists(dir)?.into_iter().partition(|list| issuer.has_listed(list));
    let list = issuer.revoke(own.first().map(String::as_str), Some(&cert), LISTS_VALID)?;
    write(&dir.join("crl.pem"), &(list + &others.concat()), 0o644)
}

/// Makes a new authority and keeps the one there was as `ca.old.*`; `ca.pem` has both, the new one first.
pub(super) fn new_authority(dir: &Path, trust_domain: &str) -> Result<()> {
    let [old_ca, old_key] = old(dir);
    ensure!(!old_ca.exists(), "two authorities are in use already: --renew and --drop-ca first");
    let before = authority(dir, trust_domain)?;
    write(&old_ca, before.ca_pem(), 0o644)?;
    write(&old_key, &before.key_pem(), 0o600)?;
    let new = Authority::create(trust_domain, AUTHORITY_VALID)?;
    let list = new.revoke(None, None, LISTS_VALID)?;
    write(&dir.join("crl.pem"), &(list + &lists(dir)?.concat()), 0o644)?;
    write(&dir.join("ca.key"), &new.key_pem(), 0o600)?;
    write(&dir.join("ca.pem"), &format!("{}{}", new.ca_pem(), before.ca_pem()), 0o644)
}

/// Makes a new certificate and key for every NODE.pem.
pub(super) fn renew(dir: &Path, trust_domain: &str, validity: Duration) -> Result<()> {
    let nodes = nodes(dir, trust_domain)?.into_iter().map(|(_, identity, _)| identity).collect::<Vec<_>>();
    ensure!(!nodes.is_empty(), "{}: no node's certificate in it", dir.display());
    super::issue(dir, trust_domain, validity, &nodes)
}

/// Leaves only the newest authority in `ca.pem` and its list in `crl.pem`, once no node shows the old one's.
pub(super) fn drop_authority(dir: &Path, trust_domain: &str) -> Result<()> {
    let [old_ca, old_key] = old(dir);
    ensure!(old_ca.exists(), "only one authority is in use");
    let newest = Authority::load(trust_domain, &first(&read(&dir.join("ca.pem"))?), &read(&dir.join("ca.key"))?)?;
    let before = Authority::load(trust_domain, &read(&old_ca)?, &read(&old_key)?)?;
    for (path, pem) in certificates(dir)? {
        // Whosever names they bear.
        if before.has_issued(&pem) {
            bail!("{}: still the old authority's; --renew first", path.display());
        }
    }
    let kept: Vec<String> = lists(dir)?.into_iter().filter(|list| newest.has_listed(list)).collect();
    // What it has signed is checked against it still: receipts.
    let former = dir.join("ca.former.pem");
    let known = if former.exists() { read(&former)? } else { String::new() };
    write(&former, &(known + before.ca_pem()), 0o644)?;
    write(&dir.join("ca.pem"), newest.ca_pem(), 0o644)?;
    write(&dir.join("crl.pem"), &kept.concat(), 0o644)?;
    for path in [old_ca, old_key] {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn old(dir: &Path) -> [PathBuf; 2] {
    [dir.join("ca.old.pem"), dir.join("ca.old.key")]
}

fn authorities(dir: &Path, trust_domain: &str) -> Result<Vec<Authority>> {
    let mut known =
        vec![Authority::load(trust_domain, &first(&read(&dir.join("ca.pem"))?), &read(&dir.join("ca.key"))?)?];
    let [ca, key] = old(dir);
    if ca.exists() {
        known.push(Authority::load(trust_domain, &read(&ca)?, &read(&key)?)?);
    }
    Ok(known)
}

/// The first certificate of a bundle.
fn first(bundle: &str) -> String {
    bundle.replace("\r\n", "\n").split_inclusive("-----END CERTIFICATE-----\n").next().unwrap_or_default().to_owned()
}

/// The lists in `crl.pem`, each by itself; none if there is no such file.
fn lists(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("crl.pem");
    let text = if path.exists() { read(&path)? } else { String::new() };
    Ok(text.replace("\r\n", "\n").split_inclusive(LIST_END).filter(|l| l.ends_with(LIST_END)).map(Into::into).collect())
}

/// Every file in `dir` that is a node's certificate: path, node, text; in order of name.
fn nodes(dir: &Path, trust_domain: &str) -> Result<Vec<(PathBuf, Identity, String)>> {
    let found = certificates(dir)?.into_iter();
    let named = found.filter_map(|(path, text)| Some((path, identity_in(&text, trust_domain).ok()?, text)));
    Ok(named.collect())
}

/// Every `.pem` file in `dir` but the authority's own: path and text; in order of name.
fn certificates(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut found = vec![];
    for entry in entries {
        let path = entry?.path();
        let own = path.file_stem().is_some_and(|stem| OWN.iter().any(|own| stem == *own));
        if path.extension().is_some_and(|e| e == "pem") && !own {
            found.push((path.clone(), read(&path)?));
        }
    }
    found.sort();
    Ok(found)
}
