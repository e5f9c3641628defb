//! The route table of one process.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::RwLock;

use super::{Route, Routes, RoutesError};
use crate::domain::Symbol;

/// A map behind a lock; gone with the process, and filled again from the log.
#[derive(Debug, Default)]
pub struct LocalRoutes {
    table: RwLock<BTreeMap<Symbol, Route>>,
}

impl Routes for LocalRoutes {
    fn get(&self, symbol: Symbol) -> BoxFuture<'_, Result<Option<Route>, RoutesError>> {
        ready(Ok(self.table.read().get(&symbol).copied())).boxed()
    }

    fn set(&self, symbol: Symbol, route: Route) -> BoxFuture<'_, Result<(), RoutesError>> {
        let mut table = self.table.write();
        let have = table.get(&symbol).map(|r| r.epoch);
        let result = match have {
            Some(have) if have > route.epoch => Err(RoutesError::Older { symbol, have, offered: route.epoch }),
            _ => {
                table.insert(symbol, route);
                Ok(())
            }
        };
        ready(result).boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(Symbol, Route)>, RoutesError>> {
        ready(Ok(self.table.read().iter().map(|(s, r)| (*s, *r)).collect())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RouteStatus;
    use super::*;
    use crate::domain::{Epoch, NodeId};

    #[test]
    fn an_epoch_never_goes_back() {
        let routes = LocalRoutes::default();
        let symbol = Symbol::new("TSLA").unwrap();
        let route = |node: &str, epoch| Route {
            target_instance: NodeId::new(node).unwrap(),
            status: RouteStatus::Active,
            epoch: Epoch(epoch),
            partition: 3,
            to: None,
        };
        let set = |r| routes.set(symbol, r).now_or_never().unwrap();
        set(route("n1", 1)).unwrap();
        set(Route { status: RouteStatus::Migrating, ..route("n1", 1) }).unwrap();
        set(route("n2", 2)).unwrap();
        assert!(matches!(set(route("n1", 1)), Err(RoutesError::Older { have: Epoch(2), offered: Epoch(1), .. })));
        assert_eq!(routes.get(symbol).now_or_never().unwrap().unwrap(), Some(route("n2", 2)));
        assert_eq!(routes.all().now_or_never().unwrap().unwrap(), vec![(symbol, route("n2", 2))]);
    }
}
