//! Symbols that take ADD and REPLACE only from the exchange's own gateways: what other programs on the log can do there.

mod common;
#[path = "common/embedded.rs"]
mod embedded;

use bytes::Bytes;
use common::*;
use hotbook::cli::audit;
use hotbook::domain::command::{Listing, Signed, SignedOrder};
use hotbook::domain::control::Stamp;
use hotbook::domain::{
    Admission, Authority, Command, Epoch, Input, Instrument, Machine, Micros, NewOrder, NodeId, Offset, OrderId,
    Origin, Outbox, Output, OutputBody, Price, Seqs, Side, Symbol, UserId,
};
use hotbook::engine::Book;
use hotbook::ports::log::{NewRecord, Record, SessionOptions, Topic, TopicPartition, partition_of};
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::wire::{self, Keyring};
use serde_json::{Value, json};

const SECRET: &str = "admission";

fn order(user: &str, id: &str, side: Side, price: u64) -> NewOrder {
    NewOrder { user: UserId::new(user).unwrap(), ..embedded::order(id, side, price, 1) }
}

fn replace(user: &str, id: &str, price: u64) -> SignedOrder {
    let (user, order_id) = (UserId::new(user).unwrap(), OrderId::new(id).unwrap());
    SignedOrder::Replace { user, order_id, price: Some(Price(price)), quantity: None }
}

/// A book alone. What it says is its answer's reason, or the order's status.
struct Alone {
    book: Book,
    out: Outbox,
    at: u64,
}

impl Alone {
    fn listed(admission: Admission, rules_version: u32) -> Option<Self> {
        let instrument = Instrument { admission, ..Instrument::plain(2, 1, 1) };
        let listing = Box::new(Listing { instrument, owner: NodeId::new("n1").unwrap(), id_key: 7, rules_version });
        let authority = Authority { nonce: 1, valid_until: Micros(9) };
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        let list = input(0, Command::List { listing, authority });
        Some(Self { book: Book::birth(&list, &mut out)?, out, at: 0 })
    }

    fn say(&mut self, command: Command) -> String {
        self.out.clear();
        self.book.apply(&input(self.at, command), &mut self.out);
        let outputs: Vec<Output> = Output::decode_all(self.out.bytes()).map(Result::unwrap).collect();
        match &outputs.iter().find(|o| o.answer).unwrap().body {
            OutputBody::Refused { reason, .. } => reason.code().to_owned(),
            OutputBody::Order(o) => o.status.as_str().to_owned(),
            OutputBody::RulesSet { version } => format!("rules {version}"),
            other => panic!("{other:?}"),
        }
    }

    fn sign(&mut self, order: SignedOrder, gateway: u64, number: u64, valid_until: u64) -> String {
        let stamp = Stamp { gateway, number, valid_until: Micros(valid_until) };
        self.say(Command::Signed(Box::new(Signed { stamp, order })))
    }

    fn price_of(&self, id: &str) -> u64 {
        let orders = self.book.open_orders();
        orders.iter().find(|o| o.order_id.as_str() == id).unwrap().price.unwrap().0
    }
}

fn input(at: u64, command: Command) -> Input<Command> {
    Input { offset: Offset(at), at: Micros(at), origin: Origin::NONE, command }
}

#[test]
fn an_unsigned_order_is_refused_and_uses_up_nothing() {
    let mut book = Alone::listed(Admission::Gateway, 2).unwrap();
    let add = order("alice", "a", Side::Buy, 100);
    let digest = book.book.digest();
    assert_eq!(book.say(Command::Add(add)), "gateway_only");
    assert_eq!(book.book.digest(), digest, "not even its id");
    assert_eq!(book.sign(SignedOrder::Add(add), 1, 1, 50), "NEW");
    assert_eq!(book.say(replace("alice", "a", 101).command()), "gateway_only");
    assert_eq!(book.price_of("a"), 100);
    assert_eq!(book.sign(replace("alice", "a", 101), 1, 2, 50), "NEW");
    assert_eq!(book.price_of("a"), 101);
    assert_eq!(book.say(Command::Cancel { user: add.user, order_id: add.order_id }), "CANCELED", "cancels are open");
}

#[test]
fn a_signed_order_is_good_once_and_in_time() {
    let mut book = Alone::listed(Admission::Gateway, 2).unwrap();
    let add = SignedOrder::Add(order("alice", "a", Side::Buy, 100));
    assert_eq!(book.sign(add, 1, 1, 50), "NEW");
    assert_eq!(book.sign(replace("alice", "a", 101), 1, 2, 50), "NEW");
    assert_eq!(book.sign(replace("alice", "a", 102), 1, 3, 50), "NEW");
    // Played again, through a snapshot as well, the older one undoes nothing.
    let mut bytes = Vec::new();
    book.book.encode(&mut bytes);
    let restored = Book::decode(&bytes).unwrap();
    assert_eq!(restored.digest(), book.book.digest());
    for of in [book.book.clone(), restored] {
        let mut book = Alone { book: of, out: Outbox::new(Seqs::default(), Epoch(0)), at: 1 };
        assert_eq!(book.sign(replace("alice", "a", 101), 1, 2, 50), "signature_void");
        assert_eq!(book.sign(replace("alice", "a", 102), 1, 3, 50), "signature_void");
        assert_eq!(book.price_of("a"), 102);
        // Nor once the book remembers nothing of that gateway.
        book.at = 51;
        assert_eq!(book.sign(SignedOrder::Add(order("bob", "b", Side::Buy, 1)), 2, 1, 90), "NEW");
        assert_eq!(book.sign(replace("alice", "a", 101), 1, 2, 50), "signature_void");
        // The clock of the book is the highest time met: the log's may go back.
        book.at = 40;
        assert_eq!(book.sign(replace("alice", "a", 101), 1, 2, 50), "signature_void");
    }
}

#[test]
fn an_older_rules_version_does_not_know_it() {
    assert!(Alone::listed(Admission::Gateway, 1).is_none());
    let mut book = Alone::listed(Admission::Gateway, 2).unwrap();
    let authority = Authority { nonce: 2, valid_until: Micros(9) };
    assert_eq!(book.say(Command::Rules { version: 1, authority }), "rules 2", "it is never lowered below");
    assert_eq!(book.book.rules_version(), 2);
    let mut open = Alone::listed(Admission::Open, 1).unwrap();
    assert_eq!(open.sign(SignedOrder::Add(order("alice", "a", Side::Buy, 1)), 1, 1, 0), "NEW", "nothing is looked at");
}

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).unwrap()
}

fn partition(server: &TestServer, name: &str) -> u32 {
    partition_of(name.as_bytes(), server.exchange().log().partitions())
}

async fn records(server: &TestServer, topic: Topic, partition: u32) -> Vec<Record> {
    let (log, of) = (server.exchange().log(), TopicPartition { topic, partition });
    let end = log.end_offset(of).await.unwrap();
    let (mut all, mut next) = (Vec::new(), Offset(0));
    while next < end {
        let read = soon("records", log.read(of, next, 100)).await.unwrap();
        next = read.last().unwrap().offset.next();
        all.extend(read);
    }
    all
}

/// Appends as another program does that may write to the log; the answer's reason or status, "dead" if there is none.
async fn put(server: &TestServer, name: &str, value: Bytes) -> String {
    let exchange = server.exchange();
    let session =
        exchange.log().open_session(SessionOptions { name: "other".into(), queue_bytes_max: usize::MAX }).unwrap();
    let (origin, answer) = exchange.gateway().expect_answer();
    let to = TopicPartition { topic: Topic::Orders, partition: partition(server, name) };
    let (key, header) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(&origin.to_bytes()));
    session.append(NewRecord { to, key: key.clone(), header, value }).await.unwrap();
    // Behind it, something that is answered for sure.
    let cancel = Command::Cancel { user: UserId::new("nobody").unwrap(), order_id: OrderId::new("none").unwrap() };
    let (marker, marked) = exchange.gateway().expect_answer();
    let (header, value) = (Bytes::copy_from_slice(&marker.to_bytes()), wire::orders::encode(&symbol(name), &cancel));
    session.append(NewRecord { to, key, header, value }).await.unwrap();
    soon("the answer behind it", marked).await.unwrap();
    let mut answer = answer;
    let Ok(answer) = answer.try_recv() else { return "dead".into() };
    match &answer.said.iter().find(|s| s.output.answer).unwrap().output.body {
        OutputBody::Refused { reason, .. } => reason.code().to_owned(),
        OutputBody::Order(o) => o.status.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn dead_letters(server: &TestServer) -> Vec<String> {
    let letters = records(server, Topic::DeadLetters, 0).await;
    let code = |r: &Record| serde_json::from_slice::<Value>(&r.value).unwrap()["code"].as_str().unwrap().to_owned();
    letters.iter().map(code).collect()
}

async fn price_of(rest: &Rest<'_>, name: &str, id: &str) -> Value {
    let (status, order) = rest.get(&format!("/orders/{id}?symbol={name}")).await;
    assert_eq!(status, 200, "{order}");
    order["price"].clone()
}

/// The node that has the book now, and the auditor's word that the log, the snapshots and the book agree.
async fn judged(server: &TestServer, name: &str) -> Epoch {
    let snapshots = FolderSnapshots::open_read_only(&server.config.data_dir);
    let keyring = Keyring::from_secret(SECRET.as_bytes());
    let log = &**server.exchange().log();
    let report = audit::judge(log, &snapshots, &keyring, Some(symbol(name)), true).await.unwrap().remove(0);
    assert_eq!(report.violations, []);
    let book = server.exchange().directory().get(&symbol(name)).unwrap();
    assert_eq!(book.book_digest().to_string(), report.book_digest);
    book.epoch()
}

async fn move_to_the_other(server: &TestServer, name: &str) {
    let admin = server.admin().await;
    let at = server.exchange().directory().get(&symbol(name)).unwrap().node().to_string();
    let to = if at == "n1" { "n2" } else { "n1" };
    let (status, begun) = admin.post("/admin/migrations", json!({"symbol": name, "target": to})).await;
    assert_eq!(status, 202, "{begun}");
    let path = format!("/admin/migrations/{}", begun["id"]);
    let ended = until("the move ends", || admin.get(&path), |(_, m)| m["status"] != "RUNNING").await.1;
    assert_eq!(ended["status"], "COMPLETED", "{ended}");
}

/// A sell over REST and a buy over WebSocket trade.
async fn trades(server: &TestServer, name: &str, id: &str) {
    let seller = server.trader("seller").await;
    let (status, sold) = seller.order(name, "SELL", "90.00", 1, &format!("{id}-s")).await;
    assert_eq!((status, &sold["status"]), (201, &json!("NEW")), "{sold}");
    let mut buyer = server.ws("buyer").await;
    buyer.add(name, "BUY", "90.00", 1, &format!("{id}-b")).await;
    let fill = buyer.next_of("FILL").await;
    assert_eq!((&fill["data"]["filled_qty"], &fill["data"]["status"]), (&json!(1), &json!("FILLED")), "{fill}");
}

#[actix_web::test]
async fn other_programs_cannot_trade_where_only_gateways_may() {
    let mut server = TestServer::start_with(|config| {
        (config.nodes, config.cluster_secret) = (2, Some(SECRET.into()));
    })
    .await;
    let admin = server.admin().await;
    let list = |name: &str, admission: &str| json!({"symbol": name, "admission": admission});
    assert_eq!(admin.post("/admin/instruments", list("GATE", "closed")).await.1["code"], "invalid_field");
    let (status, listed) = admin.post("/admin/instruments", list("GATE", "gateway")).await;
    assert_eq!((status, &listed["admission"]), (201, &json!("gateway")), "{listed}");
    assert_eq!(admin.post("/admin/instruments", list("OTHER", "gateway")).await.0, 201);
    server.list(&["OPEN"]).await;
    let (_, all) = server.get("/instruments").await;
    let admissions: Vec<_> = all["instruments"].as_array().unwrap().iter().map(|i| i["admission"].clone()).collect();
    assert_eq!(admissions, ["gateway", "open", "gateway"], "{all}");

    trades(&server, "GATE", "first").await;
    trades(&server, "OPEN", "first").await;
    let seller = server.trader("seller").await;
    seller.order("GATE", "SELL", "95.00", 1, "held").await;
    for price in ["96.00", "97.00"] {
        let (status, replaced) = seller.put("/orders/held?symbol=GATE", json!({"price": price})).await;
        assert_eq!(status, 200, "{replaced}");
    }

    // What another program writes in any of the three shapes.
    let outside = order("mallory", "m", Side::Buy, 9_700);
    let packed = |name: &str, command: &Command| wire::orders::encode(&symbol(name), command);
    let minor = |name: &str| json!({"action":"ADD","symbol":name,"order_id":"m","user_id":"mallory","is_buy":true,"price":9700,"quantity":1});
    let decimal =
        |name: &str| json!({"symbol":name,"order_id":"m","user_id":"mallory","side":"BUY","price":97,"quantity":1});
    let json = |value: Value| Bytes::from(value.to_string());
    for value in [packed("GATE", &Command::Add(outside)), json(minor("GATE")), json(decimal("GATE"))] {
        assert_eq!(put(&server, "GATE", value).await, "gateway_only");
    }
    assert_eq!(put(&server, "GATE", packed("GATE", &replace("seller", "held", 1).command())).await, "gateway_only");
    for (n, value) in
        [packed("OPEN", &Command::Add(outside)), json(minor("OPEN")), json(decimal("OPEN"))].into_iter().enumerate()
    {
        assert_eq!(put(&server, "OPEN", value).await, if n == 0 { "NEW" } else { "duplicate_order" });
    }

    // What a gateway signed, as it lies in the log: copied, changed, put elsewhere.
    let of_gate = |r: &&Record| {
        r.key == "GATE"
            && hotbook::wire::decode(&r.value, partition(&server, "GATE"), &Keyring::from_secret(SECRET.as_bytes()))
                .is_ok_and(|(_, c)| matches!(c, Command::Signed(_)))
    };
    let signed: Vec<Record> =
        records(&server, Topic::Orders, partition(&server, "GATE")).await.iter().filter(of_gate).cloned().collect();
    assert_eq!(signed.len(), 5, "two that traded, one that is held and its two changes");
    assert!(dead_letters(&server).await.is_empty());
    for record in &signed {
        assert_eq!(put(&server, "GATE", record.value.clone()).await, "signature_void");
        let mut changed = record.value.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert_eq!(put(&server, "GATE", changed.into()).await, "dead");
    }
    let ring = Keyring::from_secret(SECRET.as_bytes());
    let stamp = Stamp { gateway: 1, number: 1, valid_until: Micros(u64::MAX / 2) };
    let good = Signed { stamp, order: SignedOrder::Add(outside) };
    // Of another symbol, of another partition, of another secret, run out, and as it should be.
    assert_eq!(
        put(&server, "GATE", ring.encode_signed(&symbol("OTHER"), partition(&server, "GATE"), &good)).await,
        "dead"
    );
    assert_eq!(
        put(&server, "GATE", ring.encode_signed(&symbol("GATE"), partition(&server, "GATE") + 1, &good)).await,
        "dead"
    );
    let another = Keyring::from_secret(b"guessed");
    assert_eq!(
        put(&server, "GATE", another.encode_signed(&symbol("GATE"), partition(&server, "GATE"), &good)).await,
        "dead"
    );
    let late = Signed { stamp: Stamp { valid_until: Micros(1), ..stamp }, ..good };
    assert_eq!(
        put(&server, "GATE", ring.encode_signed(&symbol("GATE"), partition(&server, "GATE"), &late)).await,
        "signature_void"
    );
    let letters = dead_letters(&server).await;
    assert_eq!(letters.iter().filter(|code| *code == "forged").count(), letters.len() - 1, "{letters:?}");
    assert!(letters.contains(&"key_mismatch".to_owned()) && letters.len() == 8, "{letters:?}");

    assert_eq!(price_of(&seller, "GATE", "held").await, json!(97.0), "nobody touched it");
    let cancel = Command::Cancel { user: UserId::new("seller").unwrap(), order_id: OrderId::new("held").unwrap() };
    assert_eq!(put(&server, "GATE", packed("GATE", &cancel)).await, "CANCELED", "cancels are open to all");
    assert_eq!(judged(&server, "GATE").await, Epoch(0));

    // A move, a snapshot and a restart keep all of it, what is known of the gateway included.
    let again = signed.last().unwrap().value.clone();
    move_to_the_other(&server, "GATE").await;
    trades(&server, "GATE", "moved").await;
    assert_eq!(put(&server, "GATE", again.clone()).await, "signature_void");
    assert_eq!(put(&server, "GATE", json(minor("GATE"))).await, "gateway_only");
    assert_eq!(judged(&server, "GATE").await, Epoch(1));
    let (status, saved) = server.admin().await.post("/admin/books/GATE/snapshot", json!({})).await;
    assert_eq!(status, 200, "{saved}");
    server.restart().await;
    trades(&server, "GATE", "restarted").await;
    assert_eq!(put(&server, "GATE", again).await, "signature_void");
    assert_eq!(put(&server, "GATE", json(minor("GATE"))).await, "gateway_only");
    assert_eq!(judged(&server, "GATE").await, Epoch(1));
    assert_eq!(judged(&server, "OPEN").await, Epoch(0));
    server.stop().await;
}
