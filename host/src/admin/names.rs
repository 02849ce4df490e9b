//! Short names: `catalog` and `shop/catalog` stand for `default/shop/catalog` where nothing else ends like that.

use std::fmt::Display;

use axum::http::StatusCode;
use weft_compose::fault::Near;

use super::problem::Problem;

/// Candidates that an error lists.
const CANDIDATES_MAX: usize = 10;

/// The one of `known` that `text` stands for. `kind` is what they are, for errors.
pub(super) fn complete<'a, N>(
    kind: &str,
    text: &str,
    known: impl Iterator<Item = &'a N> + Clone,
) -> Result<N, Problem>
where
    N: Clone + Display + 'a,
{
    let fits = |name: &&N| {
        let name = name.to_string();
        name.strip_suffix(text)
            .is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    let mut found: Vec<&N> = known.clone().filter(fits).collect();
    match found.as_slice() {
        [name] => return Ok((*name).clone()),
        [] => {}
        names => {
            let full = names.iter().find(|name| name.to_string() == text);
            if let Some(name) = full {
                return Ok((*name).clone());
            }
            let more = names.len().saturating_sub(CANDIDATES_MAX);
            found.truncate(CANDIDATES_MAX);
            let names: Vec<_> = found.iter().map(ToString::to_string).collect();
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let detail = format!(
                "`{text}` may be {}{more}: write more of the {kind}'s name",
                names.join(" or ")
            );
            return Err(
                Problem::new(StatusCode::CONFLICT, "ambiguous-name", detail).with("candidates", names)
            );
        }
    }
    // Compared with as many parts of each name as were given.
    let parts = text.split('/').count();
    let known: Vec<_> = known.map(ToString::to_string).collect();
    let tails = known.iter().map(|name| {
        let at = name.rmatch_indices('/').nth(parts - 1);
        at.map_or(name.as_str(), |(at, _)| &name[at + 1..])
    });
    let near = Near::of(text, tails);
    let text: String = text.chars().take(200).collect();
    let detail = format!("no {kind} `{text}` is deployed{near}");
    Err(Problem::new(StatusCode::NOT_FOUND, "unknown-name", detail))
}

#[cfg(test)]
mod tests {
    use weft_compose::ActorName;

    use super::*;

    fn complete_actor(text: &str) -> Result<String, String> {
        let known = [
            "default/shop/catalog",
            "default/shop/orders",
            "default/blog/catalog",
            "test/a/b",
        ];
        let known: Vec<ActorName> = known.iter().map(|name| name.parse().unwrap()).collect();
        let found = complete("actor", text, known.iter());
        found
            .map(|name| name.to_string())
            .map_err(|problem| problem.detail)
    }

    #[test]
    fn a_unique_end_of_a_name_stands_for_it() {
        for text in ["orders", "shop/orders", "default/shop/orders"] {
            assert_eq!(complete_actor(text).as_deref(), Ok("default/shop/orders"));
        }
        assert_eq!(
            complete_actor("blog/catalog").as_deref(),
            Ok("default/blog/catalog")
        );
    }

    #[test]
    fn an_end_of_several_names_lists_them() {
        let error = complete_actor("catalog").unwrap_err();
        assert_eq!(
            error,
            "`catalog` may be default/shop/catalog or default/blog/catalog: write more of the actor's name"
        );
    }

    #[test]
    fn a_name_that_is_not_there_gets_the_nearest_one() {
        assert_eq!(
            complete_actor("shop/order").unwrap_err(),
            "no actor `shop/order` is deployed; did you mean `shop/orders`?"
        );
        assert_eq!(
            complete_actor("rders").unwrap_err(),
            "no actor `rders` is deployed; did you mean `orders`?"
        );
        assert_eq!(
            complete_actor("nothing-like-it").unwrap_err(),
            "no actor `nothing-like-it` is deployed"
        );
    }
}
