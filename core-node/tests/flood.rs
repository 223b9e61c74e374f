//! A core with few file descriptors, flooded over its API by strangers: it stays within its memory, and whoever behaves is served.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh::identity::{Identity, Role, certs::Authority};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Long enough for a busy machine; only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What the core may have in memory at most, in kilobytes.
const MEMORY: u64 = 256 << 10;
const DESCRIPTORS: u64 = 512;
const SILENT: usize = 2000;
const DEAF: usize = 256;

struct Core {
    process: Child,
    api: SocketAddr,
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Core {
    fn start(dir: &Path) -> Self {
        let authority = Authority::create("nearfield.internal", Duration::from_secs(3600)).unwrap();
        let (node, region) = ("core-1".parse().unwrap(), "eu-central".parse().unwrap());
        let (cert, key) =
            authority.issue(&Identity { node, role: Role::Core, region }, Duration::from_secs(3600)).unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name).display().to_string()
        };
        let sets = [
            "node.id=core-1".into(),
            "node.region=eu-central".into(),
            "mesh.listen=127.0.0.1:0".into(),
            "http.listen=127.0.0.1:0".into(),
            format!("tls.ca={}", file("ca.pem", authority.ca_pem())),
            format!("tls.cert={}", file("core.pem", &cert)),
            format!("tls.key={}", file("core.key", &key)),
            "tls.trust_domain=nearfield.internal".into(),
            format!("store.path={}", dir.join("core.redb").display()),
            "transcribe.engine=openai".into(),
        ];
        let limited = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_core-node")]);
        command.args(sets.iter().flat_map(|set| ["--set", set]));
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = vec![];
        let up = lines.by_ref().inspect(|line| seen.push(line.clone())).find(|line| line.contains("core up"));
        let api = up.and_then(|line| line.split("api=").nth(1)?.split_whitespace().next()?.parse().ok());
        let api = api.unwrap_or_else(|| panic!("the core is not up: {seen:#?}"));
        // Nobody reads on: that is no reason to wait.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, api }
    }

    /// A connection from an address of this machine's.
    async fn connect(&self, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 1, from), 0).into()).unwrap();
        timeout(TIMEOUT, socket.connect(self.api)).await.expect("a connection").unwrap()
    }

    /// What is answered to a request by somebody who behaves.
    async fn ask(&self, request: &str, body: &str) -> String {
        let mut stream = self.connect(250).await;
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        answer
    }

    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_flood_the_api_cost_those_who_behave_nothing() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(4096)), hard).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let core = Core::start(dir.path());
    let source = r#"{"source":{"kind":"whep","url":"https://relay.example/whep"}}"#;
    let made = core.ask("POST /v1/meetings", source).await;
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let id = made.split(r#""id":""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut reader = core.connect(251).await;
    let stream = format!("GET /v1/meetings/{id}/transcript/stream HTTP/1.1\r\nHost: x\r\n\r\n");
    reader.write_all(stream.as_bytes()).await.unwrap();
    let mut reader = tokio::io::BufReader::new(reader).lines();
    let head = timeout(TIMEOUT, reader.next_line()).await.expect("a head").unwrap();
    assert_eq!(head.as_deref(), Some("HTTP/1.1 200 OK"));

    let (mut silent, mut deaf) = (vec![], vec![]);
    let many = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64);
    for n in 0..SILENT {
        silent.push(core.connect(1 + (n % 7) as u8).await);
        if n % (SILENT / DEAF) == 0 {
            let mut one = core.connect(20 + (n % 3) as u8).await;
            // It may be sent away before it has asked for all of that.
            let _ = one.write_all(many.as_bytes()).await;
            deaf.push(one);
        }
        if n % 500 == 499 {
            assert!(core.ask("GET /healthz", "").await.starts_with("HTTP/1.1 200"));
        }
    }
    assert!(core.ask("GET /readyz", "").await.starts_with("HTTP/1.1 200"));
    assert!(core.ask("GET /v1/meetings", "").await.contains(&id));
    let ended = core.ask(&format!("DELETE /v1/meetings/{id}"), "").await;
    assert!(ended.starts_with("HTTP/1.1 2"), "{ended}");
    loop {
        let line = timeout(TIMEOUT, reader.next_line()).await.expect("a line").unwrap();
        if line.expect("the stream goes on to its end") == "event: done" {
            break;
        }
    }
    drop((silent, deaf));
    let peak = core.peak_memory();
    println!("{SILENT} silent, {DEAF} deaf, {DESCRIPTORS} descriptors: {peak} kB at most");
    assert!(peak < MEMORY, "{peak} kB");
}
