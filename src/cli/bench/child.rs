//! A server of the own binary as a process of its own, on a free port, and a WebSocket to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::clock;

const START_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(10);

/// A child process that ends with its owner.
pub struct ServerProcess {
    process: Child,
    port: u16,
}

impl ServerProcess {
    /// Starts `hotbook ARGS --data DATA`, which listens on a free port: it is told so by `port_flag`, or by the
    /// environment. `settings`: more of that; none of this process's own reaches it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(args: &[&str], data: &Path, port_flag: bool, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).arg("--data").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        if port_flag {
            command.args(["--port", &port.to_string()]);
        }
        command.env_clear().env("HOTBOOK_HTTP_PORT", port.to_string()).env("LOG_LEVEL", "warn");
        command.envs(settings.iter().copied());
        Ok(Self { process: command.spawn()?, port })
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// CPU time that it has used so far.
    pub fn cpu_ns(&self) -> Option<u64> {
        clock::cpu_ns_of(self.process.id())
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub async fn listening(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("server ended while it started: {status}");
            }
            if started.elapsed() > START_WITHIN {
                bail!("server does not listen after {START_WITHIN:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends it as an operator does, by SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = libc::pid_t::try_from(self.process.id())?;
        // SAFETY: the child is not waited for yet, so the pid is its own.
        if unsafe { libc::kill(pid, libc::SIGTERM) } != 0 {
            return Err(std::io::Error::last_os_error()).context("server cannot be told to end");
        }
        let started = Instant::now();
        loop {
            match self.process.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("server ended with {status}"),
                None if started.elapsed() > STOP_WITHIN => bail!("server does not end after {STOP_WITHIN:?}"),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

pub type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Opens `URL/ws`, as whom `token` names.
///
/// # Errors
/// When the server refuses.
pub async fn connect(url: &str, token: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = format!("{url}/ws").into_client_request()?;
    if let Some(token) = token {
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse()?);
    }
    let (socket, _) = tokio_tungstenite::connect_async(request).await?;
    if let tokio_tungstenite::MaybeTlsStream::Plain(tcp) = socket.get_ref() {
        tcp.set_nodelay(true)?;
    }
    Ok(socket)
}
