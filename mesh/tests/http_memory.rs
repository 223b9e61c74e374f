//! What a connection costs that asks for nothing: `cargo test -p mesh --test http_memory -- --nocapture` prints it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use axum::{Router, routing::get};
use mesh::http::{Limits, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CONNECTIONS: usize = 400;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn an_idle_connection_costs_a_few_kilobytes_whatever_its_routes_hold() {
    // As an API's document is: a megabyte within a route.
    let document = vec![b'x'; 1 << 20];
    let app = Router::new().route("/", get(async || "ok")).route("/document", get(move || async move { document }));
    let limits = Limits { connections: 2 * CONNECTIONS, per_address: 2 * CONNECTIONS };
    let addr = serve("127.0.0.1:0".parse().unwrap(), app, limits, &Default::default()).await.unwrap();
    let mut first = TcpStream::connect(addr).await.unwrap();
    ask(&mut first).await;
    let before = resident();
    let mut connections = vec![];
    for _ in 0..CONNECTIONS {
        connections.push(TcpStream::connect(addr).await.unwrap());
    }
    // Answered after all of them were accepted.
    ask(&mut first).await;
    let silent = (resident() - before) / CONNECTIONS;
    for connection in &mut connections {
        ask(connection).await;
    }
    let idle = (resident() - before) / CONNECTIONS;
    println!("bytes for each of {CONNECTIONS} connections, both ends: {silent} silent, {idle} idle after a request");
    // Half of it is this test's own end, and a build without optimisation has large futures; the document has 1024 KiB.
    assert!(silent < 32 * 1024, "{silent} bytes for a silent connection");
    assert!(idle < 48 * 1024, "{idle} bytes for an idle connection");
}

async fn ask(connection: &mut TcpStream) {
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut text = vec![];
    while !text.ends_with(b"\r\n\r\nok") {
        text.push(connection.read_u8().await.unwrap());
    }
}
