//! `hotbook.v1.NodePeer`: what other processes of the cluster ask of the nodes of this one.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::actors::book::CutError;
use crate::actors::cluster::{Read, followed_response, read_seal, seal_request};
use crate::actors::exchange::Exchange;
use crate::actors::fleet::{DrainError, RunningNode};
use crate::actors::moves::MoveError;
use crate::actors::peers::Following;
use crate::api::gathered;
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::{AbortError, Cause, MoveId};
use crate::wire::rpc::v1::node_peer_server::NodePeer;
use crate::wire::rpc::v1::{
    AbortMoveRequest, AbortMoveResponse, BeginMovesRequest, BeginMovesResponse, DrainRequest, DrainResponse,
    FollowedRequest, FollowedResponse, FollowsResponse, KeptRequest, KeptResponse, LetGoResponse, MoveBegun, MoveCause,
    ProbeRequest, ProbeResponse, ReadRequest, ReadResponse, ReplicaRequest, SealRequest, SealResponse, StandByRequest,
    SymbolKept, TakeSnapshotResponse, abort_move_response, read_request,
};

pub(super) struct Peer {
    exchange: Arc<Exchange>,
}

impl Peer {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
    }

    /// A node of this process that is alive.
    fn node(&self, text: &str) -> Result<&RunningNode, Status> {
        let not_here = || Status::not_found(format!("node {text} is not of this process"));
        let node = NodeId::new(text).ok().and_then(|id| self.exchange.fleet().get(&id)).ok_or_else(not_here)?;
        if node.context.is_alive() { Ok(node) } else { Err(Status::unavailable(format!("node {text} is down"))) }
    }

    fn begin(&self, to: NodeId, text: &str, cause: Cause) -> MoveBegun {
        let begun = match Symbol::new(text) {
            Ok(symbol) => self.exchange.moves().begin(symbol, to, cause),
            Err(_) => Err(MoveError::UnknownSymbol),
        };
        match begun {
            Ok(id) => MoveBegun { id: id.0, code: String::new() },
            Err(e) => MoveBegun { id: 0, code: e.code().into() },
        }
    }
}

fn nodes(texts: &[String]) -> Result<Vec<NodeId>, Status> {
    let node = |text: &String| NodeId::new(text).map_err(|e| Status::invalid_argument(format!("a node's name {e}")));
    texts.iter().map(node).collect()
}

fn symbol(text: &str) -> Result<Symbol, Status> {
    Symbol::new(text).map_err(|e| Status::invalid_argument(format!("the symbol {e}")))
}

#[tonic::async_trait]
impl NodePeer for Peer {
    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let node = self.node(&request.get_ref().node)?;
        let log_lost = self.exchange.members().log_is_lost();
        Ok(Response::new(ProbeResponse { incarnation: node.context.incarnation, log_lost }))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        self.node(&request.get_ref().to)?;
        let (symbol, from, sealed) = read_seal(request.get_ref()).map_err(Status::invalid_argument)?;
        self.exchange.peers().take_sealed(symbol, from, sealed);
        Ok(Response::new(SealResponse {}))
    }

    async fn follows(&self, request: Request<ReplicaRequest>) -> Result<Response<FollowsResponse>, Status> {
        let node = self.node(&request.get_ref().node)?;
        let (id, symbol) = (node.context.id, symbol(&request.get_ref().symbol)?);
        let Following { follows, sealed } = self.exchange.peers().ask_follows(id, symbol).await;
        Ok(Response::new(FollowsResponse { follows, sealed: sealed.map(|s| seal_request(symbol, id, &s)) }))
    }

    async fn take_snapshot(&self, request: Request<ReplicaRequest>) -> Result<Response<TakeSnapshotResponse>, Status> {
        let of = self.node(&request.get_ref().node)?.context.id;
        let saved = self.exchange.moves().snapshot(of, symbol(&request.get_ref().symbol)?).await;
        let saved = saved.unwrap_or(Err(CutError::NotActive)).map_err(|e| match e {
            CutError::Busy => Status::aborted(e.to_string()),
            CutError::NotActive => Status::failed_precondition(e.to_string()),
            CutError::Store(why) => Status::unavailable(why),
        })?;
        Ok(Response::new(TakeSnapshotResponse {
            offset: saved.key.offset.0,
            epoch: saved.key.epoch.0,
            bytes: saved.bytes as u64,
            stall_us: saved.stall_us,
            events_position: saved.events_position.0,
        }))
    }

    async fn let_go(&self, request: Request<ReplicaRequest>) -> Result<Response<LetGoResponse>, Status> {
        let of = self.node(&request.get_ref().node)?.context.id;
        self.exchange.moves().let_replica_go(&of, symbol(&request.get_ref().symbol)?).await;
        Ok(Response::new(LetGoResponse {}))
    }

    async fn stand_by(&self, request: Request<StandByRequest>) -> Result<Response<FollowedResponse>, Status> {
        let request = request.get_ref();
        let node = self.node(&request.node)?.context.id;
        let symbols = request.symbols.iter().map(|text| symbol(text)).collect::<Result<Vec<_>, _>>()?;
        let followed = self.exchange.fleet().stand_by(node, &nodes(&request.owners)?, &symbols);
        Ok(Response::new(followed_response(followed)))
    }

    async fn followed(&self, request: Request<FollowedRequest>) -> Result<Response<FollowedResponse>, Status> {
        let owners = nodes(&request.get_ref().owners)?;
        Ok(Response::new(followed_response(self.exchange.fleet().followed(&owners))))
    }

    async fn kept(&self, _: Request<KeptRequest>) -> Result<Response<KeptResponse>, Status> {
        let kept = self.exchange.retention().oldest().into_iter().map(|(symbol, kept)| SymbolKept {
            symbol: symbol.to_string(),
            orders: kept.orders.0,
            events: kept.events.0,
        });
        Ok(Response::new(KeptResponse { kept: kept.collect() }))
    }

    async fn begin_moves(&self, request: Request<BeginMovesRequest>) -> Result<Response<BeginMovesResponse>, Status> {
        let request = request.get_ref();
        let to = self.node(&request.node)?.context.id;
        let cause = match request.cause() {
            MoveCause::Operator => Cause::Operator,
            MoveCause::Load => Cause::Load,
            MoveCause::Drain => Cause::Drain,
            MoveCause::Recovery => Cause::Recovery,
            MoveCause::Unspecified => return Err(Status::invalid_argument("cause")),
        };
        let moves = request.symbols.iter().map(|text| self.begin(to, text, cause)).collect();
        Ok(Response::new(BeginMovesResponse { moves }))
    }

    async fn abort_move(&self, request: Request<AbortMoveRequest>) -> Result<Response<AbortMoveResponse>, Status> {
        use abort_move_response::Outcome;
        let outcome = match self.exchange.moves().abort(MoveId(request.get_ref().id)) {
            None => Outcome::UnknownMove,
            Some(Ok(())) => Outcome::Aborting,
            Some(Err(AbortError::TooLate)) => Outcome::TooLate,
            Some(Err(AbortError::Ended)) => Outcome::Ended,
        };
        Ok(Response::new(AbortMoveResponse { outcome: outcome.into() }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let node = self.node(&request.get_ref().node)?;
        let books = self.exchange.fleet().drain(&node.context.id).map_err(|e| match e {
            DrainError::LastNode => Status::failed_precondition(e.to_string()),
            e => Status::not_found(e.to_string()),
        })?;
        Ok(Response::new(DrainResponse { books: books as u64 }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        use read_request::What;
        let what = match request.get_ref().what() {
            What::Nodes => Read::Nodes,
            What::Books => Read::Books,
            What::Migrations => Read::Migrations,
            What::Decisions => Read::Decisions,
            What::Unspecified => return Err(Status::invalid_argument("what")),
        };
        let json = serde_json::to_vec(&gathered::mine(&self.exchange, what));
        Ok(Response::new(ReadResponse { json: Bytes::from(json.map_err(|e| Status::internal(e.to_string()))?) }))
    }
}
