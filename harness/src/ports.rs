//! Ports for servers of tests.

use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

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
