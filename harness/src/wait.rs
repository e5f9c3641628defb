//! Waiting for what must come, with an end.

use std::time::{Duration, Instant};

/// Deadline of what a healthy server does at once.
pub const SOON: Duration = Duration::from_secs(20);
/// Deadline of what takes a cluster's patience: processes that start, nodes that are found dead, books that are taken over.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// Awaits with the deadline [`SOON`].
///
/// # Panics
/// With `what`, when that has passed.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("no {what} within {SOON:?}"))
}

/// Asks again and again until a condition holds; gives how long that took.
///
/// # Panics
/// With `what`, when it does not hold `within`.
pub async fn until(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
