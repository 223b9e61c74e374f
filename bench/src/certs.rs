//! `bench certs`: a certificate authority for a demo, a test or a first deployment.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mesh::identity::{Identity, certs::Authority};

/// How long a new authority is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Makes certificates for nodes, and the authority if the folder has none.
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
    /// NODE:ROLE:REGION, such as edge-1:edge:eu-central.
    #[arg(required = true)]
    pub nodes: Vec<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// A name is malformed, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let nodes = args.nodes.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
    issue(&args.dir, &args.trust_domain, Duration::from_secs(u64::from(args.days) * 24 * 3600), &nodes)
}

/// Writes `ca.pem`, and `<node>.pem` and `<node>.key` for each of `nodes`, into `dir`.
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
    if ca.exists() && key.exists() {
        return Ok(Authority::load(trust_domain, &read(&ca)?, &read(&key)?)?);
    }
    let authority = Authority::create(trust_domain, AUTHORITY_VALID)?;
    write(&ca, authority.ca_pem(), 0o644)?;
    write(&key, &authority.key_pem(), 0o600)?;
    Ok(authority)
}

fn parse(text: &str) -> Result<Identity> {
    let parts: Vec<&str> = text.split(':').collect();
    let [node, role, region] = parts[..] else {
        bail!("`{text}` is not NODE:ROLE:REGION, such as edge-1:edge:eu-central")
    };
    Ok(Identity { node: node.parse()?, role: role.parse()?, region: region.parse()? })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let file = options.open(path).with_context(|| format!("cannot write {}", path.display()));
    file?.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_reuses_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let run_for = |node: &str| {
            let args =
                Args { dir: dir.path().into(), trust_domain: "a.example".into(), days: 1, nodes: vec![node.into()] };
            run(&args).unwrap();
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
