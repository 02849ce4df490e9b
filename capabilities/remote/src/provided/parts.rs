//! The functions of `weft:provider/parts`: what is longer than a message.

use bytes::{Bytes, BytesMut};
use weft_lattice::envelope::Failure;

use super::kept::What;
use super::{Called, Relaxed, Shared};
use crate::cbor::encode;
use crate::shape::{Handle, PartsError};
use crate::{PARTS, PARTS_LEN_MAX};

/// What wraps the results of a function in those of `run`: its array, its case, the head of the bytes.
const WRAPPING_LEN: usize = 16;

pub(super) async fn run(shared: &Shared, called: &Called<'_>) -> Result<Vec<u8>, Failure> {
    let (kept, owner) = (&shared.kept, called.owner);
    Ok(match called.function {
        "open" => {
            let (len,): (u64,) = called.args()?;
            encode(&(open(shared, called, len),))
        }
        "write" => {
            let (id, at, part): (Bytes, u64, Bytes) = called.args()?;
            encode(&(kept.write(&id, owner, at, &part),))
        }
        "run" => {
            let (id, interface, function): (Bytes, String, String) = called.args()?;
            let args = match kept.take_incoming(&id, owner) {
                Ok(args) => args,
                Err(error) => return Ok(encode(&(Err::<Bytes, _>(error),))),
            };
            let inner = Called {
                function: &function,
                args: &args,
                ..*called
            };
            let results = shared.run(&interface, &inner).await?;
            let len_max = shared.body_len_max.saturating_sub(WRAPPING_LEN);
            let results = Bytes::from(shared.that_fit(results, len_max, owner)?);
            encode(&(Ok::<_, PartsError>(results),))
        }
        "read" => {
            let (id, at, len): (Bytes, u64, u64) = called.args()?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let len = len.min(shared.body_len_max.saturating_sub(WRAPPING_LEN));
            encode(&(kept.read(&id, owner, at, len),))
        }
        _ => return Err(called.unknown(PARTS)),
    })
}

fn open(shared: &Shared, called: &Called<'_>, len: u64) -> Result<Handle, PartsError> {
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= PARTS_LEN_MAX)
        .ok_or(PartsError::TooLong)?;
    shared.in_parts.fetch_add(1, Relaxed);
    let incoming = What::Incoming(BytesMut::new(), len);
    let id = shared
        .kept
        .keep(called.owner, incoming)
        .ok_or(PartsError::NoRoom)?;
    Ok(Handle {
        run: shared.run.as_ref().to_owned(),
        id: Bytes::copy_from_slice(&id),
    })
}
