//! The emulated Internet over real namespaces and TUN devices. Needs root or a user namespace with
//! an open `/dev/net/tun`; fails, saying so, where neither is allowed.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use bench::world::{
    Host, Place, World, WorldError,
    path::{Bottleneck, Quality},
    respawn_unless_root,
};
use geo::RegionId;
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

const SEED: u64 = 2026;

struct Pair {
    world: World,
    near: Host,
    far: Host,
}

fn pair(quality: Quality) -> Pair {
    respawn_unless_root().unwrap_or_else(|error| panic!("{error}"));
    let world = World::enter(SEED).unwrap_or_else(|error| panic!("{error}"));
    let (eu, jp): (RegionId, RegionId) = ("eu-central".parse().unwrap(), "ap-northeast".parse().unwrap());
    world.set_paths(&eu, &jp, quality);
    let near = world.host("near", &eu, Ipv4Addr::new(10, 77, 0, 1)).unwrap();
    let far = world.host("far", &jp, Ipv4Addr::new(10, 77, 1, 1)).unwrap();
    Pair { world, near, far }
}

/// Answers every datagram until the returned task is aborted.
async fn echo(host: &Host) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let at = SocketAddr::new(host.ip(), 7);
    let (ready, bound) = tokio::sync::oneshot::channel();
    let host = host.clone();
    let serve = move || async move {
        let socket = UdpSocket::bind(at).await.unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    };
    let task = tokio::spawn(async move { host.run(serve).await.unwrap() });
    bound.await.unwrap();
    (at, task)
}

/// Sends `count` numbered datagrams, one `every`, and gives the round trip of each that came back.
async fn ping(host: &Host, to: SocketAddr, count: u32, every: Duration) -> Vec<Duration> {
    let work = move || async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(to).await.unwrap();
        let start = Instant::now();
        let mut tick = tokio::time::interval(every);
        let (mut sent, mut trips, mut buffer) = (0, Vec::new(), [0; 64]);
        while sent < count {
            tokio::select! {
                _ = tick.tick() => {
                    socket.send(&start.elapsed().as_nanos().to_le_bytes()).await.unwrap();
                    sent += 1;
                }
                length = socket.recv(&mut buffer) => trips.push(trip(start, &buffer[..length.unwrap()])),
            }
        }
        while let Ok(Ok(length)) = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await {
            trips.push(trip(start, &buffer[..length]));
        }
        trips
    };
    host.run(work).await.unwrap()
}

fn trip(start: Instant, packet: &[u8]) -> Duration {
    let sent = u128::from_le_bytes(packet.try_into().unwrap());
    start.elapsed() - Duration::from_nanos(sent as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_takes_what_the_paths_say() {
    let Pair { world, near, far } = pair(Quality::round_trip(Duration::from_millis(50)));
    let (at, _echo) = echo(&far).await;
    let trips = ping(&near, at, 200, Duration::from_millis(5)).await;
    assert_eq!(trips.len(), 200, "{:?}", world.report());
    let mut late = Histogram::<u64>::new(3).unwrap();
    for trip in trips {
        late.record(trip.checked_sub(Duration::from_millis(50)).expect("faster than the path").as_micros() as u64)
            .unwrap();
    }
    let (p50, p99) = (late.value_at_quantile(0.5), late.value_at_quantile(0.99));
    eprintln!("later than 50 ms: p50 {p50} us, p99 {p99} us");
    assert!(p50 < 3000, "half of the packets came {p50} us late");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_crosses_the_world_through_a_bottleneck() {
    let bottleneck = Some(Bottleneck { rate: 20_000_000, queue: 64 * 1024 });
    let Pair { world: _world, near, far } =
        pair(Quality { bottleneck, ..Quality::round_trip(Duration::from_millis(20)) });
    let at = SocketAddr::new(far.ip(), 80);
    let (ready, bound) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let serve = move || async move {
            let listener = TcpListener::bind(at).await.unwrap();
            ready.send(()).unwrap();
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(&vec![7; 500_000]).await.unwrap();
            peer
        };
        far.run(serve).await.unwrap()
    });
    bound.await.unwrap();
    let fetch = move || async move {
        let mut body = Vec::new();
        TcpStream::connect(at).await.unwrap().read_to_end(&mut body).await.unwrap();
        body.len()
    };
    let start = Instant::now();
    assert_eq!(near.run(fetch).await.unwrap(), 500_000);
    assert!(start.elapsed() > Duration::from_millis(200), "4 Mbit over 20 Mbit/s in {:?}", start.elapsed());
    assert_eq!(server.await.unwrap().ip(), near.ip());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_stops_everything_until_it_is_healed() {
    let Pair { world, near, far } = pair(Quality::default());
    let (at, _echo) = echo(&far).await;
    let count = |trips: Vec<Duration>| trips.len();
    world.partition(Place::host("near"), Place::Anywhere);
    assert_eq!(count(ping(&near, at, 20, Duration::from_millis(1)).await), 0);
    world.heal(Place::host("near"), Place::Anywhere);
    assert_eq!(count(ping(&near, at, 20, Duration::from_millis(1)).await), 20);
    assert_eq!(world.report().0.iter().map(|path| path.counters.cut).sum::<u64>(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_takes_its_share_of_real_packets() {
    let Pair { world: _world, near, far } = pair(Quality { loss: 0.1, ..Quality::default() });
    let (at, _echo) = echo(&far).await;
    let back = ping(&near, at, 2000, Duration::from_micros(500)).await.len();
    // Two directions: 0.9 * 0.9 of 2000 is 1620, its standard deviation 18.
    assert!((1530..1710).contains(&back), "{back} of 2000 came back with seed {SEED}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hosts_process_sees_only_its_host_and_ends_with_the_world() {
    let Pair { world, near, .. } = pair(Quality::default());
    let links = near.command("cat").arg("/proc/net/dev").output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    let names: Vec<&str> = links.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert!(names.contains(&"net0") && names.contains(&"lo") && !names.contains(&"eth0"), "{names:?}");

    // A child that leaves its process group and outlives its parent is found all the same.
    let script = "setsid sleep 600 & echo started; wait";
    let mut shell = near.command("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while world.processes().len() < 2 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = world.processes();
    assert!(before.len() >= 2 && before.contains(&shell.id()), "{before:?}");
    drop(world);
    assert!(!shell.wait().unwrap().success());
    let gone = |pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| !all.is_empty());
    let until = Instant::now() + Duration::from_secs(5);
    while before.iter().any(gone) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(before.iter().filter(|pid| gone(pid)).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_addresses_are_used_once() {
    let Pair { world, near, .. } = pair(Quality::default());
    let site = near.site().clone();
    let host = |name: &str, ip| world.host(name, &site, ip).map(drop);
    assert!(matches!(host("near", Ipv4Addr::new(10, 77, 0, 9)), Err(WorldError::Duplicate { .. })));
    assert!(matches!(host("other", Ipv4Addr::new(10, 77, 0, 1)), Err(WorldError::Duplicate { .. })));
    assert!(matches!(host("other", Ipv4Addr::new(10, 99, 0, 1)), Err(WorldError::Address(_))));
}

#[tokio::test]
async fn a_world_without_distances_runs_programs_on_the_loopback_device() {
    let world = World::loopback();
    let host = world.host("near", &"eu".parse().unwrap(), Ipv4Addr::new(10, 77, 0, 1)).unwrap();
    assert!(!world.has_distances() && host.ip().is_loopback());
    assert!(host.command("true").status().unwrap().success());
    let at = host.run(|| async { UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() }).await.unwrap();
    assert_eq!(at.ip(), host.ip());
    assert!(world.report().0.is_empty());
}
