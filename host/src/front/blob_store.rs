//! `wasi:blobstore`, over whatever store the actor is linked to.
//!
//! Owns containers, their objects, and the words in which errors reach the guest; `blob_store/value.rs` owns the bytes on
//! their way. All of it ends with the invocation: an object that is not whole by then never was.

mod names;
mod value;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};
use weft_capabilities::blob_store::PAGE_LEN_MAX;
use weft_capabilities::{BlobError, BlobStore, Container, Object};
use weft_compose::Capability;
use weft_observability::metrics::Operation;

use super::operation::observed;
use crate::invocation::Call;
use crate::link::{Import, NameIndex};
use crate::store::InstanceState;

/// The versions that are served.
pub const VERSIONS: &[&str] = &["0.2.0-draft"];

type Context<'a> = StoreContextMut<'a, InstanceState>;
type Answer<'a, T> = Box<dyn Future<Output = wasmtime::Result<(Result<T, String>,)>> + Send + 'a>;

/// What a guest's `container` stands for.
struct OpenContainer {
    at: At,
    /// What the guest asked for: if it chooses another link, that is a container there.
    name: String,
    link: NameIndex,
}

/// A container of a store.
#[derive(Clone)]
struct At {
    store: Arc<dyn BlobStore>,
    container: Container,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct ContainerMetadata {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct ObjectMetadata {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        value::add_to_linker(&mut linker.instance(&format!("wasi:blobstore/types@{version}"))?)?;

        let mut container = linker.instance(&format!("wasi:blobstore/container@{version}"))?;
        container.resource(
            "container",
            ResourceType::host::<OpenContainer>(),
            drop_of::<OpenContainer>,
        )?;
        container.func_wrap("[method]container.name", name)?;
        container.func_wrap_async("[method]container.info", info)?;
        container.func_wrap_async("[method]container.get-data", value::get_data)?;
        container.func_wrap_async("[method]container.write-data", value::write_data)?;
        container.func_wrap_async("[method]container.delete-object", delete_object)?;
        container.func_wrap_async("[method]container.delete-objects", delete_objects)?;
        container.func_wrap_async("[method]container.has-object", has_object)?;
        container.func_wrap_async("[method]container.object-info", object_info)?;
        container.func_wrap_async("[method]container.clear", clear)?;
        names::add_to_linker(&mut container)?;

        let mut blobstore = linker.instance(&format!("wasi:blobstore/blobstore@{version}"))?;
        blobstore.func_wrap_async("create-container", create_container)?;
        blobstore.func_wrap_async("get-container", get_container)?;
        blobstore.func_wrap_async("delete-container", delete_container)?;
        blobstore.func_wrap_async("container-exists", container_exists)?;
        blobstore.func_wrap_async("copy-object", copy_object)?;
        blobstore.func_wrap_async("move-object", move_object)?;
    }
    Ok(())
}

/// Ends a resource of the type `T`.
fn drop_of<T: Send + 'static>(mut context: Context<'_>, rep: u32) -> wasmtime::Result<()> {
    context.data_mut().table().delete(Resource::<T>::new_own(rep))?;
    Ok(())
}

/// What a guest is told of an error. What a backend says of itself is the operator's; the guest learns that it failed.
fn told(error: BlobError) -> String {
    error.to_string()
}

/// A container by the name that the guest has for it.
fn named(call: &Call, name: &str) -> Result<At, BlobError> {
    linked(call, call.chosen.of(Import::BLOB_STORE), name)
}

/// The container that a name stands for by a link.
fn linked(call: &Call, link: NameIndex, name: &str) -> Result<At, BlobError> {
    let links = call.target().links.by(link);
    let Some(link) = &links.blob_store else {
        if links.denies(Capability::BlobStore) {
            return Err(BlobError::AccessDenied);
        }
        return Err(BlobError::Unavailable(
            "this actor is linked to no blob store".to_owned(),
        ));
    };
    let name = link.container.as_deref().unwrap_or(name);
    let container = match &link.scope {
        Some((namespace, app)) => Container::scoped(namespace, app, name)?,
        None => Container::shared(name)?,
    };
    Ok(At {
        store: link.store.clone(),
        container,
    })
}

/// A handle of a container that is there.
fn push(
    context: &mut Context<'_>,
    call: &Call,
    name: String,
    at: At,
) -> wasmtime::Result<Resource<OpenContainer>> {
    let link = call.chosen.of(Import::BLOB_STORE);
    Ok(context
        .data_mut()
        .table()
        .push(OpenContainer { at, name, link })?)
}

fn object(call: &Call, id: &ObjectId) -> Result<(Arc<dyn BlobStore>, Object), BlobError> {
    let At { store, container } = named(call, &id.container)?;
    Ok((store, container.object(&id.object)?))
}

/// The container of a handle, and the call that uses it. A handle is a name: if another link was chosen since, it is the
/// container of that name there, as it was in wasmCloud.
fn opened(
    context: &mut Context<'_>,
    handle: &Resource<OpenContainer>,
) -> wasmtime::Result<(Arc<Call>, Result<At, BlobError>)> {
    let call = context.data().call().clone();
    let link = call.chosen.of(Import::BLOB_CONTAINER);
    let container = context.data_mut().table().get(handle)?;
    let at = match container.link == link {
        true => Ok(container.at.clone()),
        false => linked(&call, link, &container.name),
    };
    Ok((call, at))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn create_container<'a>(mut context: Context<'a>, (name,): (String,)) -> Answer<'a, Resource<OpenContainer>> {
    Box::new(async move {
        let call = context.data().call().clone();
        let create = async {
            let opened = named(&call, &name)?;
            opened.store.create_container(&opened.container).await?;
            Ok(opened)
        };
        Ok((
            match observed(&call, Operation::BlobCreateContainer, create).await {
                Ok(at) => Ok(push(&mut context, &call, name, at)?),
                Err(error) => Err(told(error)),
            },
        ))
    })
}

fn get_container<'a>(mut context: Context<'a>, (name,): (String,)) -> Answer<'a, Resource<OpenContainer>> {
    Box::new(async move {
        let call = context.data().call().clone();
        let find = async {
            let opened = named(&call, &name)?;
            opened.store.container_info(&opened.container).await?;
            Ok(opened)
        };
        Ok((match observed(&call, Operation::BlobContainerInfo, find).await {
            Ok(at) => Ok(push(&mut context, &call, name, at)?),
            Err(error) => Err(told(error)),
        },))
    })
}

/// A function of the store as one operation.
macro_rules! of_store {
    ($name:ident, $operation:ident, ($($argument:ident: $type:ty),*) -> $output:ty, |$call:ident| $body:expr) => {
        fn $name<'a>(context: Context<'a>, ($($argument,)*): ($($type,)*)) -> Answer<'a, $output> {
            let $call = context.data().call().clone();
            Box::new(async move {
                let result = observed(&$call, Operation::$operation, async { $body }).await;
                Ok((result.map_err(told),))
            })
        }
    };
}

of_store!(delete_container, BlobDeleteContainer, (name: String) -> (), |call| {
    let opened = named(&call, &name)?;
    opened.store.delete_container(&opened.container).await
});
of_store!(container_exists, BlobContainerInfo, (name: String) -> bool, |call| {
    let opened = named(&call, &name)?;
    match opened.store.container_info(&opened.container).await {
        Ok(_) => Ok(true),
        Err(BlobError::NoSuchContainer) => Ok(false),
        Err(error) => Err(error),
    }
});
of_store!(copy_object, BlobCopyObject, (from: ObjectId, to: ObjectId) -> (), |call| {
    let ((store, from), (_, to)) = (object(&call, &from)?, object(&call, &to)?);
    store.copy_object(&from, &to).await
});
of_store!(move_object, BlobMoveObject, (from: ObjectId, to: ObjectId) -> (), |call| {
    let ((store, from), (_, to)) = (object(&call, &from)?, object(&call, &to)?);
    store.move_object(&from, &to).await
});

fn name(
    mut context: Context<'_>,
    (handle,): (Resource<OpenContainer>,),
) -> wasmtime::Result<(Result<String, String>,)> {
    let opened = context.data_mut().table().get(&handle)?;
    Ok((Ok(opened.at.container.name().to_owned()),))
}

/// A function of a container as one operation of the store.
macro_rules! of_container {
    ($name:ident, $operation:ident, ($($argument:ident: $type:ty),*) -> $output:ty, |$at:ident| $body:expr) => {
        fn $name<'a>(
            mut context: Context<'a>,
            (handle, $($argument),*): (Resource<OpenContainer>, $($type),*),
        ) -> Answer<'a, $output> {
            let opened = opened(&mut context, &handle);
            Box::new(async move {
                let (call, at) = opened?;
                let done = async {
                    let $at = at?;
                    $body
                };
                let result = observed(&call, Operation::$operation, done).await;
                Ok((result.map_err(told),))
            })
        }
    };
}

of_container!(info, BlobContainerInfo, () -> ContainerMetadata, |at| {
    let info = at.store.container_info(&at.container).await?;
    Ok(ContainerMetadata {
        name: at.container.name().to_owned(),
        created_at: seconds(info.created_at),
    })
});
of_container!(clear, BlobClear, () -> (), |at| at.store.clear(&at.container).await);
of_container!(delete_object, BlobDeleteObjects, (name: String) -> (), |at| {
    at.store.delete_objects(&[at.container.object(&name)?]).await
});
of_container!(delete_objects, BlobDeleteObjects, (names: Vec<String>) -> (), |at| {
    let objects = names.iter().map(|name| at.container.object(name)).collect::<Result<Vec<_>, _>>()?;
    for batch in objects.chunks(PAGE_LEN_MAX) {
        at.store.delete_objects(batch).await?;
    }
    Ok(())
});
of_container!(has_object, BlobObjectInfo, (name: String) -> bool, |at| {
    match at.store.object_info(&at.container.object(&name)?).await {
        Ok(_) => Ok(true),
        Err(BlobError::NoSuchObject) => Ok(false),
        Err(error) => Err(error),
    }
});
of_container!(object_info, BlobObjectInfo, (name: String) -> ObjectMetadata, |at| {
    let info = at.store.object_info(&at.container.object(&name)?).await?;
    Ok(ObjectMetadata {
        container: at.container.name().to_owned(),
        created_at: seconds(info.created_at),
        size: info.size,
        name,
    })
});
