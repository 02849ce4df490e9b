//! The clouds' errors in the words of the trait.

use std::error::Error;

use weft_capabilities::BlobError;
use weft_http::HttpError;

use super::client::Denied;

/// What a failed request tells its caller. That an object is not there may mean its container is not: see where it is
/// asked.
pub(super) fn of(error: object_store::Error) -> BlobError {
    use object_store::Error as Cloud;
    match error {
        Cloud::NotFound { .. } => BlobError::NoSuchObject,
        Cloud::AlreadyExists { .. } => BlobError::ContainerExists,
        Cloud::PermissionDenied { .. } | Cloud::Unauthenticated { .. } => BlobError::AccessDenied,
        // The server was not reached, or went away. Of what else went wrong the caller learns that it did.
        error if cause::<Denied>(&error).is_some() => BlobError::AccessDenied,
        error => match cause::<HttpError>(&error) {
            Some(why) => BlobError::Unavailable(why.to_string()),
            None => BlobError::Backend(Box::new(error)),
        },
    }
}

/// The `E` that `error` is, or comes from.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
