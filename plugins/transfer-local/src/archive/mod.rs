//! Archives of images, as `docker save`, `ctr images export` and their like write them: tar streams in the OCI image layout or in
//! Docker's own. They are read and written as streams, in one pass and never from a file.
//!
//! An entry's name is only ever a key here: nothing in an archive names a path of this machine.

mod compression;
mod docker;
mod intake;
mod layout;
mod reader;
pub mod reference;
mod tar;
mod writer;

pub use compression::{Compression, decompressed};
pub use docker::convert as convert_docker;
pub use layout::{Layout, Observer, StoredBlob, read_archive};
pub use writer::{Record, RecordBody, write_archive};
