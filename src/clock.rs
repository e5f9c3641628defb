//! The only place that asks the machine for the time.

use crate::domain::Micros;

/// Wall clock time now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Micros(since.as_micros() as u64)
}
