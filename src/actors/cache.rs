//! The cache writer: one per process whose parts have a cache. It keeps there, for others to look up, the depth of the books
//! that the process owns, and which users are connected to it.
//!
//! [`CacheWriter`] is the actor; what a round writes is [`Depths`] and [`Sessions`], which know no actor. It looks at notes that
//! others make in passing ([`Changed`], [`Users`]) and is waited for by nobody: while the cache is away trading does not notice,
//! and once it is back, or was emptied, all is written anew.

mod depths;
mod sessions;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::connections::Users;
use super::gateway::Gateway;
use super::mirror::Changed;
use super::owners::Owners;
use crate::domain::NodeId;
use crate::ports::cache::{Cache, CacheUnavailable};
use crate::ports::routes::{Change, Routes};
use depths::Depths;
use sessions::Sessions;

/// How often what changed is written.
const ROUND: Duration = Duration::from_millis(200);
/// How long a cache that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(1);
/// What a process that goes down waits for the cache.
const END_WITHIN: Duration = Duration::from_secs(2);
const END_LOOK: Duration = Duration::from_millis(10);

/// What a cache writer works with.
pub(super) struct CacheParts {
    pub cache: Arc<dyn Cache>,
    /// Tells when the cache was away or emptied: it is in the same place.
    pub routes: Arc<dyn Routes>,
    /// It ends with this.
    pub gateway: Weak<Gateway>,
    /// `None`: the process owns no book.
    pub books: Option<Books>,
    pub users: Arc<Users>,
    /// By which name users find the process.
    pub process: NodeId,
}

/// The books whose depth is written.
pub(super) struct Books {
    pub changed: Arc<Changed>,
    pub owners: Arc<Owners>,
    /// Those of these nodes.
    pub here: Vec<NodeId>,
}

/// Ends it: the last changes are written, and it is said that no user is connected here any more. `false`: it is writing, ask
/// again.
#[derive(Message)]
#[rtype(result = "bool")]
struct End;

/// Ends a cache writer and waits for that, but not for long.
pub(super) async fn end(writer: &Addr<CacheWriter>) {
    let ended = async {
        while let Ok(false) = writer.send(End).await {
            tokio::time::sleep(END_LOOK).await;
        }
    };
    if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
        tracing::warn!("the cache does not answer: what it says of this process's users is forgotten in time");
    }
}

/// What is written, and where. Away from the actor while a round is under way, so that there is one at a time.
struct Writer {
    cache: Arc<dyn Cache>,
    depths: Option<Depths>,
    sessions: Sessions,
}

impl Writer {
    async fn write(&mut self) -> Result<(), CacheUnavailable> {
        if let Some(depths) = &mut self.depths {
            depths.write(&*self.cache).await?;
        }
        self.sessions.write(&*self.cache).await
    }

    /// All is written anew, a round's share at a time.
    fn write_all(&mut self) {
        self.depths.iter_mut().for_each(Depths::note_all);
        self.sessions.renew();
    }

    async fn end(&mut self) -> Result<(), CacheUnavailable> {
        if let Some(depths) = &mut self.depths {
            depths.write(&*self.cache).await?;
        }
        self.sessions.end(&*self.cache).await
    }
}

/// See the module.
pub struct CacheWriter {
    routes: Arc<dyn Routes>,
    gateway: Weak<Gateway>,
    /// `None` while it writes, and after the end.
    writer: Option<Writer>,
    /// The cache was away or emptied.
    has_lost: bool,
    away_until: Option<Instant>,
    is_ending: bool,
}

impl CacheWriter {
    pub(super) fn new(parts: CacheParts) -> Self {
        let CacheParts { cache, routes, gateway, books, users, process } = parts;
        let depths = books.map(|books| Depths::new(books, gateway.clone()));
        let writer = Some(Writer { cache, depths, sessions: Sessions::new(users, process) });
        Self { routes, gateway, writer, has_lost: false, away_until: None, is_ending: false }
    }

    fn listen(&self, ctx: &mut Context<Self>) {
        let routes = Arc::clone(&self.routes);
        let changes = async move { routes.watch().await }.into_actor(self);
        ctx.spawn(changes.map(|changes, writer, ctx| match changes {
            Ok(changes) => {
                ctx.add_stream(changes.into_stream());
                writer.has_lost = true;
            }
            Err(_) => _ = ctx.run_later(AWAY, |writer, ctx| writer.listen(ctx)),
        }));
    }

    fn round(&mut self, ctx: &mut Context<Self>) {
        if self.gateway.strong_count() == 0 {
            ctx.stop();
            return;
        }
        if self.is_ending || self.away_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Some(mut writer) = self.writer.take() else { return };
        if std::mem::take(&mut self.has_lost) {
            writer.write_all();
        }
        let round = async move { (writer.write().await, writer) }.into_actor(self);
        ctx.spawn(round.map(|(written, writer), actor, _| {
            actor.writer = Some(writer);
            actor.note(written);
        }));
    }

    /// Says once that the cache is away, and once that it is there again.
    fn note(&mut self, written: Result<(), CacheUnavailable>) {
        match written {
            Ok(()) => {
                if self.away_until.take().is_some() {
                    tracing::info!("depth and sessions are written to the cache again");
                }
            }
            Err(e) => {
                if self.away_until.replace(Instant::now() + AWAY).is_none() {
                    tracing::warn!(error = %e, "depth and sessions are not written to the cache until it answers");
                }
            }
        }
    }
}

impl Actor for CacheWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.listen(ctx);
        ctx.run_interval(ROUND, Self::round);
    }
}

impl StreamHandler<Change> for CacheWriter {
    fn handle(&mut self, change: Change, _: &mut Self::Context) {
        if change == Change::Resync {
            self.has_lost = true;
        }
    }

    /// The table is gone for good: the process ends.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<End> for CacheWriter {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, _: End, _: &mut Self::Context) -> Self::Result {
        self.is_ending = true;
        let Some(mut writer) = self.writer.take() else { return Box::pin(actix::fut::ready(false)) };
        let ended = async move { writer.end().await }.into_actor(self);
        Box::pin(ended.map(|ended, actor, ctx| {
            actor.note(ended);
            ctx.stop();
            true
        }))
    }
}
