//! The one tar dialect of bundles: how every header must look, to the byte.
//!
//! Writer and reader share [`header`], so the reader can refuse every header that
//! the writer would not have written. A flipped bit in a header is then found as
//! surely as one in a blob.

use crate::digest::Digest;
use std::io;

/// Size of a tar block: headers, and the unit that contents are padded to.
pub const BLOCK_BYTES: u64 = 512;
/// Two zero blocks end a tar.
pub const TRAILER_BYTES: u64 = 2 * BLOCK_BYTES;

/// Name of the file that makes a directory an OCI image layout.
pub const OCI_LAYOUT_NAME: &str = "oci-layout";
/// Content of that file.
pub const OCI_LAYOUT_CONTENT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
/// Name of the root of all digests.
pub const INDEX_NAME: &str = "index.json";
/// Name of the signature over the root.
pub const SIGNATURE_NAME: &str = "index.json.minisig";

/// No bundle bears more signatures.
pub const SIGNATURES_LIMIT: usize = 16;

/// Name of a further signature over the root; they are counted from 1, which is
/// [`SIGNATURE_NAME`].
pub fn signature_name(number: usize) -> String {
    match number {
        0 | 1 => SIGNATURE_NAME.to_owned(),
        number => format!("{INDEX_NAME}.{number}.minisig"),
    }
}

/// Whether a path in the layout is that of a signature.
pub fn is_signature_name(name: &str) -> bool {
    (1..=SIGNATURES_LIMIT).any(|number| signature_name(number) == name)
}

const BLOB_PREFIX: &str = "blobs/sha256/";

/// The path of a blob in the layout.
pub fn blob_name(digest: &Digest) -> String {
    format!("{BLOB_PREFIX}{}", digest.hex())
}

/// The digest that a path in the layout stands for, if it is a blob's.
pub fn blob_digest(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_prefix(BLOB_PREFIX)?).ok()
}

/// The header of a regular file: no time, no owner, mode 0644. The name must fit
/// the header's 100 bytes, as all names of a bundle do.
pub fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// Number of zero bytes that follow contents of this size.
pub fn padding(size: u64) -> u64 {
    (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES
}

/// Bytes that a file of this size takes in the tar, with header and padding.
pub fn entry_bytes(size: u64) -> u64 {
    BLOCK_BYTES + size + padding(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_blocks() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), expected, "{size}");
        }
        assert_eq!(entry_bytes(513), 512 + 1024);
    }

    #[test]
    fn blob_names_round_trip() {
        let digest = Digest::of("x");
        assert_eq!(blob_digest(&blob_name(&digest)), Some(digest));
        for bad in [
            "blobs/sha256/",
            "blobs/sha512/00",
            "index.json",
            "blobs/sha256/../x",
        ] {
            assert_eq!(blob_digest(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_carry_sizes_beyond_octal() {
        let size = 20_u64 << 30;
        let header = header(&blob_name(&Digest::of("x")), size).unwrap();
        assert_eq!(header.entry_size().unwrap(), size);
    }
}
