//! Pages that work offline: the start page, the API's description and its reader.

use actix_web::{HttpResponse, web};

use super::edge::{Edge, Shared};
use super::openapi;
use crate::actors::directory::BookStatus;

/// The files beside this one.
#[derive(rust_embed::Embed)]
#[folder = "src/api/pages/files"]
struct Files;

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/").get(|| page("index.html")))
        .service(web::resource("/docs").get(|| page("docs.html")))
        .service(web::resource("/openapi.json").get(description))
        .service(web::resource("/metrics").get(metrics));
}

async fn page(name: &'static str) -> HttpResponse {
    match Files::get(name) {
        Some(file) => HttpResponse::Ok().content_type("text/html; charset=utf-8").body(file.data.into_owned()),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn description() -> HttpResponse {
    HttpResponse::Ok().json(openapi::description())
}

/// Numbers of all books together: one per book would be thousands of series.
fn gauge_books(edge: &Edge) {
    let books = edge.exchange.directory().all();
    let sum = |f: fn(&BookStatus) -> u64| books.iter().map(|b| f(b)).sum::<u64>() as f64;
    metrics::gauge!("hotbook_books").set(books.len() as f64);
    metrics::gauge!("hotbook_books_active").set(sum(|b| u64::from(b.is_active())));
    metrics::gauge!("hotbook_book_resting_orders").set(sum(BookStatus::orders));
    metrics::gauge!("hotbook_book_lag_records_max").set(books.iter().map(|b| b.lag()).max().unwrap_or(0) as f64);
    metrics::counter!("hotbook_book_records_applied_total").absolute(sum(BookStatus::applied) as u64);
    metrics::counter!("hotbook_book_restarts_total").absolute(sum(BookStatus::restarts) as u64);
}

async fn metrics(edge: Shared) -> HttpResponse {
    gauge_books(&edge);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(edge.metrics.render())
}
