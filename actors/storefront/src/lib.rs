//! The shop's front: a page, an API in JSON, and pictures. It keeps nothing; the other four actors do the work.
//!
//! `route.rs` tells what was asked for, `api.rs` does it, `http.rs` reads requests and sends answers.

wit_bindgen::generate!({
    world: "shop:storefront/storefront",
    path: ["../../compose/apps/shop/wit", "wit"],
    additional_derives: [Clone, PartialEq, serde::Serialize],
    generate_all,
});

mod answer;
mod api;
mod http;
mod input;
mod route;
mod seed;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use answer::{Answer, Problem};
use route::Route;

wasip2::http::proxy::export!(Storefront);

struct Storefront;

const PAGE: &str = include_str!("page.html");

/// An order of fifty lines is 5 KB.
const JSON_LEN_MAX: usize = 64 * 1024;
/// What a camera makes, and room for it twice in an instance's memory.
const PICTURE_LEN_MAX: usize = 16 * 1024 * 1024;

impl Guest for Storefront {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let answer = answer(&request).unwrap_or_else(Answer::from);
        http::send(response_out, &answer);
    }
}

fn answer(request: &IncomingRequest) -> Result<Answer, Problem> {
    let target = request.path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let json = || http::body(request, JSON_LEN_MAX);
    match route::of(&request.method(), path)? {
        Route::Page => Ok(Answer::page(PAGE)),
        Route::Products => api::products(),
        Route::Product(id) => api::product(id),
        Route::PutProduct(id) => api::put_product(id, &json()?),
        Route::Rule => Ok(api::rule()),
        Route::Quote => api::quote(&json()?),
        Route::PlaceOrder => api::place_order(&json()?),
        Route::Order(id) => api::order(id),
        Route::Orders => api::orders(),
        Route::Sales => api::sales(),
        Route::PutImage => api::put_image(&http::body(request, PICTURE_LEN_MAX)?),
        Route::Image(id) => api::image(id),
        Route::Seed => seed::run(),
    }
}
