//! A Debian of its own in a folder, in which systemd runs: `systemd-nspawn` boots it, without a network but loopback.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The machine. It is switched off, and its disk removed, when this goes.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    nspawn: Child,
    init: i32,
}

impl Machine {
    /// Whether one can be had here: root may make namespaces (in most containers he may not), and the programs that were
    /// built here run on that Debian. (`sudo ./dev test` is root, as is CI.)
    pub(crate) fn can_be() -> bool {
        let unshares =
            || Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
        let host = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let why = if !nix::unistd::geteuid().is_root() {
            "only root can boot a machine"
        } else if !unshares() {
            "this root may not make namespaces"
        } else if !host.contains("VERSION_CODENAME=bookworm") {
            "programs that are built here need another Debian"
        } else {
            return true;
        };
        eprintln!("NOT TESTED: {why}");
        false
    }

    /// Boots a fresh one, with `files` (a folder) to be seen as `/mnt`.
    pub(crate) fn boot(files: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let tar = base();
        assert!(tar.is_file(), "{} is not there: `./dev debian` makes it", tar.display());
        let unpacked = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&disk).status().unwrap();
        assert!(unpacked.success(), "{} cannot be unpacked (as root)", tar.display());
        let console = fs::File::create(dir.path().join("console")).unwrap();
        let mut nspawn = Command::new("systemd-nspawn")
            .args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe", "--boot"])
            .arg(format!("--directory={}", disk.display()))
            .arg(format!("--bind-ro={}:/mnt", files.display()))
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("systemd-nspawn cannot be started: ./dev test installs it");
        let Some(init) = until(600, || child_of(nspawn.id())) else {
            let _ = nspawn.kill();
            panic!("no machine: {}", fs::read_to_string(dir.path().join("console")).unwrap());
        };
        let this = Self { dir, nspawn, init };
        let up = until(600, || this.run("systemctl is-system-running --wait").0.then_some(()));
        assert!(up.is_some(), "it did not start: {:?}", this.run("systemctl --failed; journalctl -b"));
        this
    }

    /// A shell script as root there: whether it succeeded, and what it said.
    pub(crate) fn run(&self, script: &str) -> (bool, String) {
        let mut command = Command::new("nsenter");
        command.arg(self.target());
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"]);
        let output = command
            .args(["/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script])
            .output();
        let Output { status, stdout, stderr } = output.unwrap();
        (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }

    /// The same, which must succeed.
    pub(crate) fn does(&self, script: &str) -> String {
        let (success, said) = self.run(script);
        assert!(success, "{script}\n{said}\n{}", self.run("journalctl --no-pager -n 60").1);
        said.trim().to_owned()
    }

    /// Tries a script until it succeeds.
    pub(crate) fn comes_to(&self, script: &str) -> String {
        let said = until(300, || Some(self.run(script)).filter(|(success, _)| *success));
        let Some((_, said)) = said else {
            panic!("{script}\n{}\n{}", self.run(script).1, self.run("journalctl --no-pager -n 60").1);
        };
        said.trim().to_owned()
    }

    /// Writes a file there.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let mut file = fs::File::create(self.path(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Its first process, as `nsenter` wants it.
    pub(crate) fn target(&self) -> String {
        format!("--target={}", self.init)
    }

    /// Its network's namespace.
    pub(crate) fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.init).into()
    }

    /// Where a file of that machine is on this one.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("disk").join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGKILL to the first process of a namespace ends all of it.
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _ = self.nspawn.wait();
    }
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder of the programs that were built with this test.
pub(crate) fn binaries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// Where `./dev` puts what it fetches.
pub(crate) fn cache() -> PathBuf {
    std::env::var("NEARFIELD_CACHE").map_or_else(|_| root().join(".cache"), PathBuf::from)
}

/// The disk that `./dev debian` makes, by the number of what is on it.
fn base() -> PathBuf {
    cache().join("debian-bookworm-2.tar")
}

/// The packages of the programs that this test was built with.
pub(crate) fn build_packages(out: &Path, version: &str) {
    let output = Command::new(root().join("deploy/debian/build"))
        .args([&binaries(), out])
        .arg(version)
        .env("NEARFIELD_DEB_COMPRESSION", "-Znone")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn child_of(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Asks a tenth of a second apart, `tries` times at most.
fn until<T>(tries: usize, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..tries {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}
