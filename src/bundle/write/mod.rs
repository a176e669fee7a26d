//! Writing bundles: the layout is put together in memory from small artifacts and
//! references to blobs in the cache, then written in one pass.

mod archive;
mod assemble;

pub use archive::{ArchiveError, WrittenArchive, write_archive};
pub use assemble::{BlobSource, FileEntry, ImageEntry, Layout, LayoutBuilder, StoredBlob};
