//! A blob store as actors and other hosts get it: supervised.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::blob_store::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};

use super::health::Health;

/// A store whose circuit is open while it does not answer. Objects that are being read or written when it goes away tell
/// it themselves.
pub(super) struct Guarded {
    /// The store itself.
    pub(super) store: Arc<dyn BlobStore>,
    /// Whether it answers.
    pub(super) health: Arc<Health>,
}

impl Guarded {
    /// The result of `operation`, which is not begun while the store does not answer.
    fn guard<'a, T: Send + 'a>(
        &'a self,
        operation: impl FnOnce() -> BoxFuture<'a, Result<T, BlobError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, BlobError>> {
        async move {
            if let Some(reason) = self.health.refusal() {
                return Err(BlobError::Unavailable(reason));
            }
            let result = operation().await;
            self.health.note(&result);
            result
        }
        .boxed()
    }
}

impl BlobStore for Guarded {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.create_container(container))
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.delete_container(container))
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        self.guard(|| self.store.container_info(container))
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        self.guard(move || self.store.list_objects(container, listing))
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.clear(container))
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        self.guard(|| self.store.object_info(object))
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        self.guard(move || self.store.read(object, range))
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        self.guard(move || self.store.write(to))
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.delete_objects(objects))
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.copy_object(from, to))
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.guard(|| self.store.move_object(from, to))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}
