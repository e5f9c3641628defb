//! Faults, one after another, on three engines and a gateway with three brokers, Redis and S3, while traders trade. After each
//! every book trades again, the audit is clean, and every order that was acknowledged is there once; at the end once more all of
//! them, and what traders were told of fills is what the topic `fills` says.
//!
//! `HOTBOOK_CHAOS_FAULTS` says how many (12), `HOTBOOK_CHAOS_SEED` which and in what order (1), `HOTBOOK_CHAOS_STANDBY` whether each
//! book is followed in another process (0 or 1; without it in the second half). `make chaos` has a hundred.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hotbook_harness::{
    Cluster, Faulty, Listener, Process, SETTLES_WITHIN as SOON, Traders, all_are_known, are_known, call, fills_agree,
};
use serde_json::json;

#[path = "common/topics.rs"]
mod topics;

const SYMBOLS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How long each step of a move waits to be met.
const STEP_MS: u64 = 150;
const STEPS: [&str; 8] = [
    "DetectHotSymbol",
    "ProvisionNewInstance",
    "TransferSnapshot",
    "PauseRouting",
    "WaitForDrain",
    "SwitchRouting",
    "ReplayPendingOrders",
    "Cleanup",
];
/// The first two are over when the wish for a move is answered: they are met so long after it was sent.
const ON_THE_WAY: [(&str, Duration); 2] =
    [("DetectHotSymbol", Duration::from_millis(1)), ("ProvisionNewInstance", Duration::from_millis(3))];
/// Of each client: what was acknowledged is asked for again after each fault.
const PACE: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Source,
    Target,
    /// Neither: whoever was asked for the move.
    Asker,
    /// Whoever has the leader's lease, and would look after the dead.
    Leader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// `kill -9` of a node of a move as a step of it begins.
    Kill(Role, &'static str),
    /// The owner of books stands still for ten seconds, is taken for dead, and wakes.
    Freeze,
    /// `kill -9` of one of the three brokers.
    Broker,
    RedisFlushed,
    RedisEmptied,
    S3Refuses,
    S3IsSlow,
    /// `kill -9` of the gateway that the traders use.
    Gateway,
}

/// All kinds, in an order that the seed decides, again and again.
fn faults(seed: u64, count: usize) -> Vec<Fault> {
    let mut kinds = vec![
        Fault::Freeze,
        Fault::Broker,
        Fault::RedisFlushed,
        Fault::RedisEmptied,
        Fault::S3Refuses,
        Fault::S3IsSlow,
        Fault::Gateway,
    ];
    let roles = [Role::Source, Role::Target, Role::Asker, Role::Leader];
    let kills: Vec<Fault> = roles.iter().flat_map(|r| STEPS.iter().map(|s| Fault::Kill(*r, s))).collect();
    let mut state = seed;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut kills_left = kills.clone();
    let mut all = Vec::new();
    while all.len() < count {
        // As many kills as other faults, none twice before all were had.
        let mut round = std::mem::take(&mut kinds);
        kinds.clone_from(&round);
        for _ in 0..round.len() {
            if kills_left.is_empty() {
                kills_left.clone_from(&kills);
            }
            let kill = kills_left.remove(next(kills_left.len()));
            round.push(kill);
        }
        while !round.is_empty() {
            all.push(round.remove(next(round.len())));
        }
    }
    all.truncate(count);
    all
}

/// A move that is about to begin, by the names of the nodes.
struct Move {
    symbol: &'static str,
    source: String,
    target: String,
    /// Neither of them.
    asker: String,
}

struct Chaos {
    cluster: Cluster,
    engines: Vec<Process>,
    gateway: Process,
    admin: String,
    turn: usize,
    is_followed: bool,
}

impl Chaos {
    fn start() -> Self {
        let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook"))
            .brokers(3)
            .settings(&format!("dev_move_step_ms = {STEP_MS}\n"))
            .s3_can_fail()
            .start();
        let start = |name: &str, role| cluster.process(name).arguments(&["--role", role]).start();
        let engines = NODES.map(|name| start(name, "engine")).into();
        let gateway = start("g1", "gateway");
        Self { engines, gateway, admin: String::new(), turn: 0, is_followed: false, cluster }
    }

    /// Each engine goes down and comes up with `standby = 1`; then every book is followed.
    async fn let_all_be_followed(&mut self) {
        for engine in &mut self.engines {
            engine.terminate();
            engine.set_environment(&[("HOTBOOK_STANDBY", "1")]);
            engine.start_again();
        }
        self.is_followed = true;
        self.gateway.until_sees(&self.admin, &NODES).await;
        let began = Instant::now();
        loop {
            let followed = self.followed().await;
            if followed == SYMBOLS.len() {
                return;
            }
            assert!(began.elapsed() < SOON, "{followed} books are followed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many books have a standby.
    async fn followed(&self) -> usize {
        let books = self.gateway.served().get("/admin/books", &self.admin).await;
        let books = books["books"].as_array().expect("books").iter();
        books.filter(|b| b["active"] == true && b["standby"].is_string()).count()
    }

    /// No process has seen that an invariant does not hold.
    async fn assert_invariants(&self) {
        for process in self.engines.iter().chain([&self.gateway]) {
            let broken = process.served().metric("hotbook_invariant_violations_total").await;
            assert_eq!(broken, 0.0, "{} counts violations", process.name());
        }
    }

    fn s3(&self) -> &Faulty {
        self.cluster.s3_way.as_ref().expect("it was asked for")
    }

    fn engine(&mut self, name: &str) -> &mut Process {
        self.engines.iter_mut().find(|e| e.name() == name).expect("one of them")
    }

    /// The next move: of each book in turn.
    async fn next_move(&mut self) -> Move {
        let symbol = SYMBOLS[self.turn % SYMBOLS.len()];
        let homes = self.gateway.until_homes(&self.admin, &SYMBOLS, "").await;
        let source = homes[symbol].clone();
        let others: Vec<String> = NODES.iter().filter(|n| **n != source).map(|n| (*n).to_owned()).collect();
        let (target, asker) = (others[self.turn % 2].clone(), others[1 - self.turn % 2].clone());
        self.turn += 1;
        Move { symbol, source, target, asker }
    }

    /// Begins it; gives its number.
    async fn begin(&mut self, m: &Move) -> u64 {
        let (admin, began) = (self.admin.clone(), Instant::now());
        loop {
            // A book that was taken over a moment ago may not be ready to go on.
            match self.engine(&m.asker).begin_move(&admin, m.symbol, &m.target).await {
                Ok(id) => return id,
                Err(code) => assert!(began.elapsed() < SOON, "{} to {}: {code}", m.symbol, m.target),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whom a fault hits.
    async fn victim(&mut self, role: Role, m: &Move) -> String {
        let (admin, began) = (self.admin.clone(), Instant::now());
        match role {
            Role::Source => m.source.clone(),
            Role::Target => m.target.clone(),
            Role::Asker => m.asker.clone(),
            // Any of them knows; for a moment after a death nobody leads.
            Role::Leader => loop {
                let decisions = self.engine(&m.asker).served().get("/admin/decisions", &admin).await;
                if let Some(leader) = decisions["leader"].as_str() {
                    return leader.to_owned();
                }
                assert!(began.elapsed() < SOON, "nobody leads: {decisions}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
        }
    }

    /// Kills a node while the wish for a move is on its way or is being answered; what came of the wish.
    async fn kill_on_the_way(&mut self, m: &Move, victim: &str, after: Duration) -> (String, Instant) {
        let (url, admin) = (self.engine(&m.asker).url(), self.admin.clone());
        let wish = json!({"symbol": m.symbol, "target": m.target});
        let asked = call(&url, "POST", "/admin/migrations", Some(&admin), wish);
        tokio::pin!(asked);
        let early = tokio::time::timeout(after, &mut asked).await;
        self.engine(victim).kill();
        let struck = Instant::now();
        let said = match early {
            Ok(answer) => answer,
            Err(_) => asked.await,
        };
        let said = match said {
            Ok((202, _)) => "it had begun".to_owned(),
            Ok((status, said)) => format!("answered {status} {}", said["code"]),
            Err(_) => "unanswered".to_owned(),
        };
        (said, struck)
    }

    /// Waits until a step of a move has begun; whether it was met.
    async fn until_step(&mut self, carrier: &str, id: u64, step: &str) -> bool {
        let (admin, began) = (self.admin.clone(), Instant::now());
        loop {
            let record = self.engine(carrier).served().get(&format!("/admin/migrations/{id}"), &admin).await;
            let steps = record["steps"].as_array().expect("steps");
            if steps.iter().any(|s| s["name"] == step) {
                return record["status"] == "RUNNING" && steps.last().is_some_and(|s| s["name"] == step);
            }
            assert!(record["status"] == "RUNNING" && began.elapsed() < SOON, "{record}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets one fault happen; the world is whole again afterwards, or about to be. Gives what to say of it, and since when
    /// books may have stood still.
    async fn strike(&mut self, fault: Fault, traders: &Traders) -> (String, Instant) {
        match fault {
            Fault::Kill(role, step) => {
                let m = self.next_move().await;
                let victim = self.victim(role, &m).await;
                let (how, struck) = match ON_THE_WAY.iter().find(|(name, _)| *name == step) {
                    Some((_, after)) => self.kill_on_the_way(&m, &victim, *after).await,
                    None => {
                        let id = self.begin(&m).await;
                        let was_met = self.until_step(&m.target, id, step).await;
                        self.engine(&victim).kill();
                        (if was_met { "met" } else { "just over" }.to_owned(), Instant::now())
                    }
                };
                self.gateway.until_homes(&self.admin, &SYMBOLS, &victim).await;
                traders.until_all_trade(&SYMBOLS, SOON).await;
                let took = struck.elapsed();
                self.engine(&victim).start_again();
                (format!("{victim}, {how}, taken over in {took:.1?}"), struck)
            }
            Fault::Freeze => {
                let homes = self.gateway.until_homes(&self.admin, &SYMBOLS, "").await;
                let victim = homes["AAA"].clone();
                self.engine(&victim).freeze();
                let struck = Instant::now();
                let homes = self.gateway.until_homes(&self.admin, &SYMBOLS, &victim).await;
                let taken = struck.elapsed();
                tokio::time::sleep(Duration::from_secs(10).saturating_sub(taken)).await;
                self.engine(&victim).thaw();
                assert!(homes.len() == SYMBOLS.len());
                (format!("{victim}, taken over in {taken:.1?}, awake after {:.1?}", struck.elapsed()), struck)
            }
            Fault::Broker => {
                let n = self.turn % 3;
                self.turn += 1;
                let struck = Instant::now();
                self.cluster.kafka.brokers[n].kill();
                traders.until_all_trade(&SYMBOLS, SOON).await;
                let took = struck.elapsed();
                self.cluster.kafka.brokers[n].start();
                (format!("{n}, traded without it after {took:.1?}"), struck)
            }
            Fault::RedisFlushed => {
                let struck = Instant::now();
                self.cluster.redis.flush();
                (String::new(), struck)
            }
            Fault::RedisEmptied => {
                let struck = Instant::now();
                self.cluster.redis.server.kill();
                tokio::time::sleep(Duration::from_secs(3)).await;
                traders.until_all_trade(&SYMBOLS, SOON).await;
                self.cluster.redis.lose_data();
                self.cluster.redis.server.start();
                (format!("away for {:.1?}, traded meanwhile", struck.elapsed()), struck)
            }
            Fault::S3Refuses | Fault::S3IsSlow => {
                match fault {
                    Fault::S3Refuses => self.s3().refuse(),
                    _ => self.s3().slow_by(Duration::from_millis(300)),
                }
                let struck = Instant::now();
                let m = self.next_move().await;
                let id = self.begin(&m).await;
                traders.until_all_trade(&SYMBOLS, SOON).await;
                let admin = self.admin.clone();
                if fault == Fault::S3Refuses {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    self.s3().pass_all();
                }
                let record = self.engine(&m.target).until_moved(&admin, id).await;
                self.s3().pass_all();
                (format!("a move meanwhile: {}", record["status"]), struck)
            }
            Fault::Gateway => {
                self.gateway.kill();
                let struck = Instant::now();
                self.gateway.start_again();
                (format!("ready again after {:.1?}", struck.elapsed()), struck)
            }
        }
    }
}

#[actix_web::test]
async fn nothing_is_lost_doubled_or_reordered_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<usize>().expect("a number"));
    let (seed, count) = (number("HOTBOOK_CHAOS_SEED").unwrap_or(1), number("HOTBOOK_CHAOS_FAULTS").unwrap_or(12));
    // From which fault on every book is followed.
    let followed_from = match number("HOTBOOK_CHAOS_STANDBY") {
        None => count / 2,
        Some(0) => usize::MAX,
        Some(_) => 0,
    };
    println!("HOTBOOK_CHAOS_SEED={seed} HOTBOOK_CHAOS_FAULTS={count}");
    let mut chaos = Chaos::start();
    chaos.admin = chaos.gateway.served().token("root", &["admin"]).await;
    let trader = chaos.gateway.served().token("ann", &["trader"]).await;
    chaos.gateway.until_sees(&chaos.admin, &NODES).await;
    chaos.gateway.served().list(&SYMBOLS, &chaos.admin).await;
    let listener = Listener::start(&chaos.gateway.url(), &trader).await;
    let traders = Traders::start_paced("c", &chaos.gateway.url(), &trader, &SYMBOLS, 2, PACE);
    traders.until_more(100, SOON).await;

    let mut happened: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    let mut asked_for = 0;
    for (n, fault) in faults(seed as u64, count).into_iter().enumerate() {
        if n >= followed_from && !chaos.is_followed {
            chaos.let_all_be_followed().await;
        }
        let followed = if chaos.is_followed { chaos.followed().await } else { 0 };
        let (what, struck) = chaos.strike(fault, &traders).await;
        traders.until_all_trade(&SYMBOLS, SOON).await;
        let took = struck.elapsed();
        chaos.gateway.until_sees(&chaos.admin, &NODES).await;
        chaos.gateway.until_homes(&chaos.admin, &SYMBOLS, "").await;
        chaos.assert_invariants().await;
        let settled = traders.settled_behind(asked_for);
        are_known(&chaos.gateway.url(), &trader, &settled).await;
        asked_for += settled.len();
        chaos.cluster.clean_audit(&[]);
        println!(
            "{:3} {fault:?}, {followed} books followed: {what}; whole again and all books trade after {took:.1?}, {} more orders \
             known once, audit clean",
            n + 1,
            settled.len()
        );
        let (times, most) = happened.entry(format!("{fault:?}")).or_default();
        (*times, *most) = (*times + 1, took.max(*most));
    }
    for (fault, (times, most)) in &happened {
        println!("{times:3} x {fault}: at most {most:.1?}");
    }

    let mut told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    assert!(told.settled.len() > 100);
    all_are_known(&chaos.gateway.url(), &trader, &told).await;
    let record = topics::fills(&chaos.cluster).await;
    let heard = listener.stop();
    println!(
        "{} trades, {} of them pushed, the connection lost {} times",
        record.trades(),
        heard.fills.trades(),
        heard.lost
    );
    told.fills.extend(heard.fills);
    fills_agree(&chaos.gateway.url(), &trader, &told, &record).await;
    chaos.gateway.terminate();
    chaos.engines.iter_mut().for_each(Process::terminate);
    chaos.cluster.clean_audit(&["--complete"]);
}

#[test]
fn faults_follow_from_the_seed_and_none_is_left_out() {
    let all = faults(1, 100);
    assert_eq!(all, faults(1, 100));
    assert_ne!(all, faults(2, 100));
    let kinds: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(kinds.len(), 7 + 4 * STEPS.len());
}
