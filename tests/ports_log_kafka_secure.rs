//! Kafka over TLS, and with an identity of AWS IAM as Amazon MSK asks for: let in with the right papers, also over their
//! renewal, and told clearly what is wrong with others.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hotbook_harness::services::{Certificates, KafkaOptions as Brokers, S3};
use hotbook_harness::{Cluster, Served, Traders, free_port, hotbook, run, services_folder};
use serde_json::json;

const HOTBOOK: &str = env!("CARGO_BIN_EXE_hotbook");
/// Whoever is not let in is told so within this, the start of a process on a busy machine included.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);
/// The broker takes no token older than 10 s and asks every connection for one every 3 s (`IamHandler.java`, below): without
/// renewal nobody trades as long as this.
const TRADES_FOR: Duration = Duration::from_secs(14);

/// The broker's check of tokens, compiled into a folder.
fn compile_handler(into: &Path) {
    let libs =
        std::fs::read_dir(services_folder()).unwrap().flatten().map(|e| e.path().join("libs")).find(|p| p.is_dir());
    let libs = libs.expect("scripts/services install kafka");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/IamHandler.java");
    let mut javac = Command::new("javac");
    javac.args(["--release", "17", "-cp"]).arg(format!("{}/*", libs.display())).arg("-d").arg(into).arg(source);
    let (ok, out, err) = run(javac);
    assert!(ok, "{out}{err}");
}

/// A cluster whose broker has a listener for TLS, which asks for certificates, and one for IAM beside its plain one.
struct Secured {
    cluster: Cluster,
    ours: Certificates,
    others: Certificates,
    tls: u16,
    iam: u16,
    /// The compiled handler.
    _classes: tempfile::TempDir,
}

impl Secured {
    fn start() -> Self {
        let (ours, others) = (Certificates::make(), Certificates::make());
        let classes = tempfile::tempdir().unwrap();
        compile_handler(classes.path());
        // Kafka wants key and certificate in one file.
        let both = classes.path().join("server.both.pem");
        let read = |name| std::fs::read_to_string(ours.path(name)).unwrap();
        std::fs::write(&both, format!("{}{}", read("server.key"), read("server.pem"))).unwrap();
        let (tls, iam) = (free_port(), free_port());
        let properties = properties(&both, &ours.path("ca.pem"), tls, iam);
        let brokers = Brokers { properties, classpath: Some(classes.path().to_owned()), ..Brokers::default() };
        let cluster = Cluster::of(HOTBOOK).kafka(brokers).start();
        Self { cluster, ours, others, tls, iam, _classes: classes }
    }

    /// The program, told to use a listener and whom to trust.
    fn hotbook(&self, arguments: &[&str], port: u16, security: &str, ca: &Certificates) -> Command {
        let mut command = self.cluster.hotbook(arguments);
        command.env("KAFKA_BROKERS", format!("127.0.0.1:{port}")).env("HOTBOOK_KAFKA_SECURITY", security);
        command.env("HOTBOOK_KAFKA_CA_FILE", ca.path("ca.pem"));
        command
    }

    fn over_tls(&self, arguments: &[&str], ca: &Certificates, identity: Option<&Certificates>) -> Command {
        let mut command = self.hotbook(arguments, self.tls, "tls", ca);
        if let Some(own) = identity {
            command.env("HOTBOOK_KAFKA_CERTIFICATE_FILE", own.path("server.pem"));
            command.env("HOTBOOK_KAFKA_KEY_FILE", own.path("server.key"));
        }
        command
    }

    /// With no more than this identity: a machine of AWS would have another.
    fn by_iam(&self, identity: Option<(&str, &str)>) -> Command {
        let mut command = self.hotbook(&["serve"], self.iam, "msk_iam", &self.ours);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", self.cluster.folder());
        if let Some((key, secret)) = identity {
            command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
        }
        command
    }

    /// Lines of the broker's log after this.
    fn lines_of_log_with(&self, what: &str) -> Vec<String> {
        let log = self.cluster.kafka.brokers[0].log();
        log.lines().filter_map(|l| Some(l.split_once(what)?.1.to_owned())).collect()
    }

    /// When the tokens were signed with which the broker let somebody in.
    fn tokens(&self) -> BTreeSet<String> {
        self.lines_of_log_with("IAM let in: a token of ").into_iter().collect()
    }
}

fn properties(key_and_certificate: &Path, trusted: &str, tls: u16, iam: u16) -> Vec<String> {
    let listeners = format!("TLS://127.0.0.1:{tls},IAM://127.0.0.1:{iam}");
    let oauth = "listener.name.iam.oauthbearer";
    vec![
        format!("listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},{listeners}"),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},{listeners}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,IAM:SASL_SSL".into(),
        "ssl.keystore.type=PEM".into(),
        format!("ssl.keystore.location={}", key_and_certificate.display()),
        "ssl.truststore.type=PEM".into(),
        format!("ssl.truststore.location={trusted}"),
        "listener.name.tls.ssl.client.auth=required".into(),
        "listener.name.iam.sasl.enabled.mechanisms=OAUTHBEARER".into(),
        format!("{oauth}.sasl.server.callback.handler.class=IamHandler"),
        format!(
            "{oauth}.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
        format!("{oauth}.connections.max.reauth.ms=3000"),
    ]
}

/// It does not start, and says why.
fn is_refused(command: Command, code: &str, why: &str) {
    let began = Instant::now();
    let (ok, _, err) = run(command);
    let took = began.elapsed();
    assert!(!ok && err.contains(&format!("log on Kafka: {code}: ")) && err.contains(why), "{err}");
    assert!(took < REFUSED_WITHIN, "after {took:?}: {err}");
    println!("{code} after {took:?}: {}", err.lines().last().unwrap_or_default());
}

/// An order is acknowledged, and another fills it.
async fn orders_are_filled(server: &Served, symbol: &str, trader: &str) {
    for (side, status) in [("SELL", "NEW"), ("BUY", "FILLED")] {
        let body = json!({"symbol": symbol, "side": side, "price": 100, "quantity": 5, "stp": "none"});
        let (code, answer) = server.call("POST", "/orders", Some(trader), body).await;
        assert_eq!((code, &answer["status"]), (201, &json!(status)), "{answer}");
    }
}

#[actix_web::test]
async fn it_trades_over_tls_and_by_iam_and_strangers_are_told_why_not() {
    let secured = Secured::start();
    over_tls(&secured).await;
    // A wrong secret, a key that nobody knows, and none.
    is_refused(secured.by_iam(Some((S3::ACCESS_KEY, "wrong"))), "kafka_identity_refused", "invalid_token");
    is_refused(secured.by_iam(Some(("stranger", S3::SECRET_KEY))), "kafka_identity_refused", "invalid_token");
    is_refused(secured.by_iam(None), "kafka_token_missing", "credentials");
    over_renewals(&secured).await;
}

async fn over_tls(secured: &Secured) {
    let (ours, others) = (&secured.ours, &secured.others);
    let (ok, out, err) = run(secured.over_tls(&["admin", "init-topics"], ours, Some(ours)));
    assert!(ok && out.contains("orders: is there and fits"), "{out}{err}");
    let refused = "kafka_certificate_refused";
    is_refused(secured.over_tls(&["serve"], others, Some(ours)), refused, "certificate verify failed");
    is_refused(secured.over_tls(&["serve"], ours, None), refused, "certificate");
    is_refused(secured.over_tls(&["serve"], ours, Some(others)), refused, "certificate");
    let server = Served::start(secured.over_tls(&["serve"], ours, Some(ours)));
    let (admin, trader) = (server.token("root", &["admin"]).await, server.token("ann", &["trader"]).await);
    server.list(&["TLS"], &admin).await;
    orders_are_filled(&server, "TLS", &trader).await;
    server.terminate();
}

async fn over_renewals(secured: &Secured) {
    let refused = secured.lines_of_log_with("IAM refused: ").len();
    assert!(refused >= 2, "the broker refused both: {refused}");
    // The identity that the tests have in S3.
    let mut command = secured.by_iam(Some((S3::ACCESS_KEY, S3::SECRET_KEY)));
    command.env("HOTBOOK_KAFKA_TOKEN_LIFETIME_S", "5");
    let server = Served::start(command);
    let (admin, trader) = (server.token("root", &["admin"]).await, server.token("ann", &["trader"]).await);
    server.list(&["IAM", "FILL"], &admin).await;
    orders_are_filled(&server, "FILL", &trader).await;
    let traders = Traders::start(&server.url, &trader, &["IAM"], 1);
    let (began, before) = (Instant::now(), secured.tokens());
    while began.elapsed() < TRADES_FOR {
        traders.until_more(1, Duration::from_secs(5)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = traders.stop().await;
    let renewed = secured.tokens().difference(&before).count();
    println!("{} orders over {renewed} renewals: {:?}", told.settled.len(), told.codes);
    assert!(renewed >= 3, "tokens are not renewed: {:?}", secured.tokens());
    let refusals = secured.lines_of_log_with("IAM refused: ").split_off(refused);
    assert!(refusals.is_empty(), "a token was not renewed in time: {refusals:?}");
    assert_eq!(told.codes.keys().collect::<Vec<_>>(), ["201"], "nobody noticed");
    orders_are_filled(&server, "FILL", &trader).await;
    server.terminate();
    let report = secured.cluster.clean_audit(&[]);
    let symbol = report["symbols"].as_array().unwrap().iter().find(|s| s["symbol"] == "IAM").unwrap();
    // Its listing, and each order once.
    assert_eq!(symbol["inputs"], 1 + told.settled.len(), "{symbol}");
}

#[test]
fn settings_that_make_no_sense_for_iam_are_refused() {
    let whole = [
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("REDIS_HOST", "127.0.0.1"),
        ("HOTBOOK_S3_BUCKET", "b"),
        ("HOTBOOK_NODE_ID", "east"),
        ("HOTBOOK_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
        ("HOTBOOK_KAFKA_SECURITY", "msk_iam"),
    ];
    let said =
        |more: &[(&str, &str)]| run(hotbook(Path::new(HOTBOOK), &["check-config"], &[&whole[..], more].concat()));
    let region = ("AWS_REGION", "eu-central-1");
    let (ok, out, err) = said(&[region]);
    assert!(ok && out.contains("kafka_security = \"msk_iam\""), "{out}{err}");
    for (more, named) in [
        (vec![], "aws_region"),
        (vec![region, ("HOTBOOK_KAFKA_TOKEN_LIFETIME_S", "901")], "kafka_token_lifetime_s"),
        (vec![region, ("HOTBOOK_KAFKA_KEY_FILE", "k"), ("HOTBOOK_KAFKA_CERTIFICATE_FILE", "c")], "kafka_key_file"),
    ] {
        let (ok, _, err) = said(&more);
        assert!(!ok && err.contains("config_value_invalid: ") && err.contains(named), "{named}: {err}");
    }
}
