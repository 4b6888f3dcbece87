//! One layer of an image: a tree as tar, compressed or not, in the cache.

use std::io::{self, Write};

use ksos_formats::Digest;
use ksos_formats::digest::Hasher;

use super::OciError;
use super::tar;
use crate::artifact::cpio::gzip;
use crate::cache::{Blob, BlobWriter, Cache};
use crate::tree::Tree;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// gzip, level 6: what every client reads.
    Gzip,
    /// Zstandard, level 3: containerd 1.5 and later.
    Zstd,
}

impl LayerCompression {
    /// Returns the media type (OCI image specification 1.1, "Image Layer Filesystem Changeset").
    pub fn media_type(self) -> &'static str {
        match self {
            LayerCompression::None => "application/vnd.oci.image.layer.v1.tar",
            LayerCompression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            LayerCompression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A layer in the cache.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The layer as it is stored.
    pub blob: Blob,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// How it is compressed.
    pub compression: LayerCompression,
}

/// Writes `tree` as a layer into the cache; gzip with `jobs` threads, whose number changes nothing.
///
/// # Errors
/// [`OciError`].
pub fn write(cache: &Cache, tree: &Tree, compression: LayerCompression, jobs: usize) -> Result<Layer, OciError> {
    let mut writer = cache.writer()?;
    let (writer, diff_id) = match compression {
        LayerCompression::None => hashed(tree, io::BufWriter::with_capacity(256 * 1024, writer), unbuffer)?,
        LayerCompression::Gzip => {
            let diff_id = gzip::compress(&mut writer, 6, jobs.max(1), |archive| {
                let mut output = Hashing { inner: archive, hasher: Hasher::new() };
                tar::write(tree, &mut output)?;
                Ok::<_, OciError>(output.hasher.finish())
            })?;
            (writer, diff_id)
        }
        LayerCompression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(writer, 3).map_err(OciError::Write)?;
            encoder.include_checksum(true).map_err(OciError::Write)?;
            hashed(tree, encoder, zstd::stream::write::Encoder::finish)?
        }
    };
    Ok(Layer { blob: writer.commit()?, diff_id, compression })
}

fn unbuffer(buffered: io::BufWriter<BlobWriter<'_>>) -> io::Result<BlobWriter<'_>> {
    buffered.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Writes the tar through `encoder`, hashing it, and takes the encoder apart.
fn hashed<'a, E: Write>(
    tree: &Tree,
    encoder: E,
    finish: impl FnOnce(E) -> io::Result<BlobWriter<'a>>,
) -> Result<(BlobWriter<'a>, Digest), OciError> {
    let mut output = Hashing { inner: encoder, hasher: Hasher::new() };
    tar::write(tree, &mut output)?;
    let Hashing { inner, hasher } = output;
    Ok((finish(inner).map_err(OciError::Write)?, hasher.finish()))
}

struct Hashing<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
