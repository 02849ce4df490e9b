pub use weft_host::*;
