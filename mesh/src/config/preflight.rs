//! `--check`: what a program would open is tried, and nothing stays open.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{
    ConfigError, Source,
    sections::{HttpSection, LogSection, MeshSection},
};
use crate::telemetry;

/// The longest name of a file that Linux' file systems take, in bytes.
const LONGEST_NAME: usize = 255;

impl Source {
    /// Checks what every program opens: its log filter, its addresses, its list of peers.
    ///
    /// # Errors
    /// The first that cannot be opened, by its key.
    pub fn try_common(&self, log: &LogSection, mesh: &MeshSection, http: &HttpSection) -> Result<(), ConfigError> {
        telemetry::check_filter(&log.filter).map_err(|e| self.refuse("log.filter", e))?;
        self.try_udp("mesh.listen", mesh.listen)?;
        self.try_tcp("http.listen", http.listen)?;
        mesh.seeds_file.as_ref().map_or(Ok(()), |path| self.try_file("mesh.seeds_file", path))
    }

    /// Checks that UDP can be listened for at `addr`; that somebody does already, as the same program may, is no error.
    ///
    /// # Errors
    /// The address is not this machine's, or not allowed.
    pub fn try_udp(&self, key: &str, addr: SocketAddr) -> Result<(), ConfigError> {
        self.usable(key, "UDP", UdpSocket::bind(addr).map(drop))
    }

    /// The same for TCP.
    ///
    /// # Errors
    /// As [`Source::try_udp`].
    pub fn try_tcp(&self, key: &str, addr: SocketAddr) -> Result<(), ConfigError> {
        self.usable(key, "TCP", TcpListener::bind(addr).map(drop))
    }

    fn usable(&self, key: &str, protocol: &str, bound: io::Result<()>) -> Result<(), ConfigError> {
        match bound {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                Err(self.refuse(key, format!("cannot be listened on ({protocol}): {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the file at `path` can be read.
    ///
    /// # Errors
    /// It is not there, no file, or not for this user.
    pub fn try_file(&self, key: &str, path: &Path) -> Result<(), ConfigError> {
        let opened = std::fs::File::open(path).and_then(|file| file.metadata());
        match opened {
            Ok(data) if data.is_file() => Ok(()),
            Ok(_) => Err(self.refuse(key, "must be a file")),
            Err(error) => Err(self.refuse(key, format!("cannot be read: {error}"))),
        }
    }

    /// Checks that `path` is a folder that can be written to, or can be made one. Nothing is written.
    ///
    /// # Errors
    /// It is no folder, or not for this user.
    pub fn try_folder(&self, key: &str, path: &Path) -> Result<(), ConfigError> {
        let whole = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        if whole.components().any(|part| part.as_os_str().len() > LONGEST_NAME) {
            return Err(self.refuse(key, format!("a part of it is longer than {LONGEST_NAME} bytes")));
        }
        let Some(there) = whole.ancestors().find(|folder| folder.exists()) else {
            return Err(self.refuse(key, "no folder above it is there"));
        };
        if !there.is_dir() {
            return Err(self.refuse(key, format!("{} is no folder", there.display())));
        }
        let refused = |error| self.refuse(key, format!("{} cannot be written to: {error}", there.display()));
        access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_of_another_machine_is_refused_and_one_in_use_is_not() {
        let source = Source::default();
        let text = source.try_tcp("http.listen", "192.0.2.1:80".parse().unwrap()).unwrap_err().to_string();
        assert!(text.contains("http.listen") && text.contains("TCP"), "{text}");
        assert!(source.try_udp("mesh.listen", "192.0.2.1:80".parse().unwrap()).is_err());
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        source.try_tcp("http.listen", held.local_addr().unwrap()).unwrap();
        let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        source.try_udp("mesh.listen", addr).unwrap();
        UdpSocket::bind(addr).expect("nothing was left open");
    }

    #[test]
    fn a_folder_that_can_be_made_is_fine_and_is_not_made() {
        let (source, dir) = (Source::default(), tempfile::tempdir().unwrap());
        let to_come = dir.path().join("a/b");
        source.try_folder("uplink.spill_dir", &to_come).unwrap();
        assert!(!to_come.exists());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        source.try_file("geo.regions_file", &file).unwrap();
        assert!(source.try_folder("uplink.spill_dir", &file.join("x")).is_err());
        assert!(source.try_file("geo.regions_file", dir.path()).is_err());
        assert!(source.try_file("geo.regions_file", &to_come).is_err());
    }
}
