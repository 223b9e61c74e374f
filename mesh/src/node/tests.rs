#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod rotation;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::sleep;

use super::*;
use crate::{
    identity::certs::Authority,
    transport::{close as code, tests::outsider},
    wire::{
        self,
        control::{ToCore, ToEdge},
    },
};

const DOMAIN: &str = "a.test";
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

/// An edge, or what its name begins with.
fn name(node: &str) -> Identity {
    let role = node.split_once('-').map_or("edge", |(role, _)| role);
    Identity::from_spiffe(&format!("spiffe://{DOMAIN}/region/eu-central/role/{role}/node/{node}"), DOMAIN).unwrap()
}

fn id(node: &str) -> NodeId {
    node.parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(DOMAIN, HOUR).unwrap()
}

fn settings(authority: &Authority, node: &str, seeds: &[SocketAddr]) -> Settings {
    let (cert, key) = authority.issue(&name(node), HOUR).unwrap();
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:0".parse().unwrap(),
        credentials: Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN).unwrap(),
        seeds: seeds::Settings { addresses: seeds.iter().map(ToString::to_string).collect(), ..Default::default() },
        swim: membership::Settings::default(),
        software: "test".into(),
        tasks: Default::default(),
    }
}

async fn start(authority: &Authority, node: &str, seeds: &[SocketAddr]) -> (Node, mpsc::Receiver<Inbound>) {
    Node::start(settings(authority, node, seeds)).await.unwrap()
}

/// Waits until `node` sees exactly `names`, sorted.
async fn sees(node: &Node, names: &[&str]) {
    let mut members = node.members();
    let reached =
        members.wait_for(|members| members.iter().map(|m| m.identity.node.as_str()).eq(names.iter().copied()));
    timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("{} never saw {names:?}", node.identity().node))
        .unwrap();
}

/// Counters of everything on this test's thread. Keep the guard.
fn counters() -> (PrometheusHandle, metrics::LocalRecorderGuard<'static>) {
    let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    (recorder.handle(), metrics::set_default_local_recorder(recorder))
}

fn count(counters: &PrometheusHandle, series: &str) -> u64 {
    let text = counters.render();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0)
}

async fn counted(counters: &PrometheusHandle, series: &str, at_least: u64) {
    let start = Instant::now();
    while count(counters, series) < at_least {
        assert!(start.elapsed() < PATIENCE, "{series} stays below {at_least}:\n{}", counters.render());
        sleep(Duration::from_millis(10)).await;
    }
}

/// Answers every request with `Accepted`.
fn answer(mut inbound: mpsc::Receiver<Inbound>) {
    tokio::spawn(async move {
        while let Some(Inbound::Request { reply, .. }) = inbound.recv().await {
            let _ = reply.send(Response::Accepted).await;
        }
    });
}

/// What any edge may ask any other.
fn question() -> Request {
    Request::Renew { core: id("core-1"), edge: id("b"), sent_ms: 1, leases: vec![] }
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one_seed_and_hear_reports() {
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    let (c, _c_in) = start(&authority, "c", &[a.address()]).await;
    tokio::join!(sees(&a, &["b", "c"]), sees(&b, &["a", "c"]), sees(&c, &["a", "b"]));

    let before = b.report().at;
    b.publish(|report| report.meetings = 7);
    let mut members = c.members();
    let heard = members.wait_for(|members| {
        members.iter().any(|m| m.identity.node == id("b") && m.report.as_ref().is_some_and(|r| r.meetings == 7))
    });
    timeout(PATIENCE, heard).await.expect("the report comes through").unwrap();
    assert_eq!(b.report().meetings, 7);
    assert!(b.report().at > before, "what it shows of itself is as new as what it tells");
    c.peer(&id("b")).await.unwrap();
    assert!(c.rtt(&id("b")).is_some());
}

#[tokio::test]
async fn nodes_learn_from_each_other_where_they_are_and_tell_it() {
    let (counters, _guard) = counters();
    let authority = authority();
    let at = |node, seeds: &[SocketAddr]| Settings { software: "0.2.0".into(), ..settings(&authority, node, seeds) };
    let (a, _a_in) = Node::start(at("a", &[])).await.unwrap();
    let (b, _b_in) = Node::start(at("b", &[a.address()])).await.unwrap();
    for (node, other) in [(&a, "b"), (&b, "a")] {
        let learnt = |member: &Member| {
            let there = member.report.as_ref().and_then(|report| report.coordinate());
            member.identity.node == id(other) && there.is_some_and(|there| there.is_sane() && there.error < 0.95)
        };
        let mut members = node.members();
        let told = members.wait_for(|members| members.iter().any(learnt));
        timeout(PATIENCE, told).await.expect("a coordinate").unwrap();
    }
    assert!(count(&counters, "nearfield_mesh_coordinate_samples_total{outcome=\"used\"}") >= 4);
}

#[tokio::test]
async fn nodes_speak_the_newest_version_that_both_of_them_know() {
    let authority = authority();
    let older = settings(&authority, "a", &[]);
    let (a, _a_in) =
        Node::start(Settings { credentials: older.credentials.speaking(Version::V1), ..older }).await.unwrap();
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    let (c, _c_in) = start(&authority, "c", &[a.address()]).await;
    tokio::join!(sees(&a, &["b", "c"]), sees(&b, &["a", "c"]), sees(&c, &["a", "b"]));
    assert_eq!((a.wire(), b.wire()), (Version::V1, Version::V2));
    assert_eq!(b.peer(&id("a")).await.unwrap().wire(), Version::V1);
    assert_eq!(a.peer(&id("c")).await.unwrap().wire(), Version::V1);
    assert_eq!(b.peer(&id("c")).await.unwrap().wire(), Version::V2);
}

#[tokio::test]
async fn requests_are_answered_and_what_is_not_answered_says_so() {
    let authority = authority();
    let (a, a_in) = start(&authority, "a", &[]).await;
    let (b, mut b_in) = start(&authority, "b", &[a.address()]).await;
    tokio::join!(sees(&a, &["b"]), sees(&b, &["a"]));
    answer(a_in);
    assert_eq!(b.request(&id("a"), &question()).await.unwrap(), Response::Accepted);

    let (there, asked) = (id("b"), question());
    let (outcome, ()) = tokio::join!(a.request(&there, &asked), async {
        let Some(Inbound::Request { peer, request, reply }) = b_in.recv().await else { panic!("no request") };
        assert_eq!((peer.identity.node.as_str(), *request), ("a", question()));
        drop(reply);
    });
    assert!(matches!(outcome, Err(RequestError::NoAnswer)), "{outcome:?}");
    let unknown = a.request(&id("nobody"), &question()).await;
    assert!(matches!(unknown, Err(RequestError::Connect(ConnectError::Unknown(_)))), "{unknown:?}");
}

#[tokio::test]
async fn control_streams_and_spurts_reach_the_program() {
    let authority = authority();
    let (a, mut a_in) = start(&authority, "core-a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    sees(&b, &["core-a"]).await;
    let peer = b.peer(&id("core-a")).await.unwrap();

    let (mut send, mut recv) = peer.open_control().await.unwrap();
    send.send(&ToCore::Hello { software: "edge".into() }).await.unwrap();
    let Some(Inbound::Control { send: mut back, recv: mut there, .. }) = a_in.recv().await else { panic!() };
    assert_eq!(there.recv::<ToCore>().await.unwrap(), Some(ToCore::Hello { software: "edge".into() }));
    back.send(&ToEdge::Drain).await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.recv::<ToEdge>().await.unwrap(), Some(ToEdge::Drain));
    assert_eq!(recv.recv::<ToEdge>().await.unwrap(), None);

    let mut spurt = peer.open_spurt().await.unwrap();
    spurt.write_all(&[wire::STREAM_SPURT, 1, 2, 3]).await.unwrap();
    spurt.finish().unwrap();
    let Some(Inbound::Spurt { mut recv, .. }) = a_in.recv().await else { panic!() };
    assert_eq!(recv.read_to_end(16).await.unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn what_no_node_of_the_sender_s_role_may_send_does_not_reach_the_program_and_is_told_so() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (core, mut core_in) = start(&authority, "core-a", &[]).await;
    let (dns, _dns_in) = start(&authority, "dns-b", &[core.address()]).await;
    sees(&dns, &["core-a"]).await;
    let peer = dns.peer(&id("core-a")).await.unwrap();
    let serving = Request::Serving { meeting: wire::MeetingId::from_u128(7) };
    let Response::Refused { reason } = peer.request(&serving).await.unwrap() else { panic!("answered") };
    assert_eq!(reason, "`serving` refused: a node of role dns may not send it to a node of role core");

    let (_, mut recv) = peer.open_control().await.unwrap();
    let refused = recv.recv::<ToEdge>().await.expect_err("reset");
    assert!(refused.to_string().contains("12"), "{refused}");
    let mut spurt = peer.open_spurt().await.unwrap();
    spurt.write_all(&[wire::STREAM_SPURT]).await.unwrap();
    assert_eq!(spurt.stopped().await.unwrap(), Some(code::DENIED));
    peer.connection.send_datagram(vec![wire::DATAGRAM_COPIES, 1].into()).unwrap();
    for message in ["serving", "control_stream", "spurt_stream", "copies"] {
        let series = format!("nearfield_mesh_denied_total{{message=\"{message}\",reason=\"role\"}}");
        counted(&counters, &series, 1).await;
    }
    assert!(core_in.try_recv().is_err(), "nothing has come through");
}

#[tokio::test]
async fn a_node_that_shuts_down_says_goodbye_and_ends_its_inbound() {
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (b, mut b_in) = start(&authority, "b", &[a.address()]).await;
    tokio::join!(sees(&a, &["b"]), sees(&b, &["a"]));
    let start = Instant::now();
    tokio::join!(b.shutdown(), sees(&a, &[]));
    // Far sooner than the 5 s in which SWIM finds a crash.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let end = timeout(PATIENCE, async { while b_in.recv().await.is_some() {} }).await;
    end.expect("inbound ends");
}

#[tokio::test]
async fn a_seed_that_is_the_node_itself_is_recognised_and_closed_quietly() {
    let (counters, _guard) = counters();
    let authority = authority();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Listens on all addresses, advertises another of this machine's: the seed is not the advertised address.
    let seed = SocketAddr::from(([127, 0, 0, 1], port));
    let settings = Settings {
        listen: SocketAddr::from(([0, 0, 0, 0], port)),
        advertise: SocketAddr::from(([127, 0, 0, 2], port)),
        ..settings(&authority, "a", &[seed])
    };
    let (a, _a_in) = Node::start(settings).await.unwrap();
    let start = Instant::now();
    while lock(&a.shared.own_addresses).is_empty() {
        assert!(start.elapsed() < PATIENCE, "never recognised");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(a.members().borrow().is_empty());
    assert!(!counters.render().contains("peers_refused"), "{}", counters.render());
}

#[tokio::test]
async fn an_address_with_another_node_than_expected_is_refused_and_counted() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[]).await;
    let error = dial::connect(&b.shared, a.address(), Some(&id("c"))).await.expect_err("refused");
    assert!(matches!(&error, ConnectError::WrongNode { found, .. } if *found == id("a")), "{error}");
    assert_eq!(count(&counters, r#"nearfield_mesh_peers_refused_total{reason="wrong_node"}"#), 1);
    assert!(b.shared.pool.all().is_empty());
}

#[tokio::test]
async fn strangers_and_expired_certificates_are_refused_and_counted_and_the_node_lives_on() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let refused = r#"nearfield_mesh_peers_refused_total{reason="certificate"}"#;
    let expired = r#"nearfield_mesh_peers_refused_total{reason="certificate_expired"}"#;

    let now = SystemTime::now();
    let (cert, key) = authority.issue_between(&name("late"), now - 3 * HOUR, now - HOUR).unwrap();
    let late = outsider(authority.ca_pem(), &cert, &key);
    let connection = late.connect(a.address(), "mesh.a.test").unwrap().await;
    if let Ok(connection) = connection {
        connection.closed().await;
    }
    counted(&counters, expired, 1).await;

    let (cert, key) = Authority::create(DOMAIN, HOUR).unwrap().issue(&name("strange"), HOUR).unwrap();
    let strange = outsider(authority.ca_pem(), &cert, &key);
    if let Ok(connection) = strange.connect(a.address(), "mesh.a.test").unwrap().await {
        connection.closed().await;
    }
    counted(&counters, refused, 1).await;

    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    sees(&b, &["a"]).await;
}

#[tokio::test]
async fn junk_from_an_admitted_peer_is_refused_and_counted_and_the_node_lives_on() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, a_in) = start(&authority, "a", &[]).await;
    answer(a_in);
    let (cert, key) = authority.issue(&name("junk"), HOUR).unwrap();
    let endpoint = outsider(authority.ca_pem(), &cert, &key);
    let connection = endpoint.connect(a.address(), "mesh.a.test").unwrap().await.unwrap();

    for datagram in [&[][..], &[9, 9, 9], &[wire::DATAGRAM_SWIM], &[wire::DATAGRAM_SWIM, 1, 2, 3, 4, 5, 255, 255]] {
        connection.send_datagram(datagram.to_vec().into()).unwrap();
    }
    counted(&counters, r#"nearfield_mesh_unknown_total{carrier="datagram"}"#, 2).await;
    counted(&counters, "nearfield_mesh_gossip_refused_total", 2).await;

    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[77]).await.unwrap();
    let quinn::ReadError::Reset(reset) = recv.read(&mut [0]).await.expect_err("reset") else { panic!("not reset") };
    assert_eq!(reset, code::UNKNOWN_STREAM);
    let mut uni = connection.open_uni().await.unwrap();
    uni.write_all(&[78]).await.unwrap();
    counted(&counters, r#"nearfield_mesh_unknown_total{carrier="stream"}"#, 2).await;

    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[wire::STREAM_REQUEST, 0, 0, 0, 3, 1, 250, 250]).await.unwrap();
    let quinn::ReadError::Reset(reset) = recv.read(&mut [0]).await.expect_err("reset") else { panic!("not reset") };
    assert_eq!(reset, code::MALFORMED);

    let peer = Peer { identity: a.identity().clone(), connection };
    assert_eq!(peer.request(&question()).await.unwrap(), Response::Accepted);
}

#[tokio::test]
async fn a_peer_with_too_many_open_requests_is_told_that_we_are_busy() {
    let authority = authority();
    let (a, mut a_in) = start(&authority, "a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    sees(&b, &["a"]).await;
    let peer = b.peer(&id("a")).await.unwrap();
    let mut held = vec![];
    let asking: Vec<_> = (0..64)
        .map(|_| {
            let peer = peer.clone();
            tokio::spawn(async move { peer.request(&question()).await })
        })
        .collect();
    while held.len() < 64 {
        held.push(a_in.recv().await.unwrap());
    }
    let refused = peer.request(&question()).await.expect_err("refused");
    assert!(matches!(refused, RequestError::Stream(_)), "{refused:?}");
    drop(held);
    for asked in asking {
        assert!(matches!(asked.await.unwrap(), Err(RequestError::NoAnswer)));
    }
    answer(a_in);
    assert_eq!(peer.request(&question()).await.unwrap(), Response::Accepted);
}

#[tokio::test]
async fn many_who_want_the_same_peer_dial_it_once() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[]).await;
    let dials: Vec<_> = (0..20)
        .map(|_| {
            let (shared, addr) = (b.shared.clone(), a.address());
            tokio::spawn(async move { dial::connect(&shared, addr, Some(&id("a"))).await.map(|_| ()) })
        })
        .collect();
    for dial in dials {
        dial.await.unwrap().unwrap();
    }
    assert_eq!(count(&counters, "nearfield_mesh_dials_total"), 1);
    assert!(lock(&b.shared.turns).is_empty());
}

#[tokio::test]
async fn an_unspecified_address_is_not_advertised() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let settings = Settings { listen: everywhere, advertise: everywhere, ..settings(&authority(), "a", &[]) };
    assert!(matches!(Node::start(settings).await, Err(StartError::Advertise(..))));
}

#[tokio::test]
async fn gossip_in_another_node_s_name_is_refused_and_counted() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (cert, key) = authority.issue(&name("liar"), HOUR).unwrap();
    let endpoint = outsider(authority.ca_pem(), &cert, &key);
    let connection = endpoint.connect(a.address(), "mesh.a.test").unwrap().await.unwrap();

    let victim = "127.0.0.1:1".parse().unwrap();
    let mut forged = {
        let keys = crate::sim::keys::Authority::default().issue(name("victim"));
        let clock = (1, Instant::now());
        membership::Membership::new(name("victim"), victim, keys, clock, membership::Settings::default(), 1)
    };
    forged.announce(a.address(), Instant::now());
    let packet = forged.poll_transmit().unwrap().packet;
    connection.send_datagram([&[wire::DATAGRAM_SWIM], &packet[..]].concat().into()).unwrap();
    counted(&counters, "nearfield_mesh_gossip_refused_total", 1).await;
    assert!(a.members().borrow().is_empty());
}

/// Waits until `node` remembers `what` of a dial.
async fn dialled(node: &Node, what: &str) {
    let begun = Instant::now();
    loop {
        let dials = format!("{:?}", lock(&node.shared.dials));
        if dials.contains(what) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {dials}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn of_two_nodes_with_one_id_the_second_is_refused_and_both_know() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (first, _first_in) = start(&authority, "x", &[a.address()]).await;
    sees(&a, &["x"]).await;
    let (second, _second_in) = start(&authority, "x", &[a.address()]).await;
    counted(&counters, "nearfield_mesh_peers_refused_total{reason=\"twin\"}", 1).await;
    // One by whom it was refused, the other by the card that it was shown then.
    counted(&counters, "nearfield_mesh_twins", 1).await;
    assert_eq!(a.members().borrow()[0].addr, first.address());
    assert!(lock(&second.shared.twins).count(Instant::now()) > 0);
    let begun = Instant::now();
    while lock(&first.shared.twins).count(Instant::now()) == 0 {
        assert!(begun.elapsed() < PATIENCE, "the first never heard of it");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(a.members().borrow()[0].addr, first.address());
}

#[tokio::test]
async fn two_nodes_with_one_id_that_meet_do_not_take_each_other_for_themselves() {
    let authority = authority();
    let (first, _first_in) = start(&authority, "x", &[]).await;
    let (second, _second_in) = start(&authority, "x", &[first.address()]).await;
    let begun = Instant::now();
    while [&first, &second].iter().any(|node| lock(&node.shared.twins).count(Instant::now()) == 0) {
        assert!(begun.elapsed() < PATIENCE, "they never noticed");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(lock(&second.shared.own_addresses).is_empty());
}

#[tokio::test]
async fn a_node_that_advertises_the_address_of_its_seed_is_not_let_in_and_knows_why() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let mistaken = Settings { advertise: a.address(), ..settings(&authority, "b", &[a.address()]) };
    let (b, _b_in) = Node::start(mistaken).await.unwrap();
    counted(&counters, "nearfield_mesh_peers_refused_total{reason=\"address_taken\"}", 1).await;
    dialled(&b, "advertises as its own (mesh.advertise), is `a`").await;
    assert!(a.members().borrow().is_empty());
}

#[tokio::test]
async fn a_dial_that_nobody_answers_is_counted_and_told() {
    let (counters, _guard) = counters();
    let authority = authority();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (a, _a_in) = start(&authority, "a", &[silent.local_addr().unwrap()]).await;
    counted(&counters, "nearfield_mesh_handshakes_failed_total{side=\"dialler\",reason=\"deadline\"}", 1).await;
    dialled(&a, "packets of 1200 bytes").await;
}

#[tokio::test]
async fn a_seed_of_a_family_that_the_socket_does_not_speak_is_told_so() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &["[::1]:9".parse().unwrap()]).await;
    counted(&counters, "nearfield_mesh_handshakes_failed_total{side=\"dialler\",reason=\"family\"}", 1).await;
    dialled(&a, "[::1]:9 cannot be reached from 127.0.0.1").await;
}

#[tokio::test]
async fn whichever_of_a_node_s_tasks_breaks_it_is_in_the_mesh_again() {
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    sees(&a, &["b"]).await;
    for name in a.tasks().kept() {
        a.tasks().break_now(name);
    }
    let running = ["gossip", "locate"];
    timeout(PATIENCE, async {
        while !running.iter().all(|name| a.tasks().breaks(name) == 1) || !a.tasks().ailing().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // By what it says itself since, and hears.
    let (c, _c_in) = start(&authority, "c", &[a.address()]).await;
    sees(&c, &["a", "b"]).await;
    sees(&a, &["b", "c"]).await;
    sees(&b, &["a", "c"]).await;
    a.publish(|report| report.meetings = 7);
    let mut members = b.members();
    let told = |members: &Arc<Vec<Member>>| {
        let reports = members.iter().filter_map(|m| m.report.as_ref());
        reports.into_iter().any(|report| report.node.as_str() == "a" && report.meetings == 7)
    };
    timeout(PATIENCE, members.wait_for(told)).await.unwrap().unwrap();
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_node_whose_endpoint_has_ended_ends_the_program() {
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    a.shared.transport.shutdown(Duration::ZERO).await;
    let why = timeout(PATIENCE, a.tasks().failed()).await.unwrap();
    assert_eq!(why, "the task `accept` broke: the QUIC endpoint has ended");
    assert_eq!(a.tasks().ailing(), ["accept"]);
    let (b, _b_in) = start(&authority, "b", &[]).await;
    b.shutdown().await;
    assert!(timeout(Duration::from_millis(50), b.tasks().failed()).await.is_err(), "in good order");
}
