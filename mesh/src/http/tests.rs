#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use axum::{Extension, body::Body, routing::get};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// Bytes that a client's machine takes before its program reads them.
const WINDOW: usize = 256;

fn router() -> Router {
    // Words without end, until the client is seen not to read them.
    let endless = async |Extension(client): Extension<Client>| {
        Body::from_stream(stream::unfold(Some(client), async |client| {
            let client = client?;
            let ended = client.stalled.is_cancelled();
            let text = if ended { "the last word".to_owned() } else { "word ".repeat(20) };
            Some((Ok::<_, std::convert::Infallible>(text), (!ended).then_some(client)))
        }))
    };
    let silent = async || Body::from_stream(stream::pending::<Result<String, std::convert::Infallible>>());
    Router::new()
        .route("/", get(async || "hello").post(async |text: String| text))
        .route("/endless", get(endless))
        .route("/silent", get(silent))
}

/// A door, and clients in memory; time is virtual.
struct World {
    door: Door,
}

impl World {
    fn new() -> Self {
        Self { door: Door::new(router(), Limits { connections: 4, per_address: 3 }) }
    }

    fn connect(&mut self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(WINDOW);
        let place = self.door.admit("192.0.2.1:1000".parse().unwrap()).unwrap();
        tokio::spawn(place.keep(near, self.door.router.clone()));
        far
    }

    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::sleep(SWEEP).await;
            self.door.sweep(Instant::now());
        }
    }
}

async fn ask(client: &mut DuplexStream, request: &str) {
    client.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until `end` was read.
async fn read_to(client: &mut DuplexStream, end: &str) -> String {
    let mut text = vec![];
    while !text.ends_with(end.as_bytes()) {
        text.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// Whether the connection is there; nothing may be on its way.
async fn open(client: &mut DuplexStream) -> bool {
    let waited = tokio::time::timeout(Duration::from_millis(1), client.read(&mut [0; 16])).await;
    !matches!(waited, Ok(Ok(0) | Err(_)))
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_whole_head_is_closed_however_slowly_it_comes() {
    let mut world = World::new();
    let (mut silent, mut slow) = (world.connect(), world.connect());
    ask(&mut slow, "GET / HTTP/1.1\r\n").await;
    for n in 0..9 {
        world.pass(1).await;
        ask(&mut slow, &format!("x-{n}: y\r\n")).await;
    }
    assert!(open(&mut silent).await && open(&mut slow).await);
    world.pass(1).await;
    assert!(!open(&mut silent).await && !open(&mut slow).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_a_minute_after_each_answer() {
    let mut world = World::new();
    let mut client = world.connect();
    for _ in 0..3 {
        ask(&mut client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_to(&mut client, "hello").await;
        world.pass(59).await;
        assert!(open(&mut client).await);
    }
    world.pass(1).await;
    assert!(!open(&mut client).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for_and_one_that_comes_is_read() {
    let mut world = World::new();
    let (mut late, mut lost) = (world.connect(), world.connect());
    for client in [&mut late, &mut lost] {
        ask(client, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234").await;
    }
    world.pass(14).await;
    ask(&mut late, "56789").await;
    read_to(&mut late, "0123456789").await;
    world.pass(1).await;
    assert!(open(&mut late).await && !open(&mut lost).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_has_no_deadline() {
    let mut world = World::new();
    let mut client = world.connect();
    ask(&mut client, "GET /silent HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_to(&mut client, "\r\n\r\n").await;
    world.pass(600).await;
    assert!(open(&mut client).await);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_has_a_last_word_to_read_and_is_closed() {
    let mut world = World::new();
    let (mut slow, mut gone) = (world.connect(), world.connect());
    for client in [&mut slow, &mut gone] {
        ask(client, "GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
    }
    world.pass(32).await;
    let text = read_to(&mut slow, "\r\n0\r\n\r\n").await;
    assert!(text.contains("the last word"), "{text}");
    world.pass(5).await;
    let mut rest = vec![];
    gone.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("the last word"));
    assert!(open(&mut slow).await, "it may ask for something else");
}

#[tokio::test(start_paused = true)]
async fn a_full_house_closes_the_one_that_waited_longest_and_serves_the_newcomer() {
    let mut world = World::new();
    let mut idle = vec![];
    for _ in 0..3 {
        idle.push(world.connect());
        world.pass(1).await;
    }
    let mut newcomer = world.connect();
    ask(&mut newcomer, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_to(&mut newcomer, "hello").await;
    assert!(!open(&mut idle[0]).await && open(&mut idle[1]).await && open(&mut idle[2]).await);
    assert_eq!(lock(&world.door.table).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn short_of_file_descriptors_one_connection_makes_room() {
    let mut world = World::new();
    let mut idle = world.connect();
    world.door.handle_short(&io::Error::from_raw_os_error(nix::libc::EMFILE));
    assert!(!open(&mut idle).await);
}

#[tokio::test]
async fn a_real_listener_full_of_silent_connections_still_answers() {
    let limits = Limits { connections: 8, per_address: 8 };
    let addr = serve("127.0.0.1:0".parse().unwrap(), router(), limits, &Default::default()).await.unwrap();
    let mut silent = vec![];
    for _ in 0..8 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("hello"), "{text}");
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap(), 0, "the oldest made room");
}
