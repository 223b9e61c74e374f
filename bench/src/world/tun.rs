//! A host's only link: a TUN device, made inside the host's own network namespace.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    errno::Errno,
    libc::{self, c_char, c_int, c_short, ifreq, sockaddr_in},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Where the kernel makes TUN devices.
pub(super) const DEVICE: &str = "/dev/net/tun";

/// The hosts' subnet mask: all of them see each other as neighbours.
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 0, 0);

/// What a host's link carries at once, as on Ethernet.
pub(super) const MTU: usize = 1500;

/// Packets the kernel keeps for the emulator while it is busy; beyond that it drops the newest.
const QUEUE: c_int = 4096;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, ifreq);
nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, ifreq);
nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, ifreq);
nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, ifreq);
nix::ioctl_write_ptr_bad!(set_queue, libc::SIOCSIFTXQLEN, ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, ifreq);

/// Opens the kernel's TUN factory for non-blocking use.
///
/// # Errors
/// The device is missing or not open to this user.
pub(super) fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(DEVICE)
}

/// Makes a link with this address in the calling thread's network namespace, and brings it and the
/// loopback device up. Packets the host sends can be read from what is returned; packets written to
/// it reach the host.
///
/// # Errors
/// The kernel's own; `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub(super) fn link(ip: Ipv4Addr) -> io::Result<File> {
    let tun = open()?;
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = named("net0");
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as c_short;
    // SAFETY: TUNSETIFF reads an ifreq at the address given, and `request` is one that outlives the call.
    unsafe { set_interface(tun.as_raw_fd(), &request) }?;
    configure(&control, ip)?;
    up(&control, "net0")?;
    up(&control, "lo")?;
    Ok(tun)
}

fn configure(control: &OwnedFd, ip: Ipv4Addr) -> io::Result<()> {
    let fd = control.as_raw_fd();
    let mut request = named("net0");
    request.ifr_ifru.ifru_addr = address(ip);
    // SAFETY: each call reads an initialised ifreq whose union holds the member that call reads.
    unsafe { set_address(fd, &request) }?;
    request.ifr_ifru.ifru_netmask = address(NETMASK);
    // SAFETY: as above.
    unsafe { set_netmask(fd, &request) }?;
    request.ifr_ifru.ifru_mtu = MTU as c_int;
    // SAFETY: as above.
    unsafe { set_mtu(fd, &request) }?;
    // The queue's length shares its place in the union with the interface metric.
    request.ifr_ifru.ifru_metric = QUEUE;
    // SAFETY: as above.
    match unsafe { set_queue(fd, &request) } {
        // Only the machine's own root may: in a user namespace the kernel's 500 have to do.
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn up(control: &OwnedFd, name: &str) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    // SAFETY: reads an initialised ifreq whose union holds flags.
    unsafe { set_flags(control.as_raw_fd(), &request) }?;
    Ok(())
}

/// A request about the interface `name`, which must be shorter than the kernel's 16 bytes.
fn named(name: &str) -> ifreq {
    // SAFETY: an ifreq is plain numbers; all zero is a valid one.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *slot = byte as c_char;
    }
    request
}

fn address(ip: Ipv4Addr) -> libc::sockaddr {
    let inet = sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: sockaddr_in and sockaddr are plain bytes of the same size, made to be read as each other.
    unsafe { std::mem::transmute(inet) }
}
