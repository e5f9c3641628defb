//! `hotbook.v1.OrderBookEngine`.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::actors::book::CutError;
use crate::actors::exchange::Exchange;
use crate::actors::shadows::{ShadowError, Source};
use crate::domain::output;
use crate::domain::{NodeId, Price, Symbol};
use crate::migration::snapshot::SnapshotHeader;
use crate::wire::client::decimal;
use crate::wire::rpc::v1::order_book_engine_server::OrderBookEngine;
use crate::wire::rpc::v1::{
    GetOrderBookRequest, GetOrderBookResponse, Level, RemoveOrderBookRequest, RemoveOrderBookResponse,
    RestoreOrderBookRequest, RestoreOrderBookResponse, SnapshotOrderBookRequest, SnapshotOrderBookResponse,
    restore_order_book_request,
};

/// Levels of each side without `depth`, and the most there are: as in `GET /orderbook`.
const DEPTH_DEFAULT: usize = 20;
const DEPTH_MAX: usize = 1_000;

pub(super) struct Engine {
    exchange: Arc<Exchange>,
}

impl Engine {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
    }

    fn symbol(&self, text: &str) -> Result<Symbol, Status> {
        let symbol = Symbol::new(text).map_err(|e| Status::invalid_argument(format!("the symbol {e}")))?;
        match self.exchange.gateway().mirrors().instrument(&symbol) {
            Some(_) => Ok(symbol),
            None => Err(Status::not_found(format!("unknown_symbol: {symbol} is not listed"))),
        }
    }

    async fn snapshot(&self, request: &SnapshotOrderBookRequest) -> Result<SnapshotOrderBookResponse, Status> {
        let symbol = self.symbol(&request.symbol)?;
        let saved = self.exchange.snapshot(symbol).await.map_err(cut_error)?;
        let file = self.exchange.snapshots().get(saved.key).await;
        let file = file.map_err(|e| Status::unavailable(e.to_string()))?;
        let header = SnapshotHeader::decode(&file).map_err(|e| Status::internal(e.to_string()))?;
        Ok(SnapshotOrderBookResponse {
            symbol: symbol.to_string(),
            key: saved.key.path(),
            offset: header.offset.0,
            epoch: header.epoch.0,
            seq: header.seqs.last.0,
            state_digest: header.digest.to_string(),
            bytes: file.len() as u64,
            data: if request.include_data { file } else { Bytes::new() },
        })
    }

    async fn restore(&self, request: RestoreOrderBookRequest) -> Result<RestoreOrderBookResponse, Status> {
        let symbol = self.symbol(&request.symbol)?;
        let source = match request.source {
            Some(restore_order_book_request::Source::Data(data)) => Source::Data(data),
            Some(restore_order_book_request::Source::Key(key)) => Source::Key(key),
            None => return Err(Status::invalid_argument("data or key is needed")),
        };
        let restored = self.exchange.restore_shadow(symbol, node(&request.node)?, source).await;
        let restored = restored.map_err(shadow_error)?;
        Ok(RestoreOrderBookResponse {
            symbol: symbol.to_string(),
            node: restored.node.to_string(),
            offset: restored.offset.0,
            epoch: restored.epoch.0,
            seq: restored.seq.0,
            state_digest: restored.digest.to_string(),
        })
    }

    async fn remove(&self, request: &RemoveOrderBookRequest) -> Result<RemoveOrderBookResponse, Status> {
        let symbol = self.symbol(&request.symbol)?;
        let on = self.exchange.remove_shadow(symbol, node(&request.node)?).await.map_err(shadow_error)?;
        Ok(RemoveOrderBookResponse { symbol: symbol.to_string(), node: on.to_string() })
    }

    async fn book(&self, request: &GetOrderBookRequest) -> Result<GetOrderBookResponse, Status> {
        let symbol = self.symbol(&request.symbol)?;
        let depth = if request.depth == 0 { DEPTH_DEFAULT } else { DEPTH_MAX.min(request.depth as usize) };
        let unknown = || Status::not_found(format!("unknown_symbol: {symbol} is not listed"));
        let owner = self.exchange.owner(&symbol).await.ok_or_else(unknown)?;
        let view = self.exchange.gateway().mirrors().depth(&symbol, depth).ok_or_else(unknown)?;
        let price = |p: Price| decimal_text(p, view.price_scale);
        let level =
            |l: &output::Level| Level { price: price(l.price), quantity: l.quantity, orders: u64::from(l.orders) };
        Ok(GetOrderBookResponse {
            symbol: symbol.to_string(),
            seq: view.seq.0,
            epoch: owner.epoch.0,
            bids: view.bids.iter().map(level).collect(),
            asks: view.asks.iter().map(level).collect(),
            last_price: view.last_trade.map(|(p, _)| price(p)).unwrap_or_default(),
            last_quantity: view.last_trade.map(|(_, q)| q.0).unwrap_or_default(),
            node: owner.node.to_string(),
        })
    }
}

fn decimal_text(price: Price, scale: u8) -> String {
    let mut text = String::new();
    decimal::write(price.0, scale, &mut text);
    text
}

fn node(text: &str) -> Result<Option<NodeId>, Status> {
    match text {
        "" => Ok(None),
        text => NodeId::new(text).map(Some).map_err(|e| Status::invalid_argument(format!("the node {e}"))),
    }
}

fn cut_error(e: CutError) -> Status {
    match e {
        CutError::NotActive => Status::unavailable(e.to_string()),
        CutError::Busy => Status::aborted(e.to_string()),
        CutError::Store(_) => Status::unavailable(e.to_string()),
    }
}

/// docs/grpc.md has this table.
fn shadow_error(e: ShadowError) -> Status {
    let what = e.to_string();
    match e {
        ShadowError::UnknownSymbol
        | ShadowError::UnknownNode
        | ShadowError::NotThere { .. }
        | ShadowError::NoSnapshot { .. } => Status::not_found(what),
        ShadowError::Owner { .. }
        | ShadowError::StandsBy { .. }
        | ShadowError::NotOfTheLog
        | ShadowError::Unverifiable { .. } => Status::failed_precondition(what),
        ShadowError::AlreadyThere { .. } => Status::already_exists(what),
        ShadowError::BadKey { .. } | ShadowError::BadSnapshot(_) | ShadowError::OtherSymbol { .. } => {
            Status::invalid_argument(what)
        }
        ShadowError::Log(_) | ShadowError::Store(_) | ShadowError::Failed { .. } => Status::unavailable(what),
    }
}

#[tonic::async_trait]
impl OrderBookEngine for Engine {
    async fn snapshot_order_book(
        &self,
        request: Request<SnapshotOrderBookRequest>,
    ) -> Result<Response<SnapshotOrderBookResponse>, Status> {
        self.snapshot(request.get_ref()).await.map(Response::new)
    }

    async fn restore_order_book(
        &self,
        request: Request<RestoreOrderBookRequest>,
    ) -> Result<Response<RestoreOrderBookResponse>, Status> {
        self.restore(request.into_inner()).await.map(Response::new)
    }

    async fn remove_order_book(
        &self,
        request: Request<RemoveOrderBookRequest>,
    ) -> Result<Response<RemoveOrderBookResponse>, Status> {
        self.remove(request.get_ref()).await.map(Response::new)
    }

    async fn get_order_book(
        &self,
        request: Request<GetOrderBookRequest>,
    ) -> Result<Response<GetOrderBookResponse>, Status> {
        self.book(request.get_ref()).await.map(Response::new)
    }
}
