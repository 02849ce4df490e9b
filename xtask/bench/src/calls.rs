//! One actor calls another on the same host: the guest `callee` calls itself with bytes, which are returned.
//!
//! In bare wasmtime the import is a host function that does what anyone's would: a new store, an instance, one typed
//! call. The guest's clock times each call, so both sides pay for reading it.

use std::sync::Arc;

use serde_json::{Value, json};
use wasmtime::component::Linker;
use wasmtime::{Result, bail};
use weft_compose::record::LinkTarget;

use crate::bare::{Bare, BareState, component};
use crate::rounds::{Pairs, round, us};
use crate::weft::{Providers, Target, Weft, actor_name};

const GUEST: &str = "callee";
const INTERFACE: &str = "test:call/echo";
/// Bytes there and back, and calls in one invocation.
const SIZES: [(u32, u32); 4] = [(16, 100), (1 << 10, 100), (64 << 10, 20), (1 << 20, 5)];

pub(crate) async fn measure(weft: &Weft, rounds: usize) -> Result<Value> {
    let loaded = weft.load(GUEST).await?;
    let component = component(weft.engine.wasmtime(), &weft.machine_code(loaded.digest))?;
    let callee = Bare::new(&component, (INTERFACE, "bytes"), refuse)?;
    let bare = Bare::new(&component, (INTERFACE, "repeat"), |linker| {
        import(linker, Some(Arc::new(callee)))
    })?;
    let to_itself = LinkTarget::Actor {
        name: actor_name(GUEST)?,
    };
    let links = [(GUEST, INTERFACE, to_itself)];
    let state = weft.state(vec![(GUEST, loaded)], &links, &Providers::new())?;
    let ours = Target::new(&state, GUEST, (INTERFACE, "repeat"))?;

    let mut by_size = SIZES.map(|_| Pairs::default());
    for _ in 0..rounds {
        for ((len, n), pairs) in std::iter::zip(SIZES, &mut by_size) {
            pairs.add(
                round(async || Ok(each(bare.call((n, len)).await?))).await?,
                round(async || Ok(each(ours.call((n, len)).await?))).await?,
            );
        }
    }
    let reports =
        std::iter::zip(SIZES, &by_size).map(|((len, _), pairs)| json!({ "len": len, "us": pairs.report() }));
    Ok(reports.collect())
}

/// What the guest imports, for one that does not call it.
pub(crate) fn refuse(linker: &mut Linker<BareState>) -> Result<()> {
    import(linker, None)
}

/// What the guest imports: `bytes` goes to a new instance of `callee`.
fn import(linker: &mut Linker<BareState>, callee: Option<Arc<Bare>>) -> Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    interface.func_wrap_async("bytes", move |_, (bytes,): (Vec<u8>,)| {
        let callee = callee.clone();
        Box::new(async move {
            match callee {
                Some(callee) => Ok((callee.call::<_, Vec<u8>>((bytes,)).await?,)),
                None => bail!("the callee calls nobody"),
            }
        })
    })?;
    interface.func_wrap("deep", |_, _: (u32,)| -> Result<(u32,)> {
        bail!("nobody calls this")
    })
}

fn each(nanos: Vec<u64>) -> Vec<f64> {
    nanos.into_iter().map(us).collect()
}
