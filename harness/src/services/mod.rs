//! Real servers: each is a private process of `scripts/services run` on free loopback ports, in a folder of its own, and is
//! gone when its value is dropped or when the test process dies, however that comes.

mod browser;
mod certificates;
mod kafka;
mod redis;
mod s3;

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use browser::Driver;
pub use certificates::Certificates;
pub use kafka::{Kafka, KafkaOptions};
pub use redis::Redis;
pub use s3::S3;

use crate::child::{signal, spawn};
use crate::network::Host;
use crate::places;

/// A JVM on a busy machine of two cores needs seconds; whatever takes longer than this is broken.
const READY: Duration = Duration::from_secs(90);

/// One server process that can be killed and started again with the same ports and data.
pub struct Server {
    part: &'static str,
    arguments: Vec<String>,
    /// Where it runs, if not on this machine's own network.
    host: Option<Host>,
    folder: tempfile::TempDir,
    child: Option<Child>,
    is_ready: Box<dyn Fn(&Path) -> bool + Send + Sync>,
}

impl Server {
    /// Launches it without waiting until it serves.
    fn launch(
        part: &'static str,
        mut arguments: Vec<String>,
        host: Option<&Host>,
        is_ready: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> Self {
        let folders = places::services_folder().join("tests");
        std::fs::create_dir_all(&folders).expect("a folder beside the services");
        let folder = tempfile::Builder::new().prefix(part).tempdir_in(folders).expect("a folder");
        arguments.extend(host.map(|host| format!("--host={}", host.address())));
        let mut server =
            Self { part, arguments, host: host.cloned(), folder, child: None, is_ready: Box::new(is_ready) };
        server.launch_again();
        server
    }

    fn launch_again(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.part);
        let log = std::fs::File::create(self.log_path()).expect("a log file");
        let mut command = Command::new(places::scripts().join("services"));
        command.arg("run").arg(self.part).arg(format!("--dir={}", self.folder.path().display())).args(&self.arguments);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a handle")).stdout(log);
        if let Some(host) = &self.host {
            host.enter(&mut command);
        }
        self.child = Some(spawn(command));
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// With the end of its log, if it ends or takes too long.
    pub fn until_ready(&mut self) {
        let started = Instant::now();
        while !(self.is_ready)(&self.log_path()) {
            let child = self.child.as_mut().expect("it was launched");
            let ended = child.try_wait().expect("its state");
            let late = started.elapsed() > READY;
            assert!(ended.is_none() && !late, "{} does not start ({ended:?}):\n{}", self.part, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`, as a crash.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ended");
        }
    }

    /// Ends it as an operator does, by SIGTERM.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(&child, libc::SIGTERM);
        let started = Instant::now();
        while child.try_wait().expect("its state").is_none() {
            assert!(started.elapsed() < READY, "{} does not stop:\n{}", self.part, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`], and waits until it serves.
    pub fn start(&mut self) {
        self.launch_again();
        self.until_ready();
    }

    /// Stops it in its tracks, as a machine that hangs: connections stay open and nothing answers.
    pub fn freeze(&self) {
        signal(self.child.as_ref().expect("it runs"), libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        signal(self.child.as_ref().expect("it runs"), libc::SIGCONT);
    }

    /// Connects to one of its ports.
    pub(crate) fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        connect(self.host.as_ref(), port)
    }

    /// Of the server itself: the script becomes it.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it printed since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

/// The address at which a server listens.
pub(crate) fn address(host: Option<&Host>) -> Ipv4Addr {
    host.map_or(Ipv4Addr::LOCALHOST, Host::address)
}

/// Connects to a server on a host.
pub(crate) fn connect(host: Option<&Host>, port: u16) -> std::io::Result<TcpStream> {
    let to = (address(host), port);
    host.map_or_else(|| TcpStream::connect(to), |host| host.connect(to))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// For [`Server::launch`]: ready once its log has these words.
pub(crate) fn log_says(what: &'static str) -> impl Fn(&Path) -> bool + Send {
    move |log| std::fs::read_to_string(log).is_ok_and(|text| text.contains(what))
}
