//! The names of a container's objects, as a guest reads them: a page of the store at a time.

use std::collections::VecDeque;

use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use weft_capabilities::blob_store::PAGE_LEN_MAX;
use weft_capabilities::{BlobError, Listing};
use weft_observability::metrics::Operation;

use super::value::TOO_MANY;
use super::{Answer, At, Context, OpenContainer, drop_of, opened, told};
use crate::front::operation::observed;
use crate::store::{BlobBody, InstanceState};

/// What a guest's `stream-object-names` stands for.
pub(super) struct ObjectNames {
    at: At,
    /// Of the pages that were read, those that the guest was not given.
    names: VecDeque<String>,
    /// Where the next page begins; `None` after the last.
    next: Option<Option<String>>,
    /// A page is half a megabyte: it counts as a body does.
    _counted: BlobBody,
}

pub(super) fn add_to_linker(container: &mut LinkerInstance<'_, InstanceState>) -> wasmtime::Result<()> {
    container.func_wrap_async("[method]container.list-objects", list_objects)?;
    container.resource(
        "stream-object-names",
        ResourceType::host::<ObjectNames>(),
        drop_of::<ObjectNames>,
    )?;
    container.func_wrap_async("[method]stream-object-names.read-stream-object-names", read)?;
    container.func_wrap_async("[method]stream-object-names.skip-stream-object-names", skip)
}

impl ObjectNames {
    /// Reads a page, unless there are names or there is none.
    async fn fill(&mut self) -> Result<(), BlobError> {
        while self.names.is_empty()
            && let Some(cursor) = &self.next
        {
            let listing = Listing {
                cursor: cursor.as_deref(),
                ..Listing::default()
            };
            let page = self.at.store.list_objects(&self.at.container, listing).await?;
            self.names = page.names.into();
            self.next = page.cursor.map(Some);
        }
        Ok(())
    }

    /// The next names: as many as are asked for, or what one page has.
    async fn take(&mut self, len: u64) -> Result<(Vec<String>, bool), BlobError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(PAGE_LEN_MAX);
        let mut taken = Vec::new();
        while taken.len() < len {
            match self.fill().await {
                Ok(()) => {}
                Err(error) if taken.is_empty() => return Err(error),
                // What was taken is given; the error comes again with the next read, if it lasts.
                Err(_) => return Ok((taken, false)),
            }
            if self.names.is_empty() {
                break;
            }
            let part = self.names.len().min(len - taken.len());
            taken.extend(self.names.drain(..part));
        }
        match self.fill().await {
            Ok(()) => Ok((taken, self.names.is_empty())),
            Err(error) if taken.is_empty() => Err(error),
            Err(_) => Ok((taken, false)),
        }
    }
}

fn list_objects<'a>(
    mut context: Context<'a>,
    (handle,): (Resource<OpenContainer>,),
) -> Answer<'a, Resource<ObjectNames>> {
    let opened = opened(&mut context, &handle);
    Box::new(async move {
        let (call, at) = opened?;
        let Some(counted) = context.data_mut().blob_body() else {
            return Ok((Err(TOO_MANY.to_owned()),));
        };
        let list = async {
            let mut names = ObjectNames {
                at: at?,
                names: VecDeque::new(),
                next: Some(None),
                _counted: counted,
            };
            names.fill().await?;
            Ok::<_, BlobError>(names)
        };
        Ok((match observed(&call, Operation::BlobListObjects, list).await {
            Ok(names) => Ok(context.data_mut().table().push(names)?),
            Err(error) => Err(told(error)),
        },))
    })
}

fn read<'a>(
    mut context: Context<'a>,
    (handle, len): (Resource<ObjectNames>, u64),
) -> Answer<'a, (Vec<String>, bool)> {
    Box::new(async move {
        let call = context.data().call().clone();
        let names = context.data_mut().table().get_mut(&handle)?;
        let taken = observed(&call, Operation::BlobListObjects, names.take(len)).await;
        Ok((taken.map_err(told),))
    })
}

fn skip<'a>(
    mut context: Context<'a>,
    (handle, len): (Resource<ObjectNames>, u64),
) -> Answer<'a, (u64, bool)> {
    Box::new(async move {
        let call = context.data().call().clone();
        let names = context.data_mut().table().get_mut(&handle)?;
        let skipped = async {
            let mut skipped = 0;
            loop {
                let (taken, ended) = match names.take(len - skipped).await {
                    Err(_) if skipped > 0 => return Ok((skipped, false)),
                    taken => taken?,
                };
                skipped += taken.len() as u64;
                if ended || skipped == len {
                    return Ok::<_, BlobError>((skipped, ended));
                }
            }
        };
        let skipped = observed(&call, Operation::BlobListObjects, skipped).await;
        Ok((skipped.map_err(told),))
    })
}
