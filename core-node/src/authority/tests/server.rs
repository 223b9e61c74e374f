//! A real nats-server with JetStream, in a folder and at a port of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::super::nats::{Nats, Settings};

pub(crate) struct NatsServer {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        let mut this = Self { dir: tempfile::tempdir().unwrap(), port: 0, child: None };
        this.resume();
        this
    }

    /// Starts it again with what it had, at the same port.
    pub(crate) fn resume(&mut self) {
        // -1: any that is free.
        let port = if self.port == 0 { "-1".into() } else { self.port.to_string() };
        let mut command = Command::new(program());
        command.args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"]).arg(self.dir.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        self.child = Some(child);
        let mut said = vec![];
        for line in lines.by_ref() {
            if let Some((_, at)) = line.split_once("client connections on 127.0.0.1:") {
                self.port = at.trim().parse().unwrap();
            }
            if line.contains("Server is ready") {
                // Its pipe must not fill.
                std::thread::spawn(move || lines.for_each(drop));
                return;
            }
            said.push(line);
        }
        panic!("nats-server ended at once: {}", said.join("\n"));
    }

    /// Kills it; what it had stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client of its own.
    pub(crate) async fn authority(&self, attempt: Duration) -> Nats {
        let servers = vec![self.url().parse().unwrap()];
        let bucket = "nearfield_leases".to_owned();
        Nats::connect(Settings { servers, bucket, replicas: 1, credentials: None, ca: None, attempt }).await.unwrap()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> &'static str {
    let there = |path: &str| Command::new(path).arg("--version").output().is_ok_and(|o| o.status.success());
    // Where Debian puts it is not on everybody's path.
    let found = ["nats-server", "/usr/sbin/nats-server"].into_iter().find(|path| there(path));
    assert!(!Path::new("/usr/sbin/nats-server").exists() || found.is_some(), "nats-server is there and does not run");
    found.expect("nats-server is not installed: `./dev test` installs it (Debian's package nats-server)")
}
