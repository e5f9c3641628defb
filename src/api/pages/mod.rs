//! Pages that work offline: the start page, the API's description and its reader.

use actix_web::{HttpResponse, web};

use super::edge::Shared;
use super::openapi;

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

async fn metrics(edge: Shared) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(edge.metrics.render())
}
