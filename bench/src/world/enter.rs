//! May this process make networks of its own? As root it may; anyone else first becomes root of a
//! user namespace.
#![allow(unsafe_code)]

use std::{env, fs, io, net::Ipv4Addr, os::unix::process::CommandExt, process::Command, sync::Mutex, thread};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    unistd::{Uid, getegid, geteuid},
};

use super::tun;

/// Why the emulated Internet cannot be had here.
#[derive(Debug, thiserror::Error)]
pub enum NotAllowed {
    /// No user namespace for an ordinary user.
    #[error(
        "this user may not make a user namespace ({0}): run as root, or allow it with \
         `sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000` \
         (and `kernel.apparmor_restrict_unprivileged_userns=0` on Ubuntu)"
    )]
    UserNamespace(io::Error),
    /// The process has threads, and the kernel moves only single-threaded ones.
    #[error("a process with several threads cannot enter a user namespace: enter the world first thing in `main`")]
    Threads,
    /// No network namespace.
    #[error("network namespaces are not allowed here ({0}): CAP_SYS_ADMIN is missing")]
    NetworkNamespace(io::Error),
    /// No TUN device.
    #[error("{device} cannot be used ({0}): load it with `modprobe tun`, allow it with `chmod 666 {device}`, or run as root", device = tun::DEVICE)]
    Tun(io::Error),
}

/// Makes sure that namespaces and TUN devices can be made from now on, becoming root of a user
/// namespace when the caller is nobody special.
pub(super) fn enter() -> Result<(), NotAllowed> {
    if !geteuid().is_root() {
        become_root()?;
    }
    probe()
}

/// Runs this whole program again inside a user namespace if the caller is not root, and ends with
/// its exit status.
///
/// For test programs, whose harness has started threads before any test can enter the world. Where
/// a `main` is ours, entering first thing in it needs no second process.
///
/// # Errors
/// [`NotAllowed::UserNamespace`], or the program could not be started again.
pub fn respawn_unless_root() -> Result<(), NotAllowed> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_test_does_it_for_all = ONCE.lock();
    if geteuid().is_root() {
        return Ok(());
    }
    let maps = Maps::of_this_user();
    let mut again = Command::new("/proc/self/exe");
    again.args(env::args_os().skip(1));
    // SAFETY: between fork and exec the hook makes system calls and writes files whose contents were made before.
    unsafe { again.pre_exec(move || Ok(maps.enter()?)) };
    let status = again.status().map_err(NotAllowed::UserNamespace)?;
    std::process::exit(status.code().unwrap_or(1))
}

fn become_root() -> Result<(), NotAllowed> {
    Maps::of_this_user().enter().map_err(|error| match error {
        Errno::EINVAL => NotAllowed::Threads,
        other => NotAllowed::UserNamespace(other.into()),
    })
}

/// What the namespace calls root is the user outside.
struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    fn of_this_user() -> Self {
        Self { uid: format!("0 {} 1", geteuid()), gid: format!("0 {} 1", getegid()) }
    }

    fn enter(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        // user_namespaces(7): groups can be mapped only after setgroups is given up.
        for (file, text) in [("setgroups", "deny"), ("uid_map", &self.uid), ("gid_map", &self.gid)] {
            fs::write(format!("/proc/self/{file}"), text)
                .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
        }
        debug_assert_eq!(geteuid(), Uid::from_raw(0));
        Ok(())
    }
}

/// Makes one namespace with one device, which end with the thread that made them.
fn probe() -> Result<(), NotAllowed> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NotAllowed::NetworkNamespace(e.into()))?;
        tun::link(Ipv4Addr::new(10, 77, 255, 254)).map(drop).map_err(NotAllowed::Tun)
    };
    thread::spawn(attempt).join().expect("the probe does not panic")
}
