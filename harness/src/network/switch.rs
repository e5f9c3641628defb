//! Carries packets from host to host, or does not.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::{Host, Link};

/// A packet of a TUN device is at most its MTU of 1,500 bytes.
const PACKET_BYTES_MAX: usize = 2_048;
/// Offset of the destination in an IPv4 header (RFC 791).
const DESTINATION: std::ops::Range<usize> = 16..20;

/// A packet on its way.
pub(super) struct Late {
    due: Instant,
    to: usize,
    packet: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Switch {
    ports: RwLock<Vec<Port>>,
    /// By port, the lower first; what is not here is whole.
    links: RwLock<HashMap<(usize, usize), Link>>,
    passed: AtomicU64,
    dropped: AtomicU64,
}

struct Port {
    host: Host,
    tun: Arc<File>,
}

impl Switch {
    pub(super) fn host(&self, name: &str) -> Option<Host> {
        let ports = self.ports.read().expect("no panic");
        ports.iter().find(|p| p.host.name() == name).map(|p| p.host.clone())
    }

    pub(super) fn hosts_count(&self) -> usize {
        self.ports.read().expect("no panic").len()
    }

    /// Gives the number of the host's port.
    pub(super) fn attach(&self, host: Host, tun: File) -> usize {
        let mut ports = self.ports.write().expect("no panic");
        ports.push(Port { host, tun: Arc::new(tun) });
        ports.len() - 1
    }

    pub(super) fn change(&self, one: &str, other: &str, change: impl Fn(&mut Link)) {
        for name in [one, other] {
            assert!(self.host(name).is_some(), "there is no host {name}");
        }
        self.change_all(|a, b, link| {
            if [(one, other), (other, one)].contains(&(a, b)) {
                change(link);
            }
        });
    }

    /// Changes the link of each two hosts.
    pub(super) fn change_all(&self, change: impl Fn(&str, &str, &mut Link)) {
        let ports = self.ports.read().expect("no panic");
        let mut links = self.links.write().expect("no panic");
        for (b, other) in ports.iter().enumerate() {
            for (a, one) in ports[..b].iter().enumerate() {
                change(one.host.name(), other.host.name(), links.entry((a, b)).or_default());
            }
        }
    }

    pub(super) fn packets(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }

    /// Carries what a port's host sends, until `stop` hangs up.
    pub(super) fn carry_from(&self, port: usize, stop: &OwnedFd, late: &Sender<Late>) {
        let tun = Arc::clone(&self.ports.read().expect("no panic")[port].tun);
        let mut dice = port as u64 + 1;
        let mut packet = [0; PACKET_BYTES_MAX];
        while is_readable(&tun, stop) {
            let Ok(n) = (&*tun).read(&mut packet) else { return };
            self.carry(port, &packet[..n], &mut dice, late);
        }
    }

    fn carry(&self, from: usize, packet: &[u8], dice: &mut u64, late: &Sender<Late>) {
        // IPv6 makes itself heard unasked.
        let is_v4 = packet.len() >= DESTINATION.end && packet[0] >> 4 == 4;
        let to = is_v4.then(|| <[u8; 4]>::try_from(&packet[DESTINATION]).expect("four")).map(Ipv4Addr::from);
        let Some(to) = to.and_then(Host::number_of) else { return };
        let link = self.links.read().expect("no panic").get(&(from.min(to), from.max(to))).copied().unwrap_or_default();
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if link.cut || (*dice >> 33) % 1_000 < u64::from(link.lost_per_mille) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else if link.delay.is_zero() {
            self.deliver(to, packet);
        } else {
            _ = late.send(Late { due: Instant::now() + link.delay, to, packet: packet.to_vec() });
        }
    }

    fn deliver(&self, to: usize, packet: &[u8]) {
        let Some(tun) = self.ports.read().expect("no panic").get(to).map(|p| Arc::clone(&p.tun)) else { return };
        // What the kernel does not take is lost, as on any cable.
        let counter = if (&*tun).write(packet).is_ok() { &self.passed } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Delivers packets when they are due, until nobody sends any more.
    pub(super) fn deliver_late(&self, inbox: &Receiver<Late>) {
        let mut waiting: BTreeMap<(Instant, u64), Late> = BTreeMap::new();
        for n in 0.. {
            let wait = waiting.first_key_value().map(|((due, _), _)| due.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(wait.unwrap_or(Duration::from_secs(3_600))) {
                Ok(late) => _ = waiting.insert((late.due, n), late),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some(first) = waiting.first_entry().filter(|e| e.key().0 <= Instant::now()) {
                let Late { to, packet, .. } = first.remove();
                self.deliver(to, &packet);
            }
        }
    }
}

/// Waits; false once `stop` has hung up.
fn is_readable(tun: &File, stop: &OwnedFd) -> bool {
    let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [watch(tun.as_raw_fd()), watch(stop.as_raw_fd())];
    loop {
        // SAFETY: both are open as long as the call lasts.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
        if fds[1].revents != 0 {
            return false;
        }
        if n > 0 {
            return true;
        }
    }
}
