//! A network namespace with a TUN device.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use super::NoNetwork;

const DEVICE: &[u8] = b"hotbook0";
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// One host of a [`super::Network`].
#[derive(Clone)]
pub struct Host(Arc<Namespace>);

struct Namespace {
    name: String,
    address: Ipv4Addr,
    /// Its only name.
    handle: File,
}

impl Host {
    /// The `n`th from 0, and the other end of its cable: packets as IPv4, one with each read and write.
    pub(super) fn make(name: &str, n: usize) -> std::result::Result<(Self, File), NoNetwork> {
        let address = Self::address_of(n);
        // A thread moves to a namespace by itself; this one ends there.
        let made = std::thread::spawn(move || make_namespace(address)).join().expect("no panic");
        let (handle, tun) = made.map_err(|(what, source)| NoNetwork { what, source })?;
        Ok((Self(Arc::new(Namespace { name: name.to_owned(), address, handle })), tun))
    }

    fn address_of(n: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(n + 1).expect("at most 254 hosts"))
    }

    /// Which host has an address.
    pub(super) fn number_of(address: Ipv4Addr) -> Option<usize> {
        let [a, b, c, d] = address.octets();
        ((a, b, c) == (10, 77, 0)).then(|| usize::from(d).checked_sub(1)).flatten()
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// At which the others reach it.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Makes a command run on this host once it is spawned.
    pub fn enter(&self, command: &mut Command) {
        let namespace = Arc::clone(&self.0);
        // SAFETY: setns is a system call and nothing else.
        unsafe { command.pre_exec(move || enter(&namespace.handle)) };
    }

    /// Connects from this host, as if the test ran there.
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub fn connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        let to = to.into();
        self.run(move || TcpStream::connect(to))
    }

    /// Runs something on a thread of its own on this host. A socket stays on the host on which it was made.
    ///
    /// # Panics
    /// When it does.
    pub fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = Arc::clone(&self.0);
        let thread = std::thread::spawn(move || {
            enter(&namespace.handle).expect("it is there as long as its handle");
            what()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn enter(namespace: &File) -> Result<()> {
    // SAFETY: the handle is open.
    done(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn done(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn make_namespace(address: Ipv4Addr) -> std::result::Result<(File, File), (&'static str, Error)> {
    let at = |what| move |source| (what, source);
    // SAFETY: it concerns this thread only, which nobody else uses.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map_err(at("making a network namespace"))?;
    let handle = File::open("/proc/thread-self/ns/net").map_err(at("opening a network namespace"))?;
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(at("opening /dev/net/tun"))?;
    let mut device = request(DEVICE);
    device.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    ioctl(&tun, libc::TUNSETIFF, &mut device).map_err(at("making a TUN device"))?;
    configure(address).map_err(at("configuring a TUN device"))?;
    Ok((handle, tun))
}

/// Sets addresses and brings up the devices of this thread's namespace.
fn configure(address: Ipv4Addr) -> Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    for (value, request_number) in [(address, libc::SIOCSIFADDR), (NETMASK, libc::SIOCSIFNETMASK)] {
        let mut set = request(DEVICE);
        let value = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(value).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: both are plain structures of 16 bytes that begin with the family.
        set.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(value) };
        ioctl(&socket, request_number, &mut set)?;
    }
    for device in [DEVICE, b"lo"] {
        let mut up = request(device);
        up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut up)?;
    }
    Ok(())
}

fn request(device: &[u8]) -> libc::ifreq {
    // SAFETY: all zero is a valid request of no device.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device) {
        *to = *from as libc::c_char;
    }
    request
}

fn ioctl(on: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: the request is one of those that take an ifreq, and it outlives the call.
    done(unsafe { libc::ioctl(on.as_raw_fd(), number, std::ptr::from_mut(request)) })
}
