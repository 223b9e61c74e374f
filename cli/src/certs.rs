//! `nearfield certs`: a certificate authority for a demo, a test or a first deployment.
//!
//! Running nodes watch their files, so a rotation is: `--renew`, and copy each NODE.pem and NODE.key out. One of the
//! authority is three steps, each copied out before the next: `--new-ca` (everybody trusts both), `--renew` (everybody
//! shows the new one's), `--drop-ca` (nobody trusts the old one). `--revoke NODE` puts a node's present certificate on
//! `crl.pem`, the file of `tls.crl`.

mod rotate;

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh::identity::{Identity, certs::Authority};

use crate::files::read_text;

/// How long a new authority is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(3650 * 24 * 3600);
/// When a revocation list says that it should be replaced. Nodes go on to use it after that.
const LISTS_VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the authority's own files are called, but for their endings: no node can be.
const OWN: [&str; 4] = ["ca", "ca.old", "ca.former", "crl"];

/// The longest file of the folder, in bytes: a list of some hundred thousand revoked certificates.
const MAX_FILE: u64 = 16 << 20;

/// Makes certificates for nodes, and the authority if the folder has none; renews and revokes them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for ca.pem, ca.key and each node's NODE.pem and NODE.key.
    #[arg(long)]
    pub dir: PathBuf,
    /// The mesh's name: the host part of every SPIFFE id.
    #[arg(long, default_value = "nearfield.internal")]
    pub trust_domain: String,
    /// Days until the certificates expire.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Puts the certificate that NODE.pem holds now on the revocation list, crl.pem. May be given many times.
    #[arg(long, value_name = "NODE")]
    pub revoke: Vec<String>,
    /// Makes a new authority; ca.pem then has both, and new certificates come from the new one.
    #[arg(long)]
    pub new_ca: bool,
    /// Makes a new certificate and key for every node in the folder.
    #[arg(long)]
    pub renew: bool,
    /// Takes the old authority out of ca.pem, and its revocation list out of crl.pem.
    #[arg(long, conflicts_with_all = ["new_ca", "renew"])]
    pub drop_ca: bool,
    /// NODE:ROLE:REGION, such as edge-1:edge:eu-central.
    #[arg(required_unless_present_any = ["revoke", "new_ca", "renew", "drop_ca"])]
    pub nodes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A name is malformed, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let nodes = args.nodes.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
    let validity = Duration::from_secs(u64::from(args.days) * 24 * 3600);
    for node in &args.revoke {
        rotate::revoke(&args.dir, &args.trust_domain, node)?;
    }
    if args.new_ca {
        rotate::new_authority(&args.dir, &args.trust_domain)?;
    }
    if args.renew {
        rotate::renew(&args.dir, &args.trust_domain, validity)?;
    }
    if args.drop_ca {
        rotate::drop_authority(&args.dir, &args.trust_domain)?;
    }
    if nodes.is_empty() { Ok(()) } else { issue(&args.dir, &args.trust_domain, validity, &nodes) }
}

/// Writes `ca.pem` and `crl.pem`, and `<node>.pem` and `<node>.key` for each of `nodes`, into `dir`.
///
/// # Errors
/// As [`run`].
pub fn issue(dir: &Path, trust_domain: &str, validity: Duration, nodes: &[Identity]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let authority = authority(dir, trust_domain)?;
    for identity in nodes {
        let (cert, key) = authority.issue(identity, validity)?;
        write(&dir.join(format!("{}.pem", identity.node)), &cert, 0o644)?;
        write(&dir.join(format!("{}.key", identity.node)), &key, 0o600)?;
    }
    Ok(())
}

fn authority(dir: &Path, trust_domain: &str) -> Result<Authority> {
    let (ca, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    match (ca.exists(), key.exists()) {
        (true, true) => return Ok(Authority::load(trust_domain, &read(&ca)?, &read(&key)?)?),
        (false, false) => {}
        // A new authority in the place of half of one would part the mesh, and forget who was revoked.
        (true, false) => bail!("{} is there without its key: put it back as {}", ca.display(), key.display()),
        (false, true) => bail!("{} is there without its certificate: put it back as {}", key.display(), ca.display()),
    }
    let authority = Authority::create(trust_domain, AUTHORITY_VALID)?;
    write(&ca, authority.ca_pem(), 0o644)?;
    write(&key, &authority.key_pem(), 0o600)?;
    write(&dir.join("crl.pem"), &authority.revoke(None, None, LISTS_VALID)?, 0o644)?;
    Ok(authority)
}

fn parse(text: &str) -> Result<Identity> {
    let parts: Vec<&str> = text.split(':').collect();
    let [node, role, region] = parts[..] else {
        bail!("`{text}` is not NODE:ROLE:REGION, such as edge-1:edge:eu-central")
    };
    ensure!(!OWN.contains(&node), "`{node}`: the authority's own files have that name");
    Ok(Identity { node: node.parse()?, role: role.parse()?, region: region.parse()? })
}

fn read(path: &Path) -> Result<String> {
    read_text(path, MAX_FILE)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    // Beside it and then over it: a node that watches the file never sees a half.
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let file = options.open(&beside).with_context(|| format!("cannot write {}", beside.display()));
    file?.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mesh::identity::certs::{CertPaths, Credentials};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(dir: &Path, words: &[&str]) -> Args {
        let fixed = ["certs", "--trust-domain", "a.example", "--days", "1", "--dir"];
        let all = fixed.iter().copied().chain([dir.to_str().unwrap()]).chain(words.iter().copied());
        Cli::try_parse_from(all).unwrap().args
    }

    fn load(dir: &Path, node: &str) -> Result<Credentials, String> {
        let of = |name: String| dir.join(name);
        let paths = CertPaths {
            ca: of("ca.pem".into()),
            cert: of(format!("{node}.pem")),
            key: of(format!("{node}.key")),
            crl: Some(of("crl.pem".into())),
        };
        Credentials::load(&paths, "a.example").map_err(|e| e.to_string())
    }

    #[test]
    fn an_authority_is_exchanged_in_three_steps_and_files_are_good_after_each() {
        let dir = tempfile::tempdir().unwrap();
        let step = |words: &[&str]| run(&args(dir.path(), words));
        step(&["edge-1:edge:eu-central", "core-1:core:eu-central"]).unwrap();
        let both_load = || load(dir.path(), "edge-1").and(load(dir.path(), "core-1")).map(|c| c.identity().clone());
        let who = both_load().unwrap();
        let old = read(&dir.path().join("ca.pem")).unwrap();

        step(&["--new-ca"]).unwrap();
        assert_eq!(both_load().unwrap(), who);
        let error = step(&["--new-ca"]).unwrap_err().to_string();
        assert!(error.contains("--drop-ca"), "{error}");
        let error = step(&["--drop-ca"]).unwrap_err().to_string();
        assert!(error.contains("core-1.pem") && error.contains("--renew"), "{error}");
        step(&["--renew"]).unwrap();
        assert_eq!(both_load().unwrap(), who);
        step(&["--drop-ca"]).unwrap();
        assert_eq!(both_load().unwrap(), who);
        let new = read(&dir.path().join("ca.pem")).unwrap();
        assert_eq!((new.matches("BEGIN").count(), new.contains(old.trim())), (1, false));
    }

    #[test]
    fn a_revoked_certificate_is_no_good_and_a_renewed_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let step = |words: &[&str]| run(&args(dir.path(), words)).unwrap();
        step(&["edge-1:edge:eu-central", "edge-2:edge:eu-central"]);
        step(&["--new-ca"]);
        step(&["--revoke", "edge-1"]);
        let error = load(dir.path(), "edge-1").unwrap_err();
        assert!(error.contains("it was revoked"), "{error}");
        load(dir.path(), "edge-2").unwrap();
        step(&["--revoke", "edge-2", "--renew"]);
        load(dir.path(), "edge-1").and(load(dir.path(), "edge-2")).unwrap();
        let error = run(&args(dir.path(), &["--revoke", "edge-9"])).unwrap_err().to_string();
        assert!(error.contains("edge-9.pem"), "{error}");
    }

    #[test]
    fn half_an_authority_is_never_made_anew_nor_one_whose_key_is_another_s() {
        let dir = tempfile::tempdir().unwrap();
        let step = |words: &[&str]| run(&args(dir.path(), words)).map_err(|e| format!("{e:#}"));
        let (ca, key, aside) = (dir.path().join("ca.pem"), dir.path().join("ca.key"), dir.path().join("aside"));
        step(&["edge-1:edge:eu-central"]).unwrap();
        let before = read(&ca).unwrap();
        for gone in [&key, &ca] {
            fs::rename(gone, &aside).unwrap();
            for words in [["core-1:core:eu-central"], ["--new-ca"], ["--renew"]] {
                let error = step(&words).unwrap_err();
                assert!(error.contains("ca.key") && error.contains("ca.pem"), "{error}");
            }
            assert!(!gone.exists());
            fs::rename(&aside, gone).unwrap();
        }
        assert_eq!(read(&ca).unwrap(), before);
        fs::write(&key, Authority::create("a.example", AUTHORITY_VALID).unwrap().key_pem()).unwrap();
        let error = step(&["core-1:core:eu-central"]).unwrap_err();
        assert!(error.contains("key"), "{error}");
    }

    #[test]
    fn no_node_takes_the_name_of_the_authority_s_files() {
        for name in OWN {
            assert!(parse(&format!("{name}:core:ca-central")).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn an_old_authority_is_dropped_only_when_no_certificate_is_its_own_and_its_receipts_can_be_checked_still() {
        let dir = tempfile::tempdir().unwrap();
        let step = |words: &[&str]| run(&args(dir.path(), words)).map_err(|e| format!("{e:#}"));
        let ca = dir.path().join("ca.pem");
        step(&["edge-1:edge:eu-central"]).unwrap();
        let old = read(&ca).unwrap();
        step(&["--new-ca"]).unwrap();
        // As a repository or an editor may leave it.
        fs::write(&ca, read(&ca).unwrap().replace('\n', "\r\n")).unwrap();
        let elsewhere = Cli::try_parse_from(["certs", "--drop-ca", "--dir", dir.path().to_str().unwrap()]).unwrap();
        let error = run(&elsewhere.args).unwrap_err().to_string();
        assert!(error.contains("edge-1.pem"), "of another trust domain than it says: {error}");
        step(&["--renew"]).unwrap();
        step(&["--drop-ca"]).unwrap();
        assert_eq!(read(&ca).unwrap().matches("BEGIN").count(), 1);
        assert!(!dir.path().join("ca.old.key").exists());
        assert_eq!(read(&dir.path().join("ca.former.pem")).unwrap(), old);
    }

    #[test]
    fn a_second_run_reuses_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let run_for = |node: &str| {
            run(&args(dir.path(), &[node])).unwrap();
            read(&dir.path().join("ca.pem")).unwrap()
        };
        assert_eq!(run_for("edge-1:edge:eu-central"), run_for("core-1:core:eu-central"));
        for file in ["edge-1.pem", "edge-1.key", "core-1.pem", "core-1.key"] {
            assert!(dir.path().join(file).exists(), "{file}");
        }
    }

    #[test]
    fn a_malformed_node_is_named() {
        let error = parse("edge-1:king:eu").unwrap_err().to_string();
        assert!(error.contains("king"), "{error}");
        assert!(parse("edge-1").unwrap_err().to_string().contains("NODE:ROLE:REGION"));
    }
}
