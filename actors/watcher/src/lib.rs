//! Writes down what it is told of changes of keys, by `wasi:keyvalue/watcher@0.2.0-draft`.
//!
//! In the bucket `told` of its own link it keeps of each key how often it was set and deleted (`KEY.sets`,
//! `KEY.deletes`), all values in the order in which they were told, `-` for none (`KEY.values`), and what the bucket that
//! it was told of had at that moment (`KEY.seen`). The value `trap` traps, `slow:MS` takes so long.

wit_bindgen::generate!({
    world: "weft:watcher/watcher",
    path: ["../../wit/deps/keyvalue.wit", "wit"],
    generate_all,
});

use exports::wasi::keyvalue::watcher::Guest;
use wasi::keyvalue::atomics;
use wasi::keyvalue::store::{self, Bucket, Error};
use weft_guest_support::sleep;

export!(Watcher);

struct Watcher;

impl Guest for Watcher {
    fn on_set(bucket: Bucket, key: String, value: Vec<u8>) {
        let text = String::from_utf8_lossy(&value).into_owned();
        match text.split_once(':') {
            _ if text == "trap" => panic!("a change that traps"),
            Some(("slow", millis)) => {
                sleep(std::time::Duration::from_millis(millis.parse().unwrap_or(0)));
            }
            _ => {}
        }
        tell(&bucket, &key, "sets", &text).expect("the bucket `told` takes what it is told");
    }

    fn on_delete(bucket: Bucket, key: String) {
        tell(&bucket, &key, "deletes", "-").expect("the bucket `told` takes what it is told");
    }
}

fn tell(bucket: &Bucket, key: &str, count: &str, value: &str) -> Result<(), Error> {
    let told = store::open("told")?;
    let values = format!("{key}.values");
    let mut all = told.get(&values)?.unwrap_or_default();
    if !all.is_empty() {
        all.push(b',');
    }
    all.extend_from_slice(value.as_bytes());
    told.set(&values, &all)?;
    let seen = bucket.get(key)?.unwrap_or_else(|| b"-".to_vec());
    told.set(&format!("{key}.seen"), &seen)?;
    atomics::increment(&told, &format!("{key}.{count}"), 1)?;
    Ok(())
}
