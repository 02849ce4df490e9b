//! `wasi:keyvalue` in its two drafts, over whatever store the actor is linked to.
//!
//! Owns the two shapes: 0.2.0-draft counts pages with a number and adds unsigned numbers, 0.2.0-draft2 names the last
//! key seen, adds signed ones and has compare-and-swap. All else is the same functions under two names.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};
use weft_capabilities::key_value::{Bucket, KeyValue, KeyValueError, Page, Swap};
use weft_compose::Capability;
use weft_observability::metrics::Operation;

use super::operation::observed;
use crate::invocation::Call;
use crate::link::{Import, NameIndex};
use crate::store::InstanceState;

const DRAFT: &str = "0.2.0-draft";
const DRAFT2: &str = "0.2.0-draft2";
/// The versions that are served.
pub const VERSIONS: &[&str] = &[DRAFT, DRAFT2];
/// Keys in one page of a listing.
const PAGE_LEN: usize = 1_000;
/// How far the numbered pages of 0.2.0-draft go: each is found by walking over those before it.
const PAGES_MAX: u64 = 1_000;

type Context<'a> = StoreContextMut<'a, InstanceState>;
type Answer<'a, T> = Box<dyn Future<Output = wasmtime::Result<(Result<T, Error>,)>> + Send + 'a>;

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::NoSuchStore => Self::NoSuchStore,
            KeyValueError::AccessDenied => Self::AccessDenied,
            // What a backend says of itself is the operator's; the guest learns that it failed.
            error => Self::Other(error.to_string()),
        }
    }
}

/// What a guest's `bucket` stands for.
pub(crate) struct OpenBucket {
    at: At,
    /// What the guest asked for: if it chooses another link, that is a bucket there.
    name: String,
    link: NameIndex,
    /// It came with a change that the guest is told, and ends with that call.
    is_told: bool,
}

impl OpenBucket {
    /// What a guest is told of a change with: the bucket of the key, of whatever store it watches.
    pub(crate) fn told(store: Arc<dyn KeyValue>, bucket: Bucket, name: &str) -> Self {
        Self {
            at: At { store, bucket },
            name: name.to_owned(),
            link: NameIndex::DEFAULT,
            is_told: true,
        }
    }

    /// Whether it is what the same call would open in another invocation.
    pub(crate) fn outlives(&self) -> bool {
        self.link == NameIndex::DEFAULT && !self.is_told
    }
}

/// A bucket of a store.
#[derive(Clone)]
struct At {
    store: Arc<dyn KeyValue>,
    bucket: Bucket,
}

/// What a guest's `cas` stands for: a value as it was seen.
struct Seen {
    bucket: At,
    key: String,
    value: Option<Bytes>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct NumberedPage {
    keys: Vec<String>,
    cursor: Option<u64>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct NamedPage {
    keys: Vec<String>,
    cursor: Option<String>,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum SwapError {
    #[component(name = "store-error")]
    Store(Error),
    #[component(name = "cas-failed")]
    Changed(Resource<Seen>),
}

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        store.resource(
            "bucket",
            ResourceType::host::<OpenBucket>(),
            |mut context: Context<'_>, rep| {
                context
                    .data_mut()
                    .table()
                    .delete(Resource::<OpenBucket>::new_own(rep))?;
                Ok(())
            },
        )?;
        store.func_wrap("open", open)?;
        store.func_wrap_async("[method]bucket.get", get)?;
        store.func_wrap_async("[method]bucket.set", set)?;
        store.func_wrap_async("[method]bucket.delete", delete)?;
        store.func_wrap_async("[method]bucket.exists", exists)?;
        if *version == DRAFT {
            store.func_wrap_async("[method]bucket.list-keys", list_numbered)?;
        } else {
            store.func_wrap_async("[method]bucket.list-keys", list_named)?;
        }

        let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        batch.func_wrap_async("get-many", get_many)?;
        batch.func_wrap_async("set-many", set_many)?;
        batch.func_wrap_async("delete-many", delete_many)?;
    }
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{DRAFT}"))?;
    atomics.func_wrap_async("increment", increment_unsigned)?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{DRAFT2}"))?;
    atomics.func_wrap_async("increment", increment_signed)?;
    add_swap(&mut atomics)
}

fn add_swap(atomics: &mut LinkerInstance<'_, InstanceState>) -> wasmtime::Result<()> {
    atomics.resource(
        "cas",
        ResourceType::host::<Seen>(),
        |mut context: Context<'_>, rep| {
            context
                .data_mut()
                .table()
                .delete(Resource::<Seen>::new_own(rep))?;
            Ok(())
        },
    )?;
    atomics.func_wrap_async("[static]cas.new", see)?;
    atomics.func_wrap_async("[method]cas.current", current)?;
    atomics.func_wrap_async("swap", swap)
}

fn open(
    mut context: Context<'_>,
    (name,): (String,),
) -> wasmtime::Result<(Result<Resource<OpenBucket>, Error>,)> {
    let call = context.data().call().clone();
    let link = call.chosen.of(Import::KEY_VALUE);
    let at = match named(&call, link, &name) {
        Ok(at) => at,
        Err(error) => return Ok((Err(error.into()),)),
    };
    let is_told = false;
    let open = OpenBucket {
        at,
        name,
        link,
        is_told,
    };
    let handle = context.data_mut().table().push(open)?;
    Ok((Ok(handle),))
}

/// The bucket that a name stands for by a link.
fn named(call: &Call, link: NameIndex, name: &str) -> Result<At, KeyValueError> {
    let links = call.target().links.by(link);
    let Some(link) = &links.key_value else {
        return Err(match links.denies(Capability::KeyValue) {
            true => KeyValueError::AccessDenied,
            false => KeyValueError::NoSuchStore,
        });
    };
    let name = link.bucket.as_deref().unwrap_or(name);
    let bucket = match &link.scope {
        Some((namespace, app)) => Bucket::scoped(namespace, app, name),
        None => Bucket::shared(name),
    };
    bucket.prefix()?;
    Ok(At {
        store: link.store.clone(),
        bucket,
    })
}

/// The bucket of a handle, and the call that uses it, of a function of `import`. A handle is a name: if another link was
/// chosen since, it is the bucket of that name there, as it was in wasmCloud.
fn opened(
    context: &mut Context<'_>,
    handle: &Resource<OpenBucket>,
    import: Import,
) -> wasmtime::Result<(Arc<Call>, Result<At, KeyValueError>)> {
    let call = context.data().call().clone();
    let link = call.chosen.of(import);
    let bucket = context.data_mut().table().get(handle)?;
    let at = match bucket.link == link {
        true => Ok(bucket.at.clone()),
        false => named(&call, link, &bucket.name),
    };
    Ok((call, at))
}

/// A function of an interface as one operation of the store.
macro_rules! operation {
    ($import:ident, $name:ident, $operation:ident, ($($argument:ident: $type:ty),*) -> $output:ty, |$at:ident| $body:expr) => {
        fn $name<'a>(
            mut context: Context<'a>,
            (handle, $($argument),*): (Resource<OpenBucket>, $($type),*),
        ) -> Answer<'a, $output> {
            let opened = opened(&mut context, &handle, Import::$import);
            Box::new(async move {
                let (call, at) = opened?;
                let done = async {
                    let $at = at?;
                    $body
                };
                let result = observed(&call, Operation::$operation, done).await;
                Ok((result.map_err(Error::from),))
            })
        }
    };
}

operation!(KEY_VALUE, get, KeyValueGet, (key: String) -> Option<Vec<u8>>, |at| {
    Ok::<_, KeyValueError>(at.store.get(&at.bucket, &key).await?.map(Vec::from))
});
operation!(KEY_VALUE, set, KeyValueSet, (key: String, value: Vec<u8>) -> (), |at| {
    at.store.set(&at.bucket, &key, value.into()).await
});
operation!(KEY_VALUE, delete, KeyValueDelete, (key: String) -> (), |at| at.store.delete(&at.bucket, &key).await);
operation!(KEY_VALUE, exists, KeyValueExists, (key: String) -> bool, |at| at.store.exists(&at.bucket, &key).await);
operation!(KEY_VALUE, list_named, KeyValueListKeys, (cursor: Option<String>) -> NamedPage, |at| {
    let Page { keys, cursor } = at.store.list_keys(&at.bucket, cursor.as_deref(), PAGE_LEN).await?;
    Ok::<_, KeyValueError>(NamedPage { keys, cursor })
});
operation!(KEY_VALUE, list_numbered, KeyValueListKeys, (cursor: Option<u64>) -> NumberedPage, |at| {
    numbered_page(&at, cursor.unwrap_or(0)).await
});
operation!(KEY_VALUE_ATOMICS, increment_signed, KeyValueIncrement, (key: String, delta: i64) -> i64, |at| {
    at.store.increment(&at.bucket, &key, delta).await
});
operation!(KEY_VALUE_ATOMICS, increment_unsigned, KeyValueIncrement, (key: String, delta: u64) -> u64, |at| {
    let out_of_range = || KeyValueError::OutOfRange { key: key.clone() };
    let delta = i64::try_from(delta).map_err(|_| out_of_range())?;
    let sum = at.store.increment(&at.bucket, &key, delta).await?;
    u64::try_from(sum).map_err(|_| out_of_range())
});
operation!(KEY_VALUE_BATCH, get_many, KeyValueGetMany, (keys: Vec<String>) -> Vec<Option<(String, Vec<u8>)>>, |at| {
    let values = at.store.get_many(&at.bucket, &keys).await?;
    let pairs = std::iter::zip(keys.iter(), values);
    Ok::<_, KeyValueError>(pairs.map(|(key, value)| Some((key.clone(), Vec::from(value?)))).collect())
});
operation!(KEY_VALUE_BATCH, set_many, KeyValueSetMany, (entries: Vec<(String, Vec<u8>)>) -> (), |at| {
    let entries = entries.into_iter().map(|(key, value)| (key, value.into())).collect();
    at.store.set_many(&at.bucket, entries).await
});
operation!(KEY_VALUE_BATCH, delete_many, KeyValueDeleteMany, (keys: Vec<String>) -> (), |at| {
    at.store.delete_many(&at.bucket, &keys).await
});

/// The page at a number of pages from the start. Keys that come or go in between shift what follows, as the number
/// says nothing of keys; the later draft has no such gap.
async fn numbered_page(at: &At, number: u64) -> Result<NumberedPage, KeyValueError> {
    if number >= PAGES_MAX {
        return Err(KeyValueError::Unavailable(format!(
            "numbered pages end after {PAGES_MAX}; use wasi:keyvalue@{DRAFT2}, whose cursor is the last key"
        )));
    }
    let mut cursor: Option<String> = None;
    for _ in 0..number {
        match at
            .store
            .list_keys(&at.bucket, cursor.as_deref(), PAGE_LEN)
            .await?
            .cursor
        {
            Some(last) => cursor = Some(last),
            None => {
                return Ok(NumberedPage {
                    keys: Vec::new(),
                    cursor: None,
                });
            }
        }
    }
    let page = at
        .store
        .list_keys(&at.bucket, cursor.as_deref(), PAGE_LEN)
        .await?;
    Ok(NumberedPage {
        cursor: page.cursor.map(|_| number + 1),
        keys: page.keys,
    })
}

fn see<'a>(
    mut context: Context<'a>,
    (handle, key): (Resource<OpenBucket>, String),
) -> Answer<'a, Resource<Seen>> {
    let opened = opened(&mut context, &handle, Import::KEY_VALUE_ATOMICS);
    Box::new(async move {
        let (call, at) = opened?;
        let read = async {
            let bucket = at?;
            let value = bucket.store.get(&bucket.bucket, &key).await?;
            Ok::<_, KeyValueError>((bucket, value))
        };
        Ok((match observed(&call, Operation::KeyValueGet, read).await {
            Ok((bucket, value)) => Ok(context.data_mut().table().push(Seen { bucket, key, value })?),
            Err(error) => Err(error.into()),
        },))
    })
}

fn current<'a>(mut context: Context<'a>, (handle,): (Resource<Seen>,)) -> Answer<'a, Option<Vec<u8>>> {
    let value = context
        .data_mut()
        .table()
        .get(&handle)
        .map(|seen| seen.value.clone());
    Box::new(async move { Ok((Ok(value?.map(Vec::from)),)) })
}

type SwapAnswer<'a> = Box<dyn Future<Output = wasmtime::Result<(Result<(), SwapError>,)>> + Send + 'a>;

fn swap<'a>(mut context: Context<'a>, (handle, value): (Resource<Seen>, Vec<u8>)) -> SwapAnswer<'a> {
    let call = context.data().call().clone();
    Box::new(async move {
        let Seen {
            bucket,
            key,
            value: seen,
        } = context.data_mut().table().delete(handle)?;
        let swapping = bucket
            .store
            .compare_and_swap(&bucket.bucket, &key, seen, value.into());
        let swapped = observed(&call, Operation::KeyValueSwap, swapping).await;
        Ok((match swapped {
            Ok(Swap::Done) => Ok(()),
            Ok(Swap::Changed(value)) => {
                let seen = Seen { bucket, key, value };
                Err(SwapError::Changed(context.data_mut().table().push(seen)?))
            }
            Err(error) => Err(SwapError::Store(error.into())),
        },))
    })
}
