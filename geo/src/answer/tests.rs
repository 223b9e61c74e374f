use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn node(name: &str, role: &str, region: &str, ip: [u8; 4]) -> LiveNode {
    let region = region.parse().expect("a region id");
    LiveNode { name: name.into(), role: role.into(), region, addr: (ip, 4433).into(), api: None, draining: false }
}

/// Two edges and a core in each of three regions.
fn directory() -> Directory {
    let mut nodes = Vec::new();
    for (net, region) in [(1, "eu-central"), (2, "ap-northeast"), (3, "us-east")] {
        nodes.push(node(&format!("edge-a-{net}"), "edge", region, [10, net, 0, 1]));
        nodes.push(node(&format!("edge-b-{net}"), "edge", region, [10, net, 0, 2]));
        nodes.push(node(&format!("core-{net}"), "core", region, [10, net, 0, 3]));
    }
    Directory { nodes, ..Directory::default() }
}

fn zone() -> Zone {
    let networks = ["10.1.0.0/16=eu-central", "10.2.0.0/16=ap-northeast"];
    Zone::new(Settings {
        domain: "mesh.example".into(),
        client_networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ..Settings::default()
    })
    .unwrap()
}

fn ask(zone: &Zone, directory: &Directory, name: &str, kind: RecordType, client: IpAddr) -> Answer {
    let name = Name::from_ascii(name).unwrap();
    zone.answer(&Question { name: &name, class: DNSClass::IN, kind, client, turn: 0 }, directory)
}

fn addresses(answer: &Answer) -> Vec<String> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

/// Asks for the IPv4 addresses of a name from this machine, which is in no listed network.
fn a(directory: &Directory, name: &str) -> Answer {
    ask(&zone(), directory, name, RecordType::A, LOCAL)
}

#[test]
fn a_caller_gets_the_edges_of_its_own_region_and_one_of_the_next() {
    let from =
        |client: [u8; 4]| addresses(&ask(&zone(), &directory(), "edge.mesh.example.", RecordType::A, client.into()));
    assert_eq!(from([10, 1, 9, 9]), ["10.1.0.1", "10.1.0.2", "10.3.0.1", "10.3.0.2"], "from Europe, the US is next");
    assert_eq!(from([10, 2, 9, 9])[..3], ["10.2.0.1", "10.2.0.2", "10.3.0.1"], "from Japan too");
    assert_eq!(from([192, 0, 2, 1])[..2], ["10.3.0.1", "10.3.0.2"], "from nowhere listed, the default region's");
}

#[test]
fn edges_behind_one_address_are_one_record() {
    let nodes =
        (0..3).map(|n| LiveNode { addr: ([10, 1, 0, 1], 4433 + n).into(), ..node("e", "edge", "eu-central", [0; 4]) });
    assert_eq!(
        addresses(&a(&Directory { nodes: nodes.collect(), cut_off: false }, "edge.mesh.example.")),
        ["10.1.0.1"]
    );
}

#[test]
fn a_regions_own_name_gives_its_edges_whoever_asks() {
    let found = addresses(&a(&directory(), "AP-northeast.edge.mesh.example."));
    assert_eq!(found[..2], ["10.2.0.1", "10.2.0.2"]);
}

#[test]
fn no_answer_hangs_on_one_region_while_there_are_two() {
    let mut directory = directory();
    for host in 10..30 {
        directory.nodes.push(node(&format!("edge-c-{host}"), "edge", "us-east", [10, 3, 0, host]));
    }
    let found = addresses(&a(&directory, "edge.mesh.example."));
    assert_eq!(found.len(), 4);
    assert!(found[3].starts_with("10.1."), "the nearest other region: {found:?}");
    directory.nodes.retain(|node| node.region.as_str() == "us-east");
    assert_eq!(addresses(&a(&directory, "edge.mesh.example.")).len(), 4, "one region alone fills the answer");
}

#[test]
fn callers_of_a_region_share_its_edges() {
    let (zone, directory, name) = (zone(), directory(), Name::from_ascii("us-east.edge.mesh.example.").unwrap());
    let first = |turn| {
        let question = Question { name: &name, class: DNSClass::IN, kind: RecordType::A, client: LOCAL, turn };
        addresses(&zone.answer(&question, &directory))[0].clone()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.3.0.1", "10.3.0.2", "10.3.0.1"]);
}

#[test]
fn draining_and_dead_nodes_are_not_named_but_a_draining_one_still_resolves() {
    let mut directory = directory();
    directory.nodes.retain(|node| node.name != "edge-a-3");
    let drained = directory.nodes.iter_mut().find(|node| node.name == "edge-b-3").unwrap();
    drained.draining = true;
    let found = addresses(&a(&directory, "us-east.edge.mesh.example."));
    assert!(!found.iter().any(|ip| ip.starts_with("10.3.")), "{found:?}");
    let seeds = ask(&zone(), &directory, "_nearfield._udp.mesh.example.", RecordType::SRV, LOCAL);
    assert_eq!(seeds.answers.len(), 7, "nine, less one dead and one draining");
    assert_eq!(addresses(&a(&directory, "edge-b-3.us-east.node.mesh.example.")), ["10.3.0.2"]);
    assert_eq!(a(&directory, "edge-a-3.us-east.node.mesh.example.").code, ResponseCode::NXDomain);
}

#[test]
fn seeds_name_every_role_from_each_region_in_turn_and_no_more_than_the_cap() {
    let mut directory = directory();
    let targets = |directory: &Directory| -> Vec<(String, u16)> {
        let answer = ask(&zone(), directory, "_nearfield._udp.mesh.example.", RecordType::SRV, LOCAL);
        let srv = |record: &Record| match &record.data {
            RData::SRV(srv) => (srv.target.to_string(), srv.port),
            other => panic!("{other:?} is no SRV"),
        };
        answer.answers.iter().map(srv).collect()
    };
    let found = targets(&directory);
    assert_eq!(found.len(), 9);
    let regions: Vec<&str> = found[..3].iter().map(|(name, _)| name.split('.').nth(1).unwrap()).collect();
    assert_eq!(regions, ["us-east", "eu-central", "ap-northeast"]);
    assert_eq!(found[0], ("core-3.us-east.node.mesh.example.".into(), 4433));
    for host in 0..100 {
        directory.nodes.push(node(&format!("core-x-{host}"), "core", "us-east", [10, 3, 1, host]));
    }
    let found = targets(&directory);
    assert_eq!(found.len(), MAX_SEEDS);
    assert_eq!(found.iter().filter(|(name, _)| name.contains("eu-central")).count(), 3, "small regions stay named");
}

#[test]
fn a_few_seeds_bring_their_addresses_along() {
    let mut directory = directory();
    directory.nodes.truncate(3);
    let answer = ask(&zone(), &directory, "_nearfield._udp.mesh.example.", RecordType::SRV, LOCAL);
    assert_eq!(answer.additionals.len(), 3);
}

#[test]
fn ipv6_edges_answer_aaaa() {
    let mut directory = directory();
    directory.nodes[0].addr = "[2001:db8::1]:4433".parse().unwrap();
    let answer = ask(&zone(), &directory, "eu-central.edge.mesh.example.", RecordType::AAAA, LOCAL);
    assert_eq!(addresses(&answer), ["2001:db8::1"]);
    assert_eq!(addresses(&a(&directory, "eu-central.edge.mesh.example."))[0], "10.1.0.2");
}

#[test]
fn an_existing_name_without_such_records_is_nodata_and_a_missing_one_nxdomain() {
    let directory = directory();
    let nodata = [
        ("edge.mesh.example.", RecordType::AAAA),
        ("edge.mesh.example.", RecordType::TXT),
        ("mesh.example.", RecordType::A),
        ("_udp.mesh.example.", RecordType::SRV),
        ("node.mesh.example.", RecordType::A),
        ("us-east.node.mesh.example.", RecordType::A),
        ("uk-south.edge.mesh.example.", RecordType::AAAA),
        ("_nearfield._udp.mesh.example.", RecordType::A),
    ];
    let nxdomain =
        ["nobody.mesh.example.", "atlantis.edge.mesh.example.", "uk-south.node.mesh.example.", "a.b.c.mesh.example."];
    for (name, kind) in nodata {
        let answer = ask(&zone(), &directory, name, kind, LOCAL);
        assert_eq!((answer.code, answer.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(answer.authorities[0].ttl, 5);
    }
    for name in nxdomain {
        let answer = a(&directory, name);
        assert_eq!((answer.code, answer.authorities.len()), (ResponseCode::NXDomain, 1), "{name}");
    }
    assert_eq!(a(&Directory::default(), "edge.mesh.example.").code, ResponseCode::NoError, "nobody alive is NODATA");
}

#[test]
fn the_apex_has_soa_and_ns_with_addresses() {
    let ns = ask(&zone(), &directory(), "mesh.example.", RecordType::NS, LOCAL);
    assert_eq!(ns.answers[0].data.to_string(), "ns.mesh.example.");
    assert_eq!(ns.additionals[0].data.ip_addr(), Some(LOCAL));
    let soa = ask(&zone(), &directory(), "mesh.example.", RecordType::SOA, LOCAL);
    assert_eq!(soa.answers.len(), 1);
    assert_eq!(addresses(&a(&directory(), "ns.mesh.example.")), ["127.0.0.1"]);
}

#[test]
fn transfers_other_zones_and_other_classes_are_refused() {
    let refused = |name, kind| ask(&zone(), &directory(), name, kind, LOCAL).code == ResponseCode::Refused;
    assert!(refused("mesh.example.", RecordType::AXFR));
    assert!(refused("mesh.example.", RecordType::IXFR));
    assert!(refused("www.example.", RecordType::A));
    let name = Name::from_ascii("edge.mesh.example.").unwrap();
    let chaos = Question { name: &name, class: DNSClass::CH, kind: RecordType::A, client: LOCAL, turn: 0 };
    assert_eq!(zone().answer(&chaos, &directory()).code, ResponseCode::Refused);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    use std::time::Duration;
    let refuse = |settings: Settings| Zone::new(settings).unwrap_err().to_string();
    let base = Settings::default;
    assert!(refuse(Settings { edges_ttl: Duration::ZERO, ..base() }).contains("edges_ttl"));
    assert!(refuse(Settings { seeds_ttl: Duration::from_secs(7200), ..base() }).contains("seeds_ttl"));
    assert!(refuse(Settings { edges_per_answer: 1, ..base() }).contains("2 to 16"));
    assert!(refuse(Settings { domain: "a..b".into(), ..base() }).contains("domain `a..b`"));
    assert!(refuse(Settings { domain: ".".into(), ..base() }).contains("empty"));
    assert!(refuse(Settings { domain: "d.".repeat(100), ..base() }).contains("200 bytes"));
    assert!(refuse(Settings { default_region: "atlantis".parse().unwrap(), ..base() }).contains("atlantis"));
    assert!(refuse(Settings { name_servers: Vec::new(), ..base() }).contains("0 name servers"));
    for label in ["", "edge", "NS", "a.b"] {
        let server = NameServer { label: label.into(), ip: LOCAL };
        assert!(refuse(Settings { name_servers: vec![server], ..base() }).contains("name server"), "{label}");
    }
    assert!("ns1".parse::<NameServer>().is_err());
}

fn any_node() -> impl Strategy<Value = LiveNode> {
    let region = prop::sample::select(vec!["eu-central", "us-east", "atlantis"]);
    let role = prop::sample::select(vec!["edge", "core", "dns"]);
    (".{0,80}", role, region, any::<[u8; 4]>(), any::<bool>())
        .prop_map(|(name, role, region, ip, draining)| LiveNode { draining, ..node(&name, role, region, ip) })
}

#[test]
fn one_that_is_cut_off_denies_nothing_and_still_tells_whom_to_join() {
    let nodes = vec![node("dns-1", "dns", "eu-central", [10, 1, 0, 9])];
    let code =
        |cut_off, name: &str, kind| ask(&zone(), &Directory { nodes: nodes.clone(), cut_off }, name, kind, LOCAL).code;
    let of_others = ["edge", "us-east.edge", "edge-a-1.eu-central.node", "us-east.node"];
    for name in of_others.map(|name| format!("{name}.mesh.example.")) {
        for kind in [RecordType::A, RecordType::AAAA] {
            assert_eq!(code(true, &name, kind), ResponseCode::ServFail, "{name}");
            assert_ne!(code(false, &name, kind), ResponseCode::ServFail, "{name}");
        }
    }
    let own = [
        ("mesh.example.", RecordType::SOA),
        ("mesh.example.", RecordType::NS),
        ("_nearfield._udp.mesh.example.", RecordType::SRV),
        ("dns-1.eu-central.node.mesh.example.", RecordType::A),
        ("node.mesh.example.", RecordType::A),
    ];
    for (name, kind) in own {
        assert_eq!(code(true, name, kind), ResponseCode::NoError, "{name}");
    }
    assert_eq!(code(true, "nothing.of.ours.mesh.example.", RecordType::A), ResponseCode::NXDomain);
}

#[test]
fn one_that_is_cut_off_and_remembers_others_still_names_them() {
    let stale = Directory { cut_off: true, ..directory() };
    for name in ["edge", "eu-central.edge", "edge-a-1.eu-central.node", "_nearfield._udp"] {
        let (name, kind) = (format!("{name}.mesh.example."), RecordType::ANY);
        let known = ask(&zone(), &directory(), &name, kind, LOCAL);
        assert!(!known.answers.is_empty() && ask(&zone(), &stale, &name, kind, LOCAL) == known, "{name}");
    }
    let unknown = ask(&zone(), &stale, "edge-9.eu-central.node.mesh.example.", RecordType::A, LOCAL);
    assert_eq!((unknown.code, unknown.authorities), (ResponseCode::ServFail, vec![]));
}

proptest! {
    /// Whatever the directory holds and whatever is asked: no panic, bounded answers, two regions if there are.
    #[test]
    fn every_answer_is_bounded_and_spans_regions(
        nodes in prop::collection::vec(any_node(), 0..60),
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..5),
        kind in any::<u16>(),
        turn in any::<usize>(),
    ) {
        let (zone, directory) = (zone(), Directory { nodes, cut_off: false });
        let domain = Name::from_ascii("mesh.example.").unwrap();
        let odd = Name::from_labels(labels).unwrap().append_domain(&domain).unwrap();
        let question = Question { name: &odd, class: DNSClass::IN, kind: kind.into(), client: LOCAL, turn };
        prop_assert!(zone.answer(&question, &directory).answers.len() <= MAX_SEEDS);

        let name = Name::from_ascii("edge.mesh.example.").unwrap();
        let answer = zone.answer(&Question { name: &name, kind: RecordType::A, ..question }, &directory);
        let edges: Vec<_> = directory.open().filter(|node| node.role == "edge").collect();
        let regions: std::collections::BTreeSet<_> = edges.iter().map(|node| &node.region).collect();
        prop_assert_eq!(answer.answers.len(), edges.len().min(4));
        let named = addresses(&answer);
        let spanned = regions.iter().filter(|region| {
            edges.iter().any(|edge| edge.region == ***region && named.contains(&edge.addr.ip().to_string()))
        });
        prop_assert!(spanned.count() >= regions.len().min(2));
    }
}
