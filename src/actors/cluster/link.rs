//! What one process says to another, over gRPC (`proto/hotbook/v1/peer.proto`).

use std::time::Duration;

use bytes::Bytes;
use tonic::Request;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::actors::book::{CutError, Saved};
use crate::actors::moves::MoveError;
use crate::actors::peers::Following;
use crate::actors::retention::{Kept, Oldest};
use crate::actors::standbys::Followed;
use crate::clock;
use crate::domain::{Digest, Epoch, NodeId, Offset, Seq, Symbol};
use crate::migration::handover::{AbortError, Cause, MoveId};
use crate::migration::replica::Sealed;
use crate::ports::snapshots::SnapshotKey;
use crate::wire::rpc::RpcKey;
use crate::wire::rpc::v1::node_peer_client::NodePeerClient;
use crate::wire::rpc::v1::{
    AbortMoveRequest, BeginMovesRequest, DrainRequest, FollowedBook, FollowedRequest, FollowedResponse, KeptRequest,
    MoveCause, ProbeRequest, ProbeResponse, ReadRequest, ReplicaRequest, SealRequest, StandByRequest, SymbolKept,
    abort_move_response, read_request,
};

/// A process that does not answer a short question by then is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Books of a dead node wait for the answer; without it they are restored, which takes longer.
const FOLLOWED_WITHIN: Duration = Duration::from_millis(300);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Whoever takes a snapshot or lets go of a replica may need longer.
const WORK_WITHIN: Duration = Duration::from_secs(120);
/// An administrator's answer: 5,000 books x about 500 bytes, and room.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a process did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{address} {status}")]
pub struct LinkError {
    pub address: String,
    /// What it said, or why nothing was heard.
    pub status: Box<tonic::Status>,
}

/// What an administrator can ask of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Nodes,
    Books,
    Migrations,
    Decisions,
}

/// What came of asking a process to move a book.
pub type Begun = Result<MoveId, MoveError>;

/// Signs each call anew.
#[derive(Clone)]
struct Sign(RpcKey);

impl Interceptor for Sign {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        let bearer = format!("Bearer {}", self.0.token(clock::now()));
        let value = bearer.parse().map_err(|_| tonic::Status::internal("a token is no header"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// The way to one process. Cheap to clone; connects when it is used, and again when that is lost.
#[derive(Clone)]
pub struct Link {
    address: String,
    client: NodePeerClient<InterceptedService<Channel, Sign>>,
}

impl Link {
    /// `address`: `host:port`. Must be called on the thread that is to carry the connection.
    ///
    /// # Errors
    /// When that is no address.
    pub fn new(address: &str, key: RpcKey) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let client = NodePeerClient::with_interceptor(endpoint.connect_lazy(), Sign(key));
        Ok(Self { address: address.to_owned(), client: client.max_decoding_message_size(ANSWER_BYTES_MAX) })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    fn failed(&self, status: tonic::Status) -> LinkError {
        LinkError { address: self.address.clone(), status: Box::new(status) }
    }

    async fn call<T>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, LinkError> {
        let silent = || tonic::Status::deadline_exceeded(format!("did not answer within {} s", within.as_secs()));
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| self.failed(status)),
            Err(_) => Err(self.failed(silent())),
        }
    }

    fn client(&self) -> NodePeerClient<InterceptedService<Channel, Sign>> {
        self.client.clone()
    }

    /// What a node says of itself that is there.
    ///
    /// # Errors
    /// [`LinkError`]: it is not, or nothing is heard of it.
    pub async fn probe(&self, node: NodeId) -> Result<ProbeResponse, LinkError> {
        let mut client = self.client();
        let answer = client.probe(ProbeRequest { node: node.to_string() });
        self.call(ANSWER_WITHIN, answer).await
    }

    /// # Errors
    /// [`LinkError`]: it may have arrived or not.
    pub async fn seal(&self, symbol: Symbol, from: NodeId, sealed: &Sealed) -> Result<(), LinkError> {
        let request = seal_request(symbol, from, sealed);
        self.call(ANSWER_WITHIN, self.client().seal(request)).await.map(|_| ())
    }

    /// # Errors
    /// [`LinkError`].
    pub async fn follows(&self, node: NodeId, symbol: Symbol) -> Result<Following, LinkError> {
        let answer = self.call(ANSWER_WITHIN, self.client().follows(replica(node, symbol))).await?;
        // One that cannot be read costs the crash path.
        let sealed = answer.sealed.and_then(|sealed| read_seal(&sealed).ok()).filter(|(of, ..)| *of == symbol);
        Ok(Following { follows: answer.follows, sealed: sealed.map(|(.., sealed)| sealed) })
    }

    /// # Errors
    /// [`CutError`].
    pub async fn take_snapshot(&self, node: NodeId, symbol: Symbol) -> Result<Saved, CutError> {
        let saved = self.call(WORK_WITHIN, self.client().take_snapshot(replica(node, symbol))).await;
        let saved = saved.map_err(|e| match e.status.code() {
            tonic::Code::Aborted => CutError::Busy,
            tonic::Code::FailedPrecondition => CutError::NotActive,
            _ => CutError::Store(e.to_string()),
        })?;
        Ok(Saved {
            key: SnapshotKey { symbol, offset: Offset(saved.offset), epoch: Epoch(saved.epoch) },
            bytes: saved.bytes as usize,
            stall_us: saved.stall_us,
            events_position: Offset(saved.events_position),
        })
    }

    /// # Errors
    /// [`LinkError`].
    pub async fn let_go(&self, node: NodeId, symbol: Symbol) -> Result<(), LinkError> {
        self.call(WORK_WITHIN, self.client().let_go(replica(node, symbol))).await.map(|_| ())
    }

    /// Has a node follow these books of `owners`, nodes of this process, and no others of theirs; gives those that it stands
    /// by for now.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn stand_by(
        &self,
        node: NodeId,
        owners: &[NodeId],
        symbols: &[Symbol],
    ) -> Result<Vec<Followed>, LinkError> {
        let symbols = symbols.iter().map(Symbol::to_string).collect();
        let request = StandByRequest { node: node.to_string(), owners: names(owners), symbols };
        self.call(ANSWER_WITHIN, self.client().stand_by(request)).await.map(|answer| read_followed(&answer))
    }

    /// The replicas of books of `owners` that the process has.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn followed(&self, owners: &[NodeId]) -> Result<Vec<Followed>, LinkError> {
        let request = FollowedRequest { owners: names(owners) };
        self.call(FOLLOWED_WITHIN, self.client().followed(request)).await.map(|answer| read_followed(&answer))
    }

    /// Of each symbol that the process knows two kept snapshots of, where the older begins to read.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn kept(&self) -> Result<Oldest, LinkError> {
        let answer = self.call(ANSWER_WITHIN, self.client().kept(KeptRequest {})).await?;
        let kept = |k: &SymbolKept| Kept { orders: Offset(k.orders), events: Offset(k.events) };
        Ok(answer.kept.iter().filter_map(|k| Some((Symbol::new(&k.symbol).ok()?, kept(k)))).collect())
    }

    /// One result for each symbol, in their order.
    ///
    /// # Errors
    /// [`LinkError`]: some may have been begun.
    pub async fn begin_moves(&self, node: NodeId, symbols: &[Symbol], cause: Cause) -> Result<Vec<Begun>, LinkError> {
        let symbols = symbols.iter().map(Symbol::to_string).collect();
        let cause = match cause {
            Cause::Operator => MoveCause::Operator,
            Cause::Load => MoveCause::Load,
            Cause::Drain => MoveCause::Drain,
            Cause::Recovery => MoveCause::Recovery,
        };
        let request = BeginMovesRequest { node: node.to_string(), symbols, cause: cause.into() };
        let begun = self.call(WORK_WITHIN, self.client().begin_moves(request)).await?;
        let result = |m: crate::wire::rpc::v1::MoveBegun| match m.id {
            0 => Err(MoveError::from_code(&m.code)),
            id => Ok(MoveId(id)),
        };
        Ok(begun.moves.into_iter().map(result).collect())
    }

    /// `None`: it does not know such a move.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn abort_move(&self, id: MoveId) -> Result<Option<Result<(), AbortError>>, LinkError> {
        use abort_move_response::Outcome;
        let answer = self.call(ANSWER_WITHIN, self.client().abort_move(AbortMoveRequest { id: id.0 })).await?;
        Ok(match answer.outcome() {
            Outcome::UnknownMove => None,
            Outcome::Aborting => Some(Ok(())),
            Outcome::TooLate => Some(Err(AbortError::TooLate)),
            Outcome::Ended => Some(Err(AbortError::Ended)),
        })
    }

    /// Books that are still to leave.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn drain(&self, node: NodeId) -> Result<usize, LinkError> {
        let answer = self.call(ANSWER_WITHIN, self.client().drain(DrainRequest { node: node.to_string() })).await?;
        Ok(answer.books as usize)
    }

    /// A JSON array of what this process would answer an administrator.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn read(&self, what: Read) -> Result<Bytes, LinkError> {
        use read_request::What;
        let what = match what {
            Read::Nodes => What::Nodes,
            Read::Books => What::Books,
            Read::Migrations => What::Migrations,
            Read::Decisions => What::Decisions,
        };
        Ok(self.call(ANSWER_WITHIN, self.client().read(ReadRequest { what: what.into() })).await?.json)
    }
}

/// A Sealed as processes tell each other.
pub fn seal_request(symbol: Symbol, from: NodeId, sealed: &Sealed) -> SealRequest {
    SealRequest {
        symbol: symbol.to_string(),
        from: from.to_string(),
        to: sealed.to.to_string(),
        epoch: sealed.epoch.0,
        offset: sealed.offset.0,
        seq: sealed.seq.0,
        digest: Bytes::copy_from_slice(&sealed.digest.0.to_le_bytes()),
    }
}

/// Of which book it is, whose, and what it says.
///
/// # Errors
/// The field that is none.
pub fn read_seal(request: &SealRequest) -> Result<(Symbol, NodeId, Sealed), &'static str> {
    let name = |text: &str, field| NodeId::new(text).map_err(|_| field);
    let digest = <[u8; 16]>::try_from(&request.digest[..]).map_err(|_| "digest")?;
    let sealed = Sealed {
        epoch: Epoch(request.epoch),
        offset: Offset(request.offset),
        seq: Seq(request.seq),
        digest: Digest(u128::from_le_bytes(digest)),
        to: name(&request.to, "to")?,
    };
    Ok((Symbol::new(&request.symbol).map_err(|_| "symbol")?, name(&request.from, "from")?, sealed))
}

/// Followed books as processes tell each other.
pub fn followed_response(followed: Vec<Followed>) -> FollowedResponse {
    let told = |f: Followed| FollowedBook {
        symbol: f.symbol.to_string(),
        node: f.node.to_string(),
        lag: f.lag,
        level: f.is_level,
    };
    FollowedResponse { books: followed.into_iter().map(told).collect() }
}

/// What cannot be read is left out: it costs time.
fn read_followed(told: &FollowedResponse) -> Vec<Followed> {
    let book = |b: &FollowedBook| {
        let (symbol, node) = (Symbol::new(&b.symbol).ok()?, NodeId::new(&b.node).ok()?);
        Some(Followed { symbol, node, lag: b.lag, is_level: b.level })
    };
    told.books.iter().filter_map(book).collect()
}

fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

fn replica(node: NodeId, symbol: Symbol) -> ReplicaRequest {
    ReplicaRequest { node: node.to_string(), symbol: symbol.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_is_read_as_it_was_told_and_a_broken_one_is_named() {
        let (symbol, from, to) = (Symbol::new("A").unwrap(), NodeId::new("n1").unwrap(), NodeId::new("n2").unwrap());
        let (epoch, offset, seq, digest) = (Epoch(3), Offset(7), Seq(9), Digest(1 << 100 | 5));
        let sealed = Sealed { epoch, offset, seq, digest, to };
        let told = seal_request(symbol, from, &sealed);
        assert_eq!(read_seal(&told), Ok((symbol, from, sealed)));
        assert_eq!(read_seal(&SealRequest { digest: Bytes::from_static(b"short"), ..told.clone() }), Err("digest"));
        assert_eq!(read_seal(&SealRequest { to: String::new(), ..told.clone() }), Err("to"));
        assert_eq!(read_seal(&SealRequest { symbol: "a b".into(), ..told }), Err("symbol"));
    }

    #[test]
    fn followed_books_are_read_as_they_were_told_and_what_cannot_be_read_is_left_out() {
        let (symbol, node) = (Symbol::new("A").unwrap(), NodeId::new("n1").unwrap());
        let followed = vec![Followed { symbol, node, lag: 3, is_level: true }];
        let mut told = followed_response(followed.clone());
        told.books.push(FollowedBook { symbol: "a b".into(), ..told.books[0].clone() });
        told.books.push(FollowedBook { node: String::new(), ..told.books[0].clone() });
        assert_eq!(read_followed(&told), followed);
    }
}
