//! Where users are connected, as others look it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::actors::connections::Users;
use crate::domain::{NodeId, UserId};
use crate::ports::cache::{Cache, CacheUnavailable};

/// What a process that dies says is forgotten after this.
const TTL: Duration = Duration::from_secs(60);
/// How often all who are here are said again: two times may fail.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Users written in one round, five of which are a second: 100,000 are renewed in time.
const USERS_PER_ROUND: usize = 1_024;
/// Users written at once, for which Redis takes about a millisecond.
const USERS_AT_ONCE: usize = 256;

/// Writes which users the process holds connections of.
pub struct Sessions {
    users: Arc<Users>,
    process: NodeId,
    /// Who is still to be said again.
    renewing: Vec<UserId>,
    renewed_at: Instant,
}

impl Sessions {
    pub fn new(users: Arc<Users>, process: NodeId) -> Self {
        Self { users, process, renewing: Vec::new(), renewed_at: Instant::now() }
    }

    /// Writes who came and who went, and who is still here if it is time for that; a round's share.
    pub async fn write(&mut self, cache: &dyn Cache) -> Result<(), CacheUnavailable> {
        if self.renewed_at.elapsed() >= RENEW_EVERY {
            self.renew();
        }
        for _ in 0..USERS_PER_ROUND / USERS_AT_ONCE {
            let (came, went) = self.users.take_changed(USERS_AT_ONCE);
            if came.is_empty() && went.is_empty() && self.renewing.is_empty() {
                break;
            }
            let told = self.tell(cache, &came, &went).await;
            if told.is_err() {
                self.users.put_back(&came);
                self.users.put_back(&went);
                return told;
            }
        }
        Ok(())
    }

    /// Says who came and who went; and in what room is left, who is still here.
    async fn tell(&mut self, cache: &dyn Cache, came: &[UserId], went: &[UserId]) -> Result<(), CacheUnavailable> {
        if !went.is_empty() {
            cache.sessions_ended(went, self.process).await?;
        }
        let room = USERS_AT_ONCE.saturating_sub(came.len() + went.len());
        let renewed = self.renewing.split_off(self.renewing.len().saturating_sub(room));
        // Who has gone since they were gathered is not said again.
        let held: Vec<UserId> =
            came.iter().copied().chain(renewed.into_iter().filter(|user| self.users.is_here(user))).collect();
        if !held.is_empty() {
            cache.sessions_held(&held, self.process, TTL).await?;
        }
        Ok(())
    }

    /// All who are here are said again.
    pub fn renew(&mut self) {
        self.renewed_at = Instant::now();
        self.renewing = self.users.all();
    }

    /// Says of all who are here that they are not any more.
    pub async fn end(&mut self, cache: &dyn Cache) -> Result<(), CacheUnavailable> {
        for some in self.users.all().chunks(USERS_AT_ONCE) {
            cache.sessions_ended(some, self.process).await?;
        }
        Ok(())
    }
}
