//! The `geo-dns` program as an operator runs it: the first node of a mesh, found by the next through its own DNS.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "waits for a real process")]

use std::{
    io::{Read, Write},
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

/// The response code and the number of answers to a question for the IPv4 addresses of `name` in the zone; nothing, if there is none.
fn asked(dns: SocketAddr, name: &str) -> Option<(u8, u16)> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in format!("{name}.{ZONE}").split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send_to(&question, dns).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok().filter(|length| *length >= 12)?;
    assert_eq!((length >= question.len(), answer[1]), (true, 7));
    Some((answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]])))
}

/// The first line of what `/readyz` answers, and its last.
fn readyz(http: SocketAddr) -> Option<(String, String)> {
    let mut stream = std::net::TcpStream::connect(http).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: dns\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some((text.lines().next()?.to_owned(), text.lines().last()?.to_owned()))
}

async fn until<T: PartialEq + std::fmt::Debug>(what: impl Fn() -> Option<T>, wanted: T) {
    let (start, wanted) = (Instant::now(), Some(wanted));
    loop {
        let found = what();
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{wanted:?} expected: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_nobody_to_ask_fails_instead_of_denying_and_names_whom_it_knew_when_it_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(DOMAIN, HOUR).unwrap();
    write_certificate(dir.path(), &authority, "dns");
    let (mesh, dns, http) = (free(), free(), free());
    let mut arguments = arguments(dir.path(), mesh, dns, http);
    arguments.extend(["--set".into(), format!("mesh.seeds=[\"{}\"]", free())]);
    let _program = Program(geo_dns().args(arguments).spawn().unwrap());

    let unready = "HTTP/1.1 503 Service Unavailable";
    until(|| asked(dns, "edge"), (2, 0)).await;
    until(|| readyz(http).map(|(status, _)| status), unready.into()).await;
    assert!(readyz(http).unwrap().1.starts_with("not ready: no other node is known"));
    assert_eq!(asked(dns, "dns-1.eu-central.node"), Some((0, 1)), "its own name is known");

    let edge = join(&authority, dns).await;
    until(|| asked(dns, "edge"), (0, 1)).await;
    until(|| readyz(http).map(|(status, _)| status), "HTTP/1.1 200 OK".into()).await;
    edge.shutdown().await;
    until(|| readyz(http).map(|(status, _)| status), unready.into()).await;
    assert_eq!(asked(dns, "edge"), Some((0, 1)), "the only name server goes on with what it knew");
    assert_eq!(asked(dns, "edge-2.eu-central.node"), Some((2, 0)), "of others it knows nothing");
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
