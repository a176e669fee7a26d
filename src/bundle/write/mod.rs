//! Writing bundles: the layout is put together in memory from small artifacts and
//! references to blobs in the cache, then written in one pass.

mod archive;
mod assemble;
mod shape;

pub use archive::{ArchiveError, WrittenFile, write_files};
pub use assemble::{BlobSource, FileEntry, ImageEntry, Layout, LayoutBuilder, StoredBlob};
pub use shape::{PlannedFile, Shape, TooSmall, part_path, plan};
