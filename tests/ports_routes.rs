//! The routes of one process keep the port's contract.

mod common {
    pub mod routes_contract;
}

use std::sync::Arc;

use common::routes_contract::Bench;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use hotbook::ports::routes::Routes;
use hotbook::ports::routes::local::LocalRoutes;

#[derive(Default)]
struct Local(Arc<LocalRoutes>);

impl Bench for Local {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Routes>> {
        let routes: Arc<dyn Routes> = Arc::clone(&self.0) as _;
        ready(routes).boxed()
    }

    fn wipe(&mut self) -> BoxFuture<'_, ()> {
        self.0.clear();
        ready(()).boxed()
    }
}

routes_contract!(Local::default());
