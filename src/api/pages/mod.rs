//! Pages that work offline: trading, operation, the API's description and its reader.

use actix_web::http::header;
use actix_web::{HttpResponse, web};

use super::edge::{Edge, Shared};
use super::error::{Code, EdgeError};
use super::openapi;
use crate::actors::directory::BookStatus;

/// A page loads and asks nothing but this server, runs no script that is not a file of ours, makes no markup out of
/// text, and is shown in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The files beside this one.
#[derive(rust_embed::Embed)]
#[folder = "src/api/pages/files"]
struct Files;

/// Registers the trading page.
pub fn trading(config: &mut web::ServiceConfig) {
    config.service(web::resource("/").get(|| file("index.html")));
}

/// Registers the others, and where `/` leads without the trading page.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::redirect("/", "/ops"))
        .service(web::resource("/ops").get(|| file("ops.html")))
        .service(web::resource("/docs").get(|| file("docs.html")))
        .service(web::resource("/assets/{name}").get(async |name: web::Path<String>| file(&name).await))
        .service(web::resource("/openapi.json").get(description))
        .service(web::resource("/metrics").get(metrics));
}

/// A page, or a part of one. A browser asks again each time: a new build shows at once.
async fn file(name: &str) -> Result<HttpResponse, EdgeError> {
    let found = Files::get(name).zip(content_type(name)).ok_or_else(|| EdgeError::new(Code::NotFound))?;
    let (file, content_type) = found;
    Ok(HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(file.data.into_owned()))
}

fn content_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    match extension {
        "html" => Some("text/html; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

async fn description() -> HttpResponse {
    HttpResponse::Ok().json(openapi::description())
}

/// Numbers of all books together: one per book would be thousands of series.
fn gauge_books(edge: &Edge) {
    let books = edge.exchange.fleet().books();
    let sum = |f: fn(&BookStatus) -> u64| books.iter().map(|b| f(b)).sum::<u64>() as f64;
    metrics::gauge!("hotbook_books").set(books.len() as f64);
    metrics::gauge!("hotbook_books_active").set(sum(|b| u64::from(b.is_active())));
    metrics::gauge!("hotbook_book_resting_orders").set(sum(BookStatus::orders));
    metrics::gauge!("hotbook_book_lag_records_max").set(books.iter().map(|b| b.lag()).max().unwrap_or(0) as f64);
    let standbys: Vec<_> = books.iter().filter_map(|b| edge.exchange.fleet().follower_of(&b.symbol)).collect();
    let (level, lag) = (standbys.iter().filter(|s| s.is_level).count(), standbys.iter().map(|s| s.lag).max());
    metrics::gauge!("hotbook_standbys").set(standbys.len() as f64);
    metrics::gauge!("hotbook_standbys_level").set(level as f64);
    metrics::gauge!("hotbook_standby_lag_records_max").set(lag.unwrap_or(0) as f64);
    let fleet = edge.exchange.fleet();
    metrics::gauge!("hotbook_books_followed").set(fleet.guests().count(fleet) as f64);
    metrics::counter!("hotbook_book_records_applied_total").absolute(sum(BookStatus::applied) as u64);
    metrics::counter!("hotbook_book_restarts_total").absolute(sum(BookStatus::restarts) as u64);
}

fn gauge_nodes(edge: &Edge) {
    for node in edge.exchange.fleet().views() {
        let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "node" => node.id.to_string()).set(value);
        gauge("hotbook_node_load", node.load);
        gauge("hotbook_node_books", node.books as f64);
        gauge("hotbook_node_records_per_second", node.rate);
        gauge("hotbook_node_lag_records", node.lag as f64);
        gauge("hotbook_node_waiting_us", node.waiting_us as f64);
        gauge("hotbook_node_leads", f64::from(u8::from(node.leads)));
    }
}

async fn metrics(edge: Shared) -> HttpResponse {
    gauge_books(&edge);
    gauge_nodes(&edge);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(edge.metrics.render())
}
