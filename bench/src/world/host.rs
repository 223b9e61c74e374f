//! A host: a network namespace with one address, in which unmodified programs run.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use geo::RegionId;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
    unistd::{getpid, getppid, gettid},
};
use tokio::sync::oneshot;

use super::{WorldError, tun};

/// The environment variable by which a world knows its processes, however deep.
pub(super) const MARK: &str = "NEARFIELD_WORLD";

/// A host of a world. Cheap to clone; the host lives as long as the longest of its clones, its
/// processes and its world.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) name: Arc<str>,
    pub(super) site: RegionId,
    pub(super) ip: Ipv4Addr,
    pub(super) mark: Arc<str>,
    /// Absent where hosts are only names on the loopback device.
    pub(super) namespace: Option<Arc<File>>,
}

/// A namespace, and the emulator's end of its link.
pub(super) struct Namespace {
    pub(super) file: File,
    pub(super) tun: File,
}

impl Namespace {
    /// A new namespace whose only link has this address. It needs no program and leaves nothing
    /// behind: it lasts as long as somebody holds it open or lives in it.
    pub(super) fn new(ip: Ipv4Addr) -> io::Result<Self> {
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let tun = tun::link(ip)?;
            let file = File::open(format!("/proc/self/task/{}/ns/net", gettid()))?;
            Ok(Self { file, tun })
        };
        thread::spawn(make).join().expect("making a namespace does not panic")
    }
}

impl Host {
    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The region it stands in.
    pub fn site(&self) -> &RegionId {
        &self.site
    }

    /// Its address; 127.0.0.1 in a world without distances, where hosts must differ by port.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// A program to be run on this host, in a process group of its own.
    ///
    /// The kernel kills the process when the *thread* that spawned it ends: spawn from `main` or a
    /// runtime's worker, not from a blocking task. Turn it into a `tokio::process::Command` with
    /// `into()` where that is wanted.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &*self.mark).process_group(0);
        let (namespace, parent) = (self.namespace.clone(), getpid());
        let enter = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(io::Error::other("the world ended before the program began"));
            }
            if let Some(namespace) = &namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the hook makes three system calls and takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `work` on this host, on a thread and a current-thread runtime of its own. Dropping the
    /// returned future drops the work.
    ///
    /// # Errors
    /// The thread could not enter the host, or `work` panicked.
    pub async fn run<F, Fut>(&self, work: F) -> Result<Fut::Output, WorldError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future,
        Fut::Output: Send + 'static,
    {
        let (mut done, output) = oneshot::channel();
        let host = self.clone();
        let body = move || {
            let entered =
                host.enter().and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            let runtime = match entered {
                Ok(runtime) => runtime,
                Err(error) => return drop(done.send(Err(WorldError::Host { name: host.name, error }))),
            };
            let result = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = done.closed() => None,
                    output = work() => Some(output),
                }
            });
            if let Some(output) = result {
                let _caller_gave_up = done.send(Ok(output));
            }
        };
        thread::Builder::new().name(thread_name(&self.name)).spawn(body).map_err(|error| self.failed(error))?;
        output.await.unwrap_or_else(|_| Err(self.failed(io::Error::other("the work on it panicked"))))
    }

    /// Moves the calling thread into the host.
    fn enter(&self) -> io::Result<()> {
        match &self.namespace {
            Some(namespace) => Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?),
            None => Ok(()),
        }
    }

    fn failed(&self, error: io::Error) -> WorldError {
        WorldError::Host { name: self.name.clone(), error }
    }
}

/// Has the program find a file system of `bytes` in `dir`, which only it sees and which ends with it.
///
/// # Errors
/// The folder's name has a zero byte in it.
pub fn with_disk(command: &mut Command, dir: &Path, bytes: u64) -> io::Result<()> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let options = CString::new(format!("size={bytes},mode=700"))?;
    let mount_it = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&CStr>, c"/", None::<&CStr>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&CStr>)?;
        mount(Some(c"tmpfs"), &*dir, Some(c"tmpfs"), MsFlags::empty(), Some(&*options))?;
        Ok(())
    };
    // SAFETY: between fork and exec the hook makes three system calls and takes no lock.
    unsafe { command.pre_exec(mount_it) };
    Ok(())
}

/// The kernel keeps 15 bytes of a thread's name.
fn thread_name(host: &str) -> String {
    host.chars().filter(char::is_ascii).take(15).collect()
}
