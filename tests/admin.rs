//! What operators ask and order, over HTTP and on the command line: each refusal has its code.

use common::*;
use serde_json::{Value, json};

mod common;

async fn three_nodes() -> TestServer {
    let server = TestServer::start_with(|c| {
        c.nodes = 3;
        c.load_window_ms = 100;
    })
    .await;
    server.list(&["AAA", "BBB", "CCC"]).await;
    server
}

fn node_of(books: &Value, symbol: &str) -> String {
    let of = books["books"].as_array().unwrap().iter().find(|b| b["symbol"] == symbol).unwrap();
    of["node"].as_str().unwrap().to_owned()
}

/// `hotbook admin …`; on a thread of its own, for the server lives on this one.
async fn cli(server: &TestServer, args: &[&str]) -> (bool, String, String) {
    let url = server.url("");
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).chain(["--url".into(), url]).collect();
    let run =
        move || std::process::Command::new(env!("CARGO_BIN_EXE_hotbook")).arg("admin").args(args).output().unwrap();
    let out = actix_web::rt::task::spawn_blocking(run).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

#[actix_web::test]
async fn every_refusal_of_a_move_has_its_code() {
    let mut server = three_nodes().await;
    {
        let admin = server.admin().await;
        let begin = async |symbol: &str, target: &str| {
            let (status, answer) = admin.post("/admin/migrations", json!({"symbol": symbol, "target": target})).await;
            (status, answer["code"].as_str().unwrap_or("").to_owned(), answer)
        };
        let refused = |(status, code, _): (u16, String, Value)| (status, code);
        let expect = |status: u16, code: &str| (status, code.to_owned());
        let at = node_of(&admin.get("/admin/books").await.1, "AAA");
        let others: Vec<String> = ["n1", "n2", "n3"].iter().filter(|n| **n != at).map(|n| (*n).to_owned()).collect();
        assert_eq!(refused(begin("NOPE", "n2").await), expect(404, "unknown_symbol"));
        assert_eq!(refused(begin("not a symbol", "n2").await), expect(404, "unknown_symbol"));
        assert_eq!(refused(begin("AAA", "n9").await), expect(404, "unknown_node"));
        assert_eq!(refused(begin("AAA", "not a node!").await), expect(404, "unknown_node"));
        assert_eq!(refused(begin("AAA", &at).await), expect(409, "already_there"));
        let (_, missing) = admin.post("/admin/migrations", json!({"symbol": "AAA"})).await;
        assert_eq!(missing["code"], "missing_field");

        let (status, _, begun) = begin("AAA", &others[0]).await;
        assert_eq!(status, 202, "{begun}");
        // Both are sent before the first can have ended; the second is refused, or came after all.
        let again = refused(begin("AAA", &others[1]).await);
        assert!(again == expect(409, "already_moving") || again == expect(202, ""), "{again:?}");
        let show = format!("/admin/migrations/{}", begun["id"]);
        let ended = until("the move ends", || admin.get(&show), |(_, m)| m["status"] != "RUNNING").await.1;
        assert_eq!(ended["status"], "COMPLETED");
        for field in ["parked", "pause_us", "baseline_gap_us", "snapshot_stall_us", "book_orders", "snapshot_bytes"] {
            assert!(ended[field].is_u64(), "{field}: {ended}");
        }
        assert!(ended["steps"].as_array().unwrap().iter().all(|s| s["took_us"].is_u64()), "{ended}");
        let (status, late) = server.call("DELETE", &show, Some(&admin.token), None).await;
        assert_eq!((status, &late["code"]), (409, &json!("too_late_to_abort")));
        for path in ["/admin/migrations/99", "/admin/migrations/first"] {
            assert_eq!(admin.get(path).await.1["code"], "unknown_migration");
            let (status, unknown) = server.call("DELETE", path, Some(&admin.token), None).await;
            assert_eq!((status, &unknown["code"]), (404, &json!("unknown_migration")));
        }
        let (_, listed) = admin.get("/admin/migrations?limit=1").await;
        assert_eq!(listed["migrations"].as_array().map(Vec::len), Some(1));
    }
    server.stop().await;
}

#[actix_web::test]
async fn nodes_are_drained_one_by_one_but_not_the_last() {
    let mut server = three_nodes().await;
    {
        let admin = server.admin().await;
        let drain = async |node: &str| admin.post(&format!("/admin/nodes/{node}/drain"), json!({})).await;
        assert_eq!(drain("n9").await.1["code"], "unknown_node");
        assert_eq!(drain("n1").await.0, 202);
        let is_empty = |n: usize| {
            move |(_, nodes): &(u16, Value)| {
                nodes["nodes"][n]["books"] == 0 && nodes["nodes"][n]["status"] == "DRAINING"
            }
        };
        until("n1 is empty", || admin.get("/admin/nodes"), is_empty(0)).await;
        assert_eq!(drain("n2").await.0, 202);
        until("n2 is empty", || admin.get("/admin/nodes"), is_empty(1)).await;
        let (status, last) = drain("n3").await;
        assert_eq!((status, &last["code"]), (409, &json!("last_node")));
        server.exchange().fleet().crash(&hotbook::domain::NodeId::new("n1").unwrap());
        let (status, down) = admin.post("/admin/migrations", json!({"symbol": "AAA", "target": "n1"})).await;
        assert_eq!((status, &down["code"]), (409, &json!("node_down")));
    }
    server.stop().await;
}

#[actix_web::test]
async fn nodes_books_and_decisions_tell_load_and_who_leads() {
    let mut server = three_nodes().await;
    {
        let admin = server.admin().await;
        let led = |(_, nodes): &(u16, Value)| {
            nodes["nodes"].as_array().unwrap().iter().filter(|n| n["leads"] == true).count() == 1
        };
        let nodes = until("a node leads", || admin.get("/admin/nodes"), led).await.1;
        for node in nodes["nodes"].as_array().unwrap() {
            assert!(node["load"].is_f64() && node["rate"].is_f64() && node["cores"].as_f64() >= Some(1.0), "{node}");
            assert!(node["lag"].is_u64() && node["waiting_us"].is_u64() && node["books"] == 1, "{node}");
        }
        let (_, books) = admin.get("/admin/books").await;
        for book in books["books"].as_array().unwrap() {
            assert!(book["rate"].is_f64() && book["busy"].is_f64(), "{book}");
            assert!(book["lag"].is_u64() && book["waiting_us"].is_u64(), "{book}");
        }
        let (status, decided) = admin.get("/admin/decisions").await;
        assert_eq!((status, &decided["mode"], &decided["decisions"]), (200, &json!("auto"), &json!([])), "{decided}");
        let leader = nodes["nodes"].as_array().unwrap().iter().find(|n| n["leads"] == true).unwrap();
        assert_eq!(decided["leader"], leader["id"]);
        let alice = server.trader("alice").await;
        assert_eq!(alice.get("/admin/decisions").await.0, 403);
        let (_, metrics) = server.get("/metrics").await;
        for gauge in [
            "hotbook_node_load{node=\"n2\"}",
            "hotbook_node_waiting_us{node=\"n1\"}",
            "hotbook_node_leads{node=\"n3\"}",
        ] {
            assert!(metrics.as_str().unwrap().contains(gauge), "{gauge} is missing");
        }
    }
    server.stop().await;
}

#[actix_web::test]
async fn rules_are_finalized_for_every_book_by_a_record_of_its_own() {
    let mut server = three_nodes().await;
    {
        let admin = server.admin().await;
        let (status, done) = admin.post("/admin/finalize-version", json!({"version": 1})).await;
        assert_eq!((status, &done), (200, &json!({"version": 1, "books": 3})));
        let (status, unknown) = admin.post("/admin/finalize-version", json!({"version": 99})).await;
        assert_eq!((status, &unknown["code"]), (409, &json!("rules_version_unknown")));
        assert_eq!(admin.post("/admin/finalize-version", json!({"verson": 1})).await.1["code"], "unknown_field");
    }
    server.stop().await;
}

#[actix_web::test]
async fn every_verb_of_the_command_line_says_what_the_server_says() {
    let mut server = three_nodes().await;
    let at = node_of(&server.admin().await.get("/admin/books").await.1, "AAA");
    let to = if at == "n1" { "n2" } else { "n1" };
    for (args, contains) in [
        (&["nodes"][..], "waiting_us"),
        (&["books"][..], "AAA"),
        (&["routes"][..], "ACTIVE"),
        (&["decisions"][..], "mode auto"),
        (&["migrate", "AAA", to][..], "COMPLETED"),
        (&["migrations"][..], "OPERATOR"),
        (&["migrations", "1"][..], "WaitForDrain"),
        (&["halt", "BBB"][..], "HALTED"),
        (&["resume", "BBB"][..], "TRADING"),
        (&["list-symbol", "DDD"][..], "DDD"),
        (&["finalize-version"][..], "\"books\":4"),
        (&["drain", "n3"][..], "DRAINING"),
    ] {
        let (is_good, out, err) = cli(&server, args).await;
        assert!(is_good && out.contains(contains), "{args:?}: {out}{err}");
    }
    for (args, code) in [
        (&["migrate", "NOPE", "n1"][..], "unknown_symbol"),
        (&["migrate", "AAA", "n9"][..], "unknown_node"),
        (&["migrate", "AAA", to][..], "already_there"),
        (&["migrations", "99"][..], "unknown_migration"),
        (&["abort", "99"][..], "unknown_migration"),
        (&["abort", "1"][..], "too_late_to_abort"),
        (&["drain", "n9"][..], "unknown_node"),
        (&["halt", "NOPE"][..], "unknown_symbol"),
        (&["resume", "BBB"][..], "not_halted"),
        (&["list-symbol", "AAA"][..], "symbol_exists"),
        (&["finalize-version", "99"][..], "rules_version_unknown"),
    ] {
        let (is_good, out, err) = cli(&server, args).await;
        assert!(!is_good && err.contains(code), "{args:?}: {out}{err}");
    }
    server.stop().await;
}
