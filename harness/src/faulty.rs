//! A way to a server that can refuse and be slow: an HTTP/1.1 proxy on a loopback port, which knows as little of HTTP as
//! that takes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REFUSES: u64 = u64::MAX;
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Connects to the server behind.
type Connect = dyn Fn() -> std::io::Result<TcpStream> + Send + Sync;

/// See the module; no connection is taken any more when it is dropped.
pub struct Faulty {
    pub port: u16,
    /// Milliseconds that each piece of a request waits, or [`REFUSES`].
    mode: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Faulty {
    /// Begins to pass on what comes to `port`.
    pub fn before(server: u16) -> Self {
        Self::at(0, Arc::new(move || TcpStream::connect(("127.0.0.1", server))))
    }

    /// Listens at a port, or at any if that is 0.
    pub(crate) fn at(port: u16, connect: Arc<Connect>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let port = listener.local_addr().expect("its port").port();
        let (mode, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let faulty = Self { port, mode: Arc::clone(&mode), ends: Arc::clone(&ends) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let (mode, connect) = (Arc::clone(&mode), Arc::clone(&connect));
                std::thread::spawn(move || pass(client, &*connect, &mode));
            }
        });
        faulty
    }

    pub fn pass_all(&self) {
        self.mode.store(0, Ordering::Release);
    }

    /// Answers every request with 503.
    pub fn refuse(&self) {
        self.mode.store(REFUSES, Ordering::Release);
    }

    /// Lets each piece of a request wait.
    pub fn slow_by(&self, each: Duration) {
        self.mode.store(each.as_millis() as u64, Ordering::Release);
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Whoever waits for the next connection sees that.
        _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One connection. Errors end it, as they would without anybody between.
fn pass(mut client: TcpStream, connect: &Connect, mode: &AtomicU64) {
    let Ok(mut behind) = connect() else { return };
    let (Ok(mut answers), Ok(mut back)) = (behind.try_clone(), client.try_clone()) else { return };
    std::thread::spawn(move || {
        _ = std::io::copy(&mut answers, &mut back);
        _ = back.shutdown(Shutdown::Both);
    });
    let mut piece = [0; 64 << 10];
    loop {
        let n = match client.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        match mode.load(Ordering::Acquire) {
            0 => {}
            REFUSES => {
                _ = client.write_all(ANSWER);
                break;
            }
            ms => std::thread::sleep(Duration::from_millis(ms)),
        }
        if behind.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    _ = behind.shutdown(Shutdown::Both);
    _ = client.shutdown(Shutdown::Both);
}
