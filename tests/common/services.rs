//! Real servers for tests: each is a private process of `scripts/services run` on free loopback ports, in a folder of its
//! own, and is gone when its value is dropped or when the test process dies, however that comes.
#![allow(dead_code)] // each test file uses its part

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A JVM on a busy machine of two cores needs seconds; whatever takes longer than this is broken.
const READY: Duration = Duration::from_secs(90);

/// One server process that can be killed and started again with the same ports and data.
pub struct Server {
    part: &'static str,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    child: Option<Child>,
    is_ready: Box<dyn Fn(&Path) -> bool + Send + Sync>,
}

impl Server {
    /// Launches it without waiting until it serves.
    fn launch(
        part: &'static str,
        arguments: Vec<String>,
        is_ready: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> Self {
        let folders = services_folder().join("tests");
        std::fs::create_dir_all(&folders).expect("target/services");
        let folder = tempfile::Builder::new().prefix(part).tempdir_in(folders).expect("a folder");
        let mut server = Self { part, arguments, folder, child: None, is_ready: Box::new(is_ready) };
        server.launch_again();
        server
    }

    fn launch_again(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.part);
        let log = std::fs::File::create(self.log_path()).expect("a log file");
        let mut command = Command::new(script());
        command.arg("run").arg(self.part).arg(format!("--dir={}", self.folder.path().display())).args(&self.arguments);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a handle")).stdout(log);
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

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a pid");
    // SAFETY: the child is ours and not waited for yet, so the pid is its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", std::io::Error::last_os_error());
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services")
}

/// Where `scripts/services` keeps what it fetched.
pub fn services_folder() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services");
    std::env::var_os("HOTBOOK_SERVICES_DIR").map_or(default, PathBuf::from)
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a child that the kernel kills when this process ends. The kernel means the thread that started it, and a test's
/// thread ends before the servers that tests share, so one thread that never ends starts them all.
fn spawn(mut command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let parent = std::process::id();
    // SAFETY: prctl, getppid and _exit are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // It may have died before the call.
            if libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (answer, child) = channel();
    spawner.lock().expect("no panic").send((command, answer)).expect("the spawner lives");
    child.recv().expect("an answer").expect("scripts/services can be run")
}

/// A port that nothing listens on, below those that the kernel gives to outgoing connections: no connection takes it while
/// its server is down.
pub fn free_port() -> u16 {
    static STATE: Mutex<u64> = Mutex::new(0);
    let mut state = STATE.lock().expect("no panic");
    if *state == 0 {
        #[allow(clippy::disallowed_methods)] // Ports of two test processes should differ; no test depends on the value.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        *state = now.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32);
    }
    for _ in 0..1_000 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let port = 10_000 + (*state >> 33) % 20_000;
        if TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
    panic!("no free port");
}

/// How a Kafka cluster is started.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// One, or three that replicate with `min.insync.replicas=2`.
    pub brokers: usize,
    /// Lines of `server.properties` on top; `{port}` and `{controller}` stand for the broker's ports.
    pub properties: Vec<String>,
    /// More for the class path, such as a folder of compiled classes.
    pub classpath: Option<PathBuf>,
}

/// A Kafka cluster.
pub struct Kafka {
    pub brokers: Vec<Server>,
    pub ports: Vec<u16>,
}

impl Kafka {
    /// One broker.
    pub fn start() -> Self {
        Self::start_with(&KafkaOptions { brokers: 1, ..KafkaOptions::default() })
    }

    /// All brokers of a cluster, ready.
    pub fn start_with(options: &KafkaOptions) -> Self {
        let ports: Vec<(u16, u16)> = (0..options.brokers).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<_> = (1..).zip(&ports).map(|(n, (_, c))| format!("{n}@127.0.0.1:{c}")).collect();
        let mut brokers: Vec<_> = (1..)
            .zip(&ports)
            .map(|(n, &(port, controller))| {
                let mut arguments = vec![
                    format!("--port={port}"),
                    format!("--controller-port={controller}"),
                    format!("--node={n}"),
                    format!("--voters={}", voters.join(",")),
                ];
                for property in &options.properties {
                    let line = property.replace("{port}", &port.to_string());
                    arguments.push(format!("--property={}", line.replace("{controller}", &controller.to_string())));
                }
                arguments.extend(options.classpath.as_ref().map(|p| format!("--classpath={}", p.display())));
                Server::launch("kafka", arguments, log_says("Kafka Server started"))
            })
            .collect();
        brokers.iter_mut().for_each(Server::until_ready);
        Self { brokers, ports: ports.iter().map(|(port, _)| *port).collect() }
    }

    /// For `bootstrap.servers`.
    pub fn addresses(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }
}

/// A Redis server, empty at first; it keeps what it acknowledged over a restart, at most the last second of a crash lost.
pub struct Redis {
    pub server: Server,
    pub port: u16,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more of Redis's own options, such as `--requirepass`.
    pub fn start_with(options: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec![format!("--port={port}")];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let mut server = Server::launch("redis", arguments, log_says("Ready to accept connections"));
        server.until_ready();
        Self { server, port }
    }

    /// Forgets what is on the disk of a server that does not run: the next start is empty.
    pub fn lose_data(&mut self) {
        assert!(self.server.pid().is_none(), "it runs");
        std::fs::remove_dir_all(self.server.folder().join("appendonlydir")).expect("its data");
    }
}

/// An S3 server with one empty bucket.
pub struct S3 {
    pub server: Server,
    pub port: u16,
}

impl S3 {
    pub const BUCKET: &str = "hotbook";
    pub const REGION: &str = "us-east-1";
    pub const ACCESS_KEY: &str = "hotbook-tests";
    pub const SECRET_KEY: &str = "hotbook-tests-secret";

    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more of versitygw's own options, such as `--cert`.
    pub fn start_with(options: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec![format!("--port={port}")];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let mut server = Server::launch("s3", arguments, move |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        server.until_ready();
        Self { server, port }
    }

    /// Where the objects of the bucket lie as files.
    pub fn files(&self) -> PathBuf {
        self.server.folder().join("data").join(Self::BUCKET)
    }
}

/// The driver of Chromium; browsers that it has started end with it.
pub struct Driver {
    pub server: Server,
    pub port: u16,
}

impl Driver {
    pub fn start() -> Self {
        let port = free_port();
        let ready = log_says("was started successfully");
        let mut server = Server::launch("browser", vec![format!("--port={port}")], ready);
        server.until_ready();
        Self { server, port }
    }
}

/// A certificate of `127.0.0.1` and `localhost`, for a server or a client, and who signed it, as PEM files.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them with the `openssl` program.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder.path()).args(arguments.split(' '));
            let output = command.output().expect("the program openssl, from the package of that name");
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=hotbook-tests"));
        openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(folder.path().join("names"), names).expect("a file");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        Self { folder }
    }

    /// `ca.pem`, `server.pem` or `server.key`.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn ca_pem(&self) -> Vec<u8> {
        std::fs::read(self.path("ca.pem")).expect("a file")
    }
}

fn log_says(what: &'static str) -> impl Fn(&Path) -> bool + Send {
    move |log| std::fs::read_to_string(log).is_ok_and(|text| text.contains(what))
}
