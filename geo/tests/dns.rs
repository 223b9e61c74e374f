//! The server on a real socket, asked by hickory-resolver, by `dig`, and by somebody who sends junk.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use geo::{
    answer::{self, Directory, LiveNode},
    server::{ServeError, Server, Settings},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// Deadline "test": for one exchange with a server on the same machine.
const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    addr: SocketAddr,
    directory: watch::Sender<Arc<Directory>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(nodes: Vec<LiveNode>) -> Self {
        Self::start_with(nodes, Settings::default().tcp_connections).await
    }

    async fn start_with(nodes: Vec<LiveNode>, tcp_connections: usize) -> Self {
        let (directory, receiver) = watch::channel(Arc::new(Directory { nodes, cut_off: false }));
        let zone = answer::Settings { domain: "mesh.example".into(), ..answer::Settings::default() };
        let settings = Settings { listen: ([127, 0, 0, 1], 0).into(), zone, tcp_connections, ..Settings::default() };
        let server = Server::bind(settings, receiver).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let addr = server.local_addr();
        let task = tokio::spawn(server.run(async move { stopped.await.unwrap_or(()) }));
        Self { addr, directory, stop, task }
    }

    fn replace(&self, nodes: Vec<LiveNode>) {
        self.directory.send_replace(Arc::new(Directory { nodes, cut_off: false }));
    }

    /// A resolver that keeps nothing: each question reaches the server.
    fn resolver(&self) -> TokioResolver {
        let mut name_server = NameServerConfig::udp_and_tcp(self.addr.ip());
        for connection in &mut name_server.connections {
            connection.port = self.addr.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.build().unwrap()
    }

    async fn dig(&self, arguments: &[&str]) -> String {
        let mut dig = Command::new("dig");
        dig.arg("@127.0.0.1").arg("-p").arg(self.addr.port().to_string()).args(arguments);
        let run = move || dig.output().expect("`dig` is needed: run `./dev test`, or install bind9-dnsutils");
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn edge(name: &str, region: &str, last: u8) -> LiveNode {
    LiveNode {
        name: name.into(),
        role: "edge".into(),
        region: region.parse().unwrap(),
        addr: ([192, 0, 2, last], 4433).into(),
        api: None,
        draining: false,
    }
}

async fn addresses(resolver: &TokioResolver, name: &str) -> Result<Vec<String>, NetError> {
    let found = timeout(PATIENCE, resolver.lookup(name, RecordType::A)).await.unwrap()?;
    Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect())
}

#[tokio::test]
async fn a_resolver_finds_seeds_their_addresses_and_the_nearest_edges() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1), edge("edge-2", "eu-central", 2)]).await;
    let resolver = server.resolver();
    let found = resolver.lookup("_nearfield._udp.mesh.example.", RecordType::SRV).await.unwrap();
    let RData::SRV(srv) = &found.answers()[0].data else { panic!("{found:?}") };
    assert_eq!((srv.port, found.answers()[0].ttl), (4433, 30));
    assert_eq!(addresses(&resolver, &srv.target.to_string()).await.unwrap(), ["192.0.2.1"]);
    assert_eq!(addresses(&resolver, "edge.mesh.example.").await.unwrap(), ["192.0.2.1", "192.0.2.2"]);
    server.stop().await;
}

#[tokio::test]
async fn the_next_answer_follows_the_directory() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1)]).await;
    let resolver = server.resolver();
    assert_eq!(addresses(&resolver, "edge.mesh.example.").await.unwrap(), ["192.0.2.1"]);
    server.replace(vec![edge("edge-9", "us-east", 9)]);
    assert_eq!(addresses(&resolver, "edge.mesh.example.").await.unwrap(), ["192.0.2.9"]);
    let gone = addresses(&resolver, "edge-1.us-east.node.mesh.example.").await.unwrap_err();
    assert!(gone.is_nx_domain(), "{gone}");
    server.replace(Vec::new());
    let none = addresses(&resolver, "edge.mesh.example.").await.unwrap_err();
    assert!(none.is_no_records_found() && !none.is_nx_domain(), "{none}");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_arrives_over_tcp() {
    let nodes = (0..60).map(|n| edge(&format!("an-edge-with-a-rather-long-name-{n}"), "us-east", n)).collect();
    let server = Running::start(nodes).await;
    let found = server.resolver().lookup("_nearfield._udp.mesh.example.", RecordType::SRV).await.unwrap();
    assert_eq!(found.answers().len(), answer::MAX_SEEDS);
    server.stop().await;
}

#[tokio::test]
async fn dig_sees_an_authoritative_answer_by_udp_and_tcp() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1)]).await;
    for transport in ["+notcp", "+tcp"] {
        let said = server.dig(&[transport, "+norecurse", "EDGE.mesh.example", "A"]).await;
        assert!(said.contains("status: NOERROR") && said.contains("flags: qr aa;"), "{said}");
        let line = said.lines().find(|line| line.contains("192.0.2.1")).unwrap_or_else(|| panic!("{said}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["EDGE.mesh.example.", "5", "IN", "A", "192.0.2.1"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn dig_is_refused_what_this_server_does_not_do() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1)]).await;
    let cases: [(&[&str], &str); 5] = [
        (&["www.example.com", "A"], "status: REFUSED"),
        (&["mesh.example", "AXFR", "+tcp"], "Transfer failed"),
        (&["mesh.example", "CH", "TXT"], "status: REFUSED"),
        (&["+opcode=notify", "mesh.example", "SOA"], "status: NOTIMP"),
        (&["+edns=1", "+noednsnegotiation", "mesh.example", "SOA"], "status: BADVERS"),
    ];
    for (arguments, expected) in cases {
        let said = server.dig(arguments).await;
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn junk_changes_nothing() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1)]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for length in 0..400_usize {
        let byte = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let mut junk: Vec<u8> = (0..length).map(byte).collect();
        // Half of them claim to be ordinary questions, so that more than the header is read.
        if length > 12 && length % 2 == 0 {
            junk[2..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        socket.send_to(&junk, server.addr).await.unwrap();
    }
    assert_eq!(addresses(&server.resolver(), "edge.mesh.example.").await.unwrap(), ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_make_room_for_who_asks() {
    let server = Running::start_with(vec![edge("edge-1", "us-east", 1)], 3).await;
    let mut idle = vec![];
    for _ in 0..10 {
        idle.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let said = server.dig(&["+tcp", "+tries=1", "+norecurse", "edge.mesh.example", "A"]).await;
    assert!(said.contains("192.0.2.1"), "{said}");
    // The first of them was closed for another.
    let closed = timeout(PATIENCE, idle[0].read(&mut [0])).await.unwrap();
    assert!(closed.is_err() || closed.is_ok_and(|bytes| bytes == 0));
    server.stop().await;
}

#[tokio::test]
async fn malformed_questions_over_tcp_are_told_so() {
    let server = Running::start(vec![edge("edge-1", "us-east", 1)]).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // A header that promises a question, and none.
    stream.write_all(&[0, 12, 7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let mut answer = [0; 14];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!((answer[2], answer[3], answer[5] & 0xf), (7, 7, 1), "FORMERR: {answer:?}");
    server.stop().await;
}

#[tokio::test]
async fn after_stop_the_address_is_free_again() {
    let server = Running::start(Vec::new()).await;
    let addr = server.addr;
    server.stop().await;
    UdpSocket::bind(addr).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named_in_the_error() {
    let server = Running::start(Vec::new()).await;
    let (_directory, receiver) = watch::channel(Arc::new(Directory::default()));
    let settings = Settings { listen: server.addr, ..Settings::default() };
    let error = Server::bind(settings, receiver).await.err().unwrap();
    assert!(error.to_string().contains(&format!("cannot listen on {}", server.addr)), "{error}");
    server.stop().await;
}
