//! Something to sell, for who tries the shop: what is missing of the demo products, with their pictures.

use serde_json::json;

use crate::answer::{Answer, Problem};
use crate::shop::api::catalog::{self, Product};
use crate::shop::api::images;

struct Demo {
    id: &'static str,
    name: &'static str,
    description: &'static str,
    price_cents: u32,
    picture: &'static [u8],
}

macro_rules! demo {
    ($id:literal, $name:literal, $price:literal, $description:literal) => {
        Demo {
            id: $id,
            name: $name,
            description: $description,
            price_cents: $price,
            picture: include_bytes!(concat!("../pictures/", $id, ".png")),
        }
    };
}

const DEMOS: [Demo; 8] = [
    demo!(
        "blanket",
        "Wool blanket",
        12_900,
        "Heavy, warm, in a twill that lasts. 140 by 200 cm."
    ),
    demo!(
        "cushion",
        "Diamond cushion",
        3_900,
        "A cotton cover, hand-woven, with a zip. 45 by 45 cm."
    ),
    demo!(
        "hammock",
        "Striped hammock",
        8_900,
        "Carries two, or one with all their books."
    ),
    demo!(
        "rug",
        "Plain-weave rug",
        24_900,
        "The simplest weave there is, and the hardest wearing."
    ),
    demo!(
        "scarf",
        "Herringbone scarf",
        4_900,
        "Lambswool, soft enough for bare necks."
    ),
    demo!(
        "shuttle",
        "Boat shuttle",
        2_400,
        "Of beech, waxed. Carries the weft through the shed."
    ),
    demo!(
        "towel",
        "Linen towel",
        1_600,
        "Dries glasses without a thread left behind."
    ),
    demo!(
        "yarn",
        "Ball of yarn",
        900,
        "Four-ply wool, 100 g. Enough for a hat or two mittens."
    ),
];

/// Adds what is missing, and leaves what is there as it is: it may have another price by now.
pub(crate) fn run() -> Result<Answer, Problem> {
    let mut added = Vec::new();
    let mut source = String::new();
    for demo in &DEMOS {
        let found = catalog::get(demo.id)?;
        source = found.source;
        if found.product.is_none() {
            let image = images::put(demo.picture)?;
            source = catalog::put(&demo.product(image))?;
            added.push(demo.id);
        }
    }
    Ok(Answer::json(200, &json!({ "added": added, "source": source })))
}

impl Demo {
    fn product(&self, image: String) -> Product {
        Product {
            id: self.id.to_owned(),
            name: self.name.to_owned(),
            description: self.description.to_owned(),
            price_cents: self.price_cents,
            image: Some(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_are_png_and_small_enough_to_be_carried_along() {
        for demo in &DEMOS {
            assert!(demo.picture.starts_with(b"\x89PNG\r\n"), "{}", demo.id);
        }
        let bytes: usize = DEMOS.iter().map(|demo| demo.picture.len()).sum();
        assert!(bytes < 128 * 1024, "{bytes}");
    }
}
