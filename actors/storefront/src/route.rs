//! What a request asks for, by its method and path.

use wasip2::http::types::Method;

use crate::answer::Problem;

/// One for each thing that the shop's front can do.
#[derive(Debug, PartialEq)]
pub(crate) enum Route<'a> {
    Page,
    Products,
    Product(&'a str),
    PutProduct(&'a str),
    Rule,
    Quote,
    PlaceOrder,
    Order(&'a str),
    Orders,
    Sales,
    PutImage,
    Image(&'a str),
    Seed,
}

pub(crate) fn of<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, Problem> {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let allowed = match (method, parts.as_slice()) {
        (Method::Get, [""]) => return Ok(Route::Page),
        (_, [""]) => "GET",
        (Method::Get, ["api", "products"]) => return Ok(Route::Products),
        (_, ["api", "products"]) => "GET",
        (Method::Get, ["api", "products", id]) => return Ok(Route::Product(id)),
        (Method::Put, ["api", "products", id]) => return Ok(Route::PutProduct(id)),
        (_, ["api", "products", _]) => "GET, PUT",
        (Method::Get, ["api", "rule"]) => return Ok(Route::Rule),
        (_, ["api", "rule"]) => "GET",
        (Method::Post, ["api", "quotes"]) => return Ok(Route::Quote),
        (_, ["api", "quotes"]) => "POST",
        (Method::Get, ["api", "orders"]) => return Ok(Route::Orders),
        (Method::Post, ["api", "orders"]) => return Ok(Route::PlaceOrder),
        (_, ["api", "orders"]) => "GET, POST",
        (Method::Get, ["api", "orders", id]) => return Ok(Route::Order(id)),
        (_, ["api", "orders", _]) => "GET",
        (Method::Get, ["api", "sales"]) => return Ok(Route::Sales),
        (_, ["api", "sales"]) => "GET",
        (Method::Post, ["api", "images"]) => return Ok(Route::PutImage),
        (_, ["api", "images"]) => "POST",
        (Method::Post, ["api", "seed"]) => return Ok(Route::Seed),
        (_, ["api", "seed"]) => "POST",
        (Method::Get, ["images", id]) => return Ok(Route::Image(id)),
        (_, ["images", _]) => "GET",
        _ => return Err(Problem::not_found(format!("there is nothing at {path}"))),
    };
    Err(Problem::method(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_asked_for() {
        for (method, path, route) in [
            (Method::Get, "/", Route::Page),
            (Method::Get, "", Route::Page),
            (Method::Get, "/api/products", Route::Products),
            (Method::Get, "/api/products/", Route::Products),
            (Method::Get, "/api/products/scarf", Route::Product("scarf")),
            (Method::Put, "/api/products/scarf", Route::PutProduct("scarf")),
            (Method::Get, "/api/rule", Route::Rule),
            (Method::Post, "/api/quotes", Route::Quote),
            (Method::Post, "/api/orders", Route::PlaceOrder),
            (Method::Get, "/api/orders", Route::Orders),
            (Method::Get, "/api/orders/0000-0000", Route::Order("0000-0000")),
            (Method::Get, "/api/sales", Route::Sales),
            (Method::Post, "/api/images", Route::PutImage),
            (Method::Get, "/images/0a1b", Route::Image("0a1b")),
            (Method::Post, "/api/seed", Route::Seed),
        ] {
            assert_eq!(of(&method, path).unwrap(), route);
        }
    }

    #[test]
    fn tells_a_wrong_path_from_a_wrong_method() {
        for path in ["/api", "/api/products/scarf/price", "/nothing", "/images"] {
            assert_eq!(of(&Method::Get, path).unwrap_err().status, 404, "{path}");
        }
        let problem = of(&Method::Delete, "/api/products/scarf").unwrap_err();
        assert_eq!((problem.status, problem.allow), (405, Some("GET, PUT")));
    }
}
