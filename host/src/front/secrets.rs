//! `wasmcloud:secrets`: the secrets that the actor's manifest gives it, and no other.
//!
//! A handle is of the invocation that got it, so that an instance which is reused sees what was put meanwhile.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};
use weft_observability::metrics::Operation;
use weft_secrets::Secret;

use super::operation::observed;
use crate::store::InstanceState;

/// The versions that are served.
pub const VERSIONS: &[&str] = &["0.1.0-draft"];

#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
    #[component(name = "not-found")]
    NotFound,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upstream(reason) | Self::Io(reason) => f.write_str(reason),
            Self::NotFound => f.write_str("this actor has no such secret"),
        }
    }
}

/// No `Debug`: it is the value.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum Value {
    #[component(name = "string")]
    String(String),
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
}

type Context<'a> = StoreContextMut<'a, InstanceState>;
type Answer<'a, T> = Box<dyn Future<Output = wasmtime::Result<(T,)>> + Send + 'a>;

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut store = linker.instance(&format!("wasmcloud:secrets/store@{version}"))?;
        store.resource(
            "secret",
            ResourceType::host::<Secret>(),
            |mut context: Context<'_>, rep| {
                context
                    .data_mut()
                    .table()
                    .delete(Resource::<Secret>::new_own(rep))?;
                Ok(())
            },
        )?;
        store.func_wrap_async("get", get)?;
        let mut reveal = linker.instance(&format!("wasmcloud:secrets/reveal@{version}"))?;
        reveal.func_wrap_async("reveal", self::reveal)?;
    }
    Ok(())
}

fn get<'a>(mut context: Context<'a>, (key,): (String,)) -> Answer<'a, Result<Resource<Secret>, Error>> {
    let call = context.data().call().clone();
    Box::new(async move {
        let found = async {
            match call.target().links.secrets.get(&key) {
                Some(Ok(secret)) => Ok(secret.clone()),
                Some(Err(reason)) => Err(Error::Upstream(reason.clone())),
                None => Err(Error::NotFound),
            }
        };
        Ok((match observed(&call, Operation::SecretsGet, found).await {
            Ok(secret) => Ok(context.data_mut().table().push(secret)?),
            Err(error) => Err(error),
        },))
    })
}

fn reveal<'a>(mut context: Context<'a>, (handle,): (Resource<Secret>,)) -> Answer<'a, Value> {
    Box::new(async move {
        let call = context.data().call().clone();
        let secret = context.data_mut().table().get(&handle)?.clone();
        let revealed = async {
            Ok::<_, Error>(match secret.reveal_text() {
                Some(text) => Value::String(text.to_owned()),
                None => Value::Bytes(secret.reveal().to_vec()),
            })
        };
        let value = observed(&call, Operation::SecretsReveal, revealed).await;
        Ok((value.map_err(|error| wasmtime::format_err!("{error}"))?,))
    })
}
