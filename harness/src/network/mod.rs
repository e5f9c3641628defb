//! A network of its own for a cluster: each host is a network namespace of this machine with one TUN device, and this process is
//! the switch between them. So packets can be dropped, lost and late between any two hosts, as the kernels at both ends see
//! it; nothing of the machine's own network is touched, and nothing outside can be reached.
//!
//! Namespaces and devices have no names on this machine: they end with the last handle on them, so also when the test process
//! is killed. It takes root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and `/dev/net/tun`.

mod host;
mod switch;

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use host::Host;
use switch::{Late, Switch};

/// Why there can be no network of its own here.
#[derive(Debug)]
pub struct NoNetwork {
    pub(crate) what: &'static str,
    pub(crate) source: std::io::Error,
}

impl std::fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this machine permits no network of the tests' own: {} failed: {}. It takes root with network namespaces \
             (CAP_SYS_ADMIN, CAP_NET_ADMIN) and /dev/net/tun",
            self.what, self.source
        )
    }
}

impl std::error::Error for NoNetwork {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What happens to a packet on its way, each way.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// Nothing passes, and nobody is told so.
    pub cut: bool,
    pub delay: Duration,
    /// Of a thousand packets.
    pub lost_per_mille: u16,
}

/// See the module. Clones are the same network; it ends with the last.
#[derive(Clone)]
pub struct Network(Arc<Running>);

struct Running {
    switch: Arc<Switch>,
    /// One thread for each host and one for what is late.
    threads: Mutex<Vec<JoinHandle<()>>>,
    late: Option<Sender<Late>>,
    /// The switch's threads end when its other end is closed.
    stop: (Arc<OwnedFd>, Option<OwnedFd>),
}

impl Network {
    /// A network without hosts.
    ///
    /// # Errors
    /// [`NoNetwork`]: what of it is not permitted here.
    pub fn start() -> Result<Self, NoNetwork> {
        let (reader, writer) = std::io::pipe().map_err(|source| NoNetwork { what: "making a pipe", source })?;
        let switch = Arc::new(Switch::default());
        let (late, inbox) = channel();
        let carries = Arc::clone(&switch);
        let threads = Mutex::new(vec![std::thread::spawn(move || carries.deliver_late(&inbox))]);
        let stop = (Arc::new(OwnedFd::from(reader)), Some(OwnedFd::from(writer)));
        let network = Self(Arc::new(Running { switch, threads, late: Some(late), stop }));
        // Whether it is permitted is known with the first host.
        network.try_host("operator")?;
        Ok(network)
    }

    /// A host of that name, which is made if there is none. A cluster has `kafka`, `redis`, `s3`, `operator`, from where it is
    /// audited, and one named after each process.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&self, name: &str) -> Host {
        self.try_host(name).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn try_host(&self, name: &str) -> Result<Host, NoNetwork> {
        let mut threads = self.0.threads.lock().expect("no panic");
        if let Some(host) = self.0.switch.host(name) {
            return Ok(host);
        }
        let (host, tun) = Host::make(name, self.0.switch.hosts_count())?;
        let port = self.0.switch.attach(host.clone(), tun);
        let (switch, stop) = (Arc::clone(&self.0.switch), Arc::clone(&self.0.stop.0));
        let late = self.0.late.clone().expect("it runs");
        threads.push(std::thread::spawn(move || switch.carry_from(port, &stop, &late)));
        Ok(host)
    }

    /// Nothing passes between two hosts any more.
    ///
    /// # Panics
    /// When there is no such host; so do all that name one.
    pub fn cut(&self, one: &str, other: &str) {
        self.0.switch.change(one, other, |link| link.cut = true);
    }

    /// Nothing passes between a host and anybody else.
    pub fn cut_off(&self, host: &str) {
        self.0.switch.change_all(|one, other, link| link.cut |= one == host || other == host);
    }

    /// Every link is late by so much and loses so many of a thousand packets, each way.
    pub fn worsen(&self, delay: Duration, lost_per_mille: u16) {
        self.0.switch.change_all(|_, _, link| (link.delay, link.lost_per_mille) = (delay, lost_per_mille));
    }

    /// Everything passes at once again.
    pub fn heal(&self) {
        self.0.switch.change_all(|_, _, link| *link = Link::default());
    }

    /// Packets that passed, and that were dropped, since it was started.
    pub fn packets(&self) -> (u64, u64) {
        self.0.switch.packets()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.1 = None;
        self.late = None;
        for thread in self.threads.get_mut().expect("no panic").drain(..) {
            _ = thread.join();
        }
    }
}
