//! Returns the text that it is called with. No HTTP: this is what calls in process are measured by.

wit_bindgen::generate!({ world: "replier", path: "wit" });

struct Reply;

impl exports::weft::test::reply::Guest for Reply {
    fn reply(text: String) -> String {
        text
    }
}

export!(Reply);
