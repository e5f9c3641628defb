//! Faults, one after another, on three engines and a gateway with three brokers, Redis and S3, while traders trade. After each
//! every book trades again and the audit is clean; at the end every order that was acknowledged is there once.
//!
//! `HOTBOOK_CHAOS_FAULTS` says how many (12), `HOTBOOK_CHAOS_SEED` which and in what order (1). `make chaos` has a hundred.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hotbook_harness::{Cluster, Faulty, Process, SETTLES_WITHIN as SOON, Traders, all_are_known};

const SYMBOLS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How long each step of a move waits to be met.
const STEP_MS: u64 = 150;
const STEPS: [&str; 6] =
    ["TransferSnapshot", "PauseRouting", "WaitForDrain", "SwitchRouting", "ReplayPendingOrders", "Cleanup"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Source,
    Target,
    /// Neither: whoever was asked for the move.
    Asker,
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
    let roles = [Role::Source, Role::Target, Role::Asker];
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

struct Chaos {
    cluster: Cluster,
    engines: Vec<Process>,
    gateway: Process,
    admin: String,
    turn: usize,
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
        Self { engines, gateway, admin: String::new(), turn: 0, cluster }
    }

    fn s3(&self) -> &Faulty {
        self.cluster.s3_way.as_ref().expect("it was asked for")
    }

    fn engine(&mut self, name: &str) -> &mut Process {
        self.engines.iter_mut().find(|e| e.name() == name).expect("one of them")
    }

    /// Begins a move of the next book; gives its number, its source and target, and who is neither.
    async fn begin_move(&mut self) -> (u64, [String; 3]) {
        let symbol = SYMBOLS[self.turn % SYMBOLS.len()];
        let homes = self.gateway.until_homes(&self.admin, &SYMBOLS, "").await;
        let source = homes[symbol].clone();
        let others: Vec<String> = NODES.iter().filter(|n| **n != source).map(|n| (*n).to_owned()).collect();
        let (target, asker) = (others[self.turn % 2].clone(), others[1 - self.turn % 2].clone());
        self.turn += 1;
        let admin = self.admin.clone();
        let began = Instant::now();
        loop {
            // A book that was taken over a moment ago may not be ready to go on.
            match self.engine(&asker).begin_move(&admin, symbol, &target).await {
                Ok(id) => return (id, [source, target, asker]),
                Err(code) => assert!(began.elapsed() < SOON, "{symbol} to {target}: {code}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
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
                let (id, [source, target, asker]) = self.begin_move().await;
                let was_met = self.until_step(&target, id, step).await;
                let victim = match role {
                    Role::Source => source,
                    Role::Target => target,
                    Role::Asker => asker,
                };
                self.engine(&victim).kill();
                let struck = Instant::now();
                self.gateway.until_homes(&self.admin, &SYMBOLS, &victim).await;
                traders.until_all_trade(&SYMBOLS, SOON).await;
                let took = struck.elapsed();
                self.start_again(&victim);
                (
                    format!("{victim}, step {}, taken over in {took:.1?}", if was_met { "met" } else { "just over" }),
                    struck,
                )
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
                let (id, [_, target, _]) = self.begin_move().await;
                traders.until_all_trade(&SYMBOLS, SOON).await;
                let admin = self.admin.clone();
                if fault == Fault::S3Refuses {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    self.s3().pass_all();
                }
                let record = self.engine(&target).until_moved(&admin, id).await;
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

    fn start_again(&mut self, name: &str) {
        let engine = self.engines.iter_mut().find(|e| e.name() == name).expect("one of them");
        engine.start_again();
    }
}

#[actix_web::test]
async fn nothing_is_lost_doubled_or_reordered_whatever_fails() {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |n| n.parse().expect("a number"));
    let (seed, count) = (number("HOTBOOK_CHAOS_SEED", 1), number("HOTBOOK_CHAOS_FAULTS", 12) as usize);
    println!("HOTBOOK_CHAOS_SEED={seed} HOTBOOK_CHAOS_FAULTS={count}");
    let mut chaos = Chaos::start();
    chaos.admin = chaos.gateway.served().token("root", &["admin"]).await;
    let trader = chaos.gateway.served().token("ann", &["trader"]).await;
    chaos.gateway.until_sees(&chaos.admin, &NODES).await;
    chaos.gateway.served().list(&SYMBOLS, &chaos.admin).await;
    let traders = Traders::start(&chaos.gateway.url(), &trader, &SYMBOLS, 2);
    traders.until_more(100, SOON).await;

    let mut happened: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    for (n, fault) in faults(seed, count).into_iter().enumerate() {
        let (what, struck) = chaos.strike(fault, &traders).await;
        traders.until_all_trade(&SYMBOLS, SOON).await;
        let took = struck.elapsed();
        chaos.gateway.until_sees(&chaos.admin, &NODES).await;
        chaos.gateway.until_homes(&chaos.admin, &SYMBOLS, "").await;
        chaos.cluster.clean_audit(&[]);
        println!("{:3} {fault:?}: {what}; whole again and all books trade after {took:.1?}, audit clean", n + 1);
        let (times, most) = happened.entry(format!("{fault:?}")).or_default();
        (*times, *most) = (*times + 1, took.max(*most));
    }
    for (fault, (times, most)) in &happened {
        println!("{times:3} x {fault}: at most {most:.1?}");
    }

    let told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    assert!(told.settled.len() > 100);
    all_are_known(&chaos.gateway.url(), &trader, &told).await;
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
    assert_eq!(kinds.len(), 7 + 3 * STEPS.len());
}
