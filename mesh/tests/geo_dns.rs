//! The `geo-dns` program as an operator runs it: the first node of a mesh, found by the next through its own DNS.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "waits for a real process")]

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mesh::{
    identity::{
        Identity,
        certs::{Authority, Credentials},
    },
    membership,
    node::{Node, Settings},
    seeds,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const DOMAIN: &str = "a.test";
const ZONE: &str = "mesh.a.test";
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

/// Killed if the test fails before it has ended by itself.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn identity(role: &str, node: &str) -> Identity {
    let uri = format!("spiffe://{DOMAIN}/region/eu-central/role/{role}/node/{node}");
    Identity::from_spiffe(&uri, DOMAIN).unwrap()
}

/// An address that was free for both UDP and TCP a moment ago.
fn free() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        if UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// The arguments of a complete configuration without a file.
fn arguments(dir: &std::path::Path, mesh: SocketAddr, dns: SocketAddr, http: SocketAddr) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    [
        "node.id=dns-1".into(),
        "node.region=eu-central".into(),
        format!("mesh.listen={mesh}"),
        format!("tls.ca={}", file("ca")),
        format!("tls.cert={}", file("cert")),
        format!("tls.key={}", file("key")),
        format!("tls.trust_domain={DOMAIN}"),
        format!("http.listen={http}"),
        format!("dns.listen={dns}"),
        format!("dns.domain={ZONE}"),
        r#"dns.name_servers=["ns1=127.0.0.1"]"#.into(),
    ]
    .into_iter()
    .flat_map(|set: String| ["--set".to_owned(), set])
    .collect()
}

fn write_certificate(dir: &std::path::Path, authority: &Authority, role: &str) {
    let (cert, key) = authority.issue(&identity(role, "dns-1"), HOUR).unwrap();
    for (name, text) in [("ca", authority.ca_pem()), ("cert", &cert), ("key", &key)] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

fn geo_dns() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geo-dns"));
    command.stdin(Stdio::null());
    command
}

async fn join(authority: &Authority, dns: SocketAddr) -> Node {
    let (cert, key) = authority.issue(&identity("edge", "edge-1"), HOUR).unwrap();
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:0".parse().unwrap(),
        credentials: Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN).unwrap(),
        seeds: seeds::Settings { domain: Some(ZONE.into()), dns_servers: vec![dns], ..seeds::Settings::default() },
        swim: membership::Settings::default(),
        software: "test".into(),
        tasks: Default::default(),
    };
    Node::start(settings).await.unwrap().0
}

/// What DNS names as seeds, once it names `count` of them.
async fn seeds_named(dns: SocketAddr, count: usize) -> seeds::Found {
    let settings = seeds::Settings { domain: Some(ZONE.into()), dns_servers: vec![dns], ..seeds::Settings::default() };
    let start = Instant::now();
    loop {
        // A resolver of its own each time: what it has cached must not answer.
        let found = seeds::Seeds::new(settings.clone()).unwrap().resolve().await;
        if found.addresses.len() == count {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{count} seeds expected: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_first_node_answers_with_itself_the_next_joins_through_it_and_sigterm_ends_it_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(DOMAIN, HOUR).unwrap();
    write_certificate(dir.path(), &authority, "dns");
    let (mesh, dns, http) = (free(), free(), free());
    let mut program = Program(geo_dns().args(arguments(dir.path(), mesh, dns, http)).spawn().unwrap());

    let found = seeds_named(dns, 1).await;
    assert!(found.addresses.contains_key(&mesh), "{found:?}");
    assert!(found.refresh >= Duration::from_secs(5) && found.refresh <= Duration::from_secs(30));

    let edge = join(&authority, dns).await;
    let mut members = edge.members();
    let joined = members.wait_for(|members| members.iter().any(|m| m.identity.node.as_str() == "dns-1"));
    tokio::time::timeout(PATIENCE, joined).await.expect("joins").unwrap();
    assert!(seeds_named(dns, 2).await.addresses.contains_key(&edge.address()));

    kill(Pid::from_raw(program.0.id() as i32), Signal::SIGTERM).unwrap();
    let gone = members.wait_for(|members| members.is_empty());
    tokio::time::timeout(PATIENCE, gone).await.expect("says goodbye").unwrap();
    let status = tokio::task::spawn_blocking(move || program.0.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_certificate_of_another_role_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    write_certificate(dir.path(), &Authority::create(DOMAIN, HOUR).unwrap(), "edge");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let output = geo_dns().args(arguments(dir.path(), nowhere, nowhere, nowhere)).arg("--check").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("tls.cert") && text.contains("names role `edge`, this program is `dns`"), "{text}");
}
