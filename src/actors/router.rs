//! The router: nobody who sends an order needs to know where the book is.
//!
//! Every command passes its core, [`RouterCore`], which any thread calls in place (docs/adr/0005). The actor, [`Router`], one per
//! process, keeps the route table current beside that path, in both directions. What the log says goes to the table: the
//! rows of symbols as they are met, and those of the process's own books, again and again ([`Rows`]). What the table says goes
//! to a process without nodes, which does not read in the log who owns what. Changes are heard as they are made; reading
//! all of it is the safety net.

mod admission;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use futures_util::stream;

use super::node::NodeContext;
use super::owners::Owners;
use crate::domain::Symbol;
use crate::ports::routes::{Change, Route, Routes, RoutesError};
pub(super) use admission::CoreParts;
pub use admission::{Lags, Refusal, RouterCore, Submit};
use rows::Rows;

/// How often the table is looked at: one row of each node, each time another's.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a process without nodes reads all of it though it heard of nothing.
const READ_EVERY: Duration = Duration::from_secs(10);
/// Rows entered at once.
const ENTERED_AT_ONCE: usize = 64;
/// Messages that may wait; of what does not fit, the process that owns the book tells the table later.
const MAILBOX: usize = 1_024;

/// Rows of symbols that were met in the log.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Enter(pub Vec<(Symbol, Route)>);

/// The nodes of the process: the rows of their books are kept true from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Mend(pub Vec<Arc<NodeContext>>);

/// See the module.
pub(super) struct Router {
    routes: Arc<dyn Routes>,
    /// Told what the table says; `None` in a process with nodes.
    owners: Option<Arc<Owners>>,
    nodes: Vec<(Arc<NodeContext>, Arc<Rows>)>,
    /// One row for each symbol at most.
    entering: HashMap<Symbol, Route>,
    is_entering: bool,
    is_mending: bool,
    is_reading: bool,
    /// When all of the table is to be read.
    read_at: Instant,
}

impl Router {
    /// `owners`: to be told what the table says, in a process without nodes.
    pub fn new(routes: Arc<dyn Routes>, owners: Option<Arc<Owners>>) -> Self {
        Self {
            routes,
            owners,
            nodes: Vec::new(),
            entering: HashMap::new(),
            is_entering: false,
            is_mending: false,
            is_reading: false,
            read_at: Instant::now(),
        }
    }

    /// Listens to the table, then looks at what it held before.
    fn listen(&self, ctx: &mut Context<Self>) {
        let routes = Arc::clone(&self.routes);
        let changes = async move { routes.watch().await }.into_actor(self);
        ctx.spawn(changes.map(|changes, router, ctx| match changes {
            Ok(changes) => {
                ctx.add_stream(changes.into_stream());
                router.distrust(ctx);
            }
            Err(e) => {
                tracing::debug!(error = %e, "the route table cannot be listened to");
                ctx.run_later(LOOK_EVERY, |router, ctx| router.listen(ctx));
            }
        }));
    }

    /// Something of the table was missed, or it has lost something.
    fn distrust(&mut self, ctx: &mut Context<Self>) {
        self.read_at = Instant::now();
        self.nodes.iter().for_each(|(_, rows)| rows.distrust());
        self.look(ctx);
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.read(ctx);
        self.mend(ctx);
    }

    /// Reads all of the table if that is due.
    fn read(&mut self, ctx: &mut Context<Self>) {
        let Some(owners) = self.owners.clone().filter(|_| self.read_at <= Instant::now()) else { return };
        if std::mem::replace(&mut self.is_reading, true) {
            return;
        }
        // Before it is read: should it be distrusted meanwhile, it is read once more.
        self.read_at = Instant::now() + READ_EVERY;
        let routes = Arc::clone(&self.routes);
        let rows = async move { routes.all().await }.into_actor(self);
        ctx.spawn(rows.map(move |rows, router, _| {
            router.is_reading = false;
            match rows {
                Ok(rows) => owners.learn(&rows),
                Err(e) => {
                    tracing::debug!(error = %e, "the route table cannot be read");
                    router.read_at = Instant::now();
                }
            }
        }));
    }

    fn mend(&mut self, ctx: &mut Context<Self>) {
        let alive = self.nodes.iter().filter(|(node, _)| node.is_alive());
        let nodes: Vec<_> = alive.map(|(node, rows)| (Arc::clone(node), Arc::clone(rows))).collect();
        if nodes.is_empty() || std::mem::replace(&mut self.is_mending, true) {
            return;
        }
        let mended = nodes.into_iter().map(|(node, rows)| async move { rows.mend(&node.statuses()).await });
        ctx.spawn(join_all(mended).into_actor(self).map(|_, router, _| router.is_mending = false));
    }

    fn enter(&mut self, ctx: &mut Context<Self>) {
        if self.entering.is_empty() || std::mem::replace(&mut self.is_entering, true) {
            return;
        }
        let rows = std::mem::take(&mut self.entering);
        let entered = enter_all(Arc::clone(&self.routes), rows).into_actor(self);
        ctx.spawn(entered.map(|entered, router, ctx| {
            router.is_entering = false;
            if let Err(e) = entered {
                tracing::warn!(error = %e, "rows not written; the nodes of the books tell them once the table is there");
            }
            router.enter(ctx);
        }));
    }
}

/// Stops at the first row that is not written.
async fn enter_all(routes: Arc<dyn Routes>, rows: HashMap<Symbol, Route>) -> Result<(), RoutesError> {
    let rows = stream::iter(rows.into_iter().map(Ok));
    rows.try_for_each_concurrent(ENTERED_AT_ONCE, |(symbol, row)| {
        let routes = &routes;
        async move { routes.learn(symbol, row).await.map(|_| ()) }
    })
    .await
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.listen(ctx);
        self.look(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl StreamHandler<Change> for Router {
    fn handle(&mut self, change: Change, ctx: &mut Self::Context) {
        match (change, &self.owners) {
            (Change::Row { symbol, route }, Some(owners)) => owners.learn(&[(symbol, route)]),
            (Change::Row { .. }, None) => {}
            (Change::Resync, _) => self.distrust(ctx),
        }
    }

    /// The table is gone for good: the process ends.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Enter> for Router {
    type Result = ();

    fn handle(&mut self, Enter(rows): Enter, ctx: &mut Self::Context) {
        for (symbol, row) in rows {
            let entering = self.entering.entry(symbol).or_insert(row);
            if row.epoch > entering.epoch {
                *entering = row;
            }
        }
        self.enter(ctx);
    }
}

impl Handler<Mend> for Router {
    type Result = ();

    fn handle(&mut self, Mend(nodes): Mend, ctx: &mut Self::Context) {
        let rows = |node: &Arc<NodeContext>| Arc::new(Rows::new(Arc::clone(&self.routes), node.id));
        self.nodes = nodes.into_iter().map(|node| (Arc::clone(&node), rows(&node))).collect();
        self.mend(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Epoch, NodeId};
    use crate::ports::routes::local::LocalRoutes;
    use crate::ports::routes::{CHANGES_MAX, RouteStatus};

    fn row(node: &str, epoch: u64) -> Route {
        let target_instance = NodeId::new(node).unwrap();
        Route { target_instance, status: RouteStatus::Active, epoch: Epoch(epoch), partition: 3, to: None }
    }

    async fn until(what: &str, done: impl AsyncFn() -> bool) {
        let wait = async {
            while !done().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    #[actix_rt::test]
    async fn what_the_table_says_is_told_as_it_changes_and_all_of_it_when_some_was_missed() {
        let (routes, owners) = (Arc::new(LocalRoutes::default()), Arc::new(Owners::default()));
        let [a, b] = ["A", "B"].map(|name| Symbol::new(name).unwrap());
        let owner = |symbol| owners.get(&symbol).map(|o: crate::actors::owners::Owner| (o.node, o.epoch.0));
        let told = |node: &str, epoch| Some((NodeId::new(node).unwrap(), epoch));
        routes.learn(a, row("n1", 1)).await.unwrap();
        let table = Arc::clone(&routes) as Arc<dyn Routes>;
        let router = Router::new(table, Some(Arc::clone(&owners))).start();
        until("what it held before", async || owner(a) == told("n1", 1)).await;
        let began = Instant::now();
        for epoch in 2..50 {
            routes.learn(a, row("n2", epoch)).await.unwrap();
            until("a change", async || owner(a) == told("n2", epoch)).await;
        }
        assert!(began.elapsed() < READ_EVERY, "they were heard, not read: {:?}", began.elapsed());
        // Written without a word; and then more is said at once than a listener may be behind.
        routes.overwrite(b, row("n3", 7));
        for epoch in 50..=50 + CHANGES_MAX as u64 {
            routes.learn(a, row("n2", epoch)).await.unwrap();
        }
        assert_eq!(owner(b), None);
        until("a change that was missed", async || owner(b) == told("n3", 7)).await;
        assert!(began.elapsed() < READ_EVERY, "it was told to read: {:?}", began.elapsed());
        drop(router);
    }

    #[actix_rt::test]
    async fn rows_that_were_met_are_entered_and_the_newest_of_a_symbol_wins() {
        let routes = Arc::new(LocalRoutes::default());
        let router = Router::new(Arc::clone(&routes) as Arc<dyn Routes>, None).start();
        let symbol = |n: u64| Symbol::new(&format!("S{n}")).unwrap();
        let rows = |epoch| (0..500).map(|n| (symbol(n), row("n1", epoch))).collect::<Vec<_>>();
        router.send(Enter([rows(3), rows(2)].concat())).await.unwrap();
        router.send(Enter(rows(1))).await.unwrap();
        until("all rows", async || routes.all().await.unwrap().len() == 500).await;
        assert!(routes.all().await.unwrap().iter().all(|(_, r)| *r == row("n1", 3)));
    }
}
