//! `--check`: what a program would open is tried, and nothing stays open.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{Checks, sections::Common};

/// The longest name of a file that Linux' file systems take, in bytes.
const LONGEST_NAME: usize = 255;

impl Checks<'_> {
    /// What every program opens: its addresses, its list of peers.
    pub fn try_common(&mut self, common: &Common<'_>) {
        self.try_udp("mesh.listen", common.mesh.listen);
        self.try_tcp("http.listen", common.http.listen);
        if let Some(path) = &common.mesh.seeds_file {
            self.try_file("mesh.seeds_file", path);
        }
    }

    /// UDP can be listened for at `addr`. That somebody does already, as the same program may, is no error.
    pub fn try_udp(&mut self, key: &str, addr: SocketAddr) {
        self.usable(key, "UDP", UdpSocket::bind(addr).map(drop));
    }

    /// The same for TCP.
    pub fn try_tcp(&mut self, key: &str, addr: SocketAddr) {
        self.usable(key, "TCP", TcpListener::bind(addr).map(drop));
    }

    fn usable(&mut self, key: &str, protocol: &str, bound: io::Result<()>) {
        match bound {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                self.refuse(key, format!("cannot be listened on ({protocol}): {error}"));
            }
            _ => {}
        }
    }

    /// The file at `path` is there and can be read.
    pub fn try_file(&mut self, key: &str, path: &Path) {
        match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(data) => self.ensure(key, data.is_file(), "a file"),
            Err(error) => self.refuse(key, format!("cannot be read: {error}")),
        }
    }

    /// `path` is a folder that can be written to, or can be made one. Nothing is written.
    pub fn try_folder(&mut self, key: &str, path: &Path) {
        if let Err(reason) = fit_for_writing(path) {
            self.refuse(key, reason);
        }
    }
}

fn fit_for_writing(path: &Path) -> Result<(), String> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    if whole.components().any(|part| part.as_os_str().len() > LONGEST_NAME) {
        return Err(format!("a part of it is longer than {LONGEST_NAME} bytes"));
    }
    let there = whole.ancestors().find(|folder| folder.exists()).ok_or("no folder above it is there")?;
    if !there.is_dir() {
        return Err(format!("{} is no folder", there.display()));
    }
    let refused = |error| format!("{} cannot be written to: {error}", there.display());
    access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(refused)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Reach, Source};

    /// What a check says; nothing if all is well.
    fn said(check: impl FnOnce(&mut Checks<'_>)) -> String {
        let source = Source::default();
        let mut checks = Checks::new(&source, Reach::Machine);
        check(&mut checks);
        checks.finish().err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_address_of_another_machine_is_refused_and_one_in_use_is_not() {
        let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let text = said(|checks| checks.try_tcp("http.listen", elsewhere));
        assert!(text.contains("http.listen") && text.contains("TCP"), "{text}");
        assert!(said(|checks| checks.try_udp("mesh.listen", elsewhere)).contains("UDP"));
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(said(|checks| checks.try_tcp("http.listen", held.local_addr().unwrap())), "");
        let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(said(|checks| checks.try_udp("mesh.listen", addr)), "");
        UdpSocket::bind(addr).expect("nothing was left open");
    }

    #[test]
    fn a_folder_that_can_be_made_is_fine_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let to_come = dir.path().join("a/b");
        let folder = |path: &Path| said(|checks| checks.try_folder("uplink.spill_dir", path));
        let readable = |path: &Path| said(|checks| checks.try_file("geo.regions_file", path));
        assert_eq!(folder(&to_come), "");
        assert!(!to_come.exists());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(readable(&file), "");
        assert!(folder(&file.join("x")).contains("is no folder"));
        assert!(readable(dir.path()).contains("must be a file"));
        assert!(readable(&to_come).contains("cannot be read"));
    }
}
