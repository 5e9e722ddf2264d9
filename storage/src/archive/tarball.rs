//! An archive, read once from its beginning to its end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use rustix::fs::{Mode, OFlags};

use super::{Import, ImportError};
use crate::content::{ContentError, Ingest};
use crate::digest::Digest;
use crate::image::ManifestError;
use crate::layer::tar::{Kind, Reader, Source};
use crate::layer::{LayerError, UnpackLimits};

/// Bytes of a member's name that is remembered.
const NAME_MAX: usize = 512;

/// What an archive has.
#[derive(Default)]
pub(super) struct Found {
    /// `index.json` of a layout.
    pub(super) index: Option<Vec<u8>>,
    /// `manifest.json` of Docker.
    pub(super) manifest: Option<Vec<u8>>,
    /// Everything else, by its very name.
    pub(super) members: HashMap<String, Member>,
}

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    /// In the content store.
    File(Digest, u64),
    /// The same as another one.
    Link(String),
}

/// The archive without its compression, as far as it is no bomb.
struct Plain {
    inner: BufReader<Box<dyn Read>>,
    /// Bytes that may still come; none are counted where nothing was compressed.
    left: u64,
    bound: u64,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let amount = from.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&from[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other("too much comes of it"));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(u64::try_from(amount).unwrap_or(u64::MAX));
        self.inner.consume(amount);
    }
}

impl Source for Plain {
    fn reason(&mut self, error: io::Error) -> LayerError {
        if self.left == 0 {
            return LayerError::Limit {
                what: "uncompressed bytes of an archive of its length",
                limit: self.bound,
            };
        }
        LayerError::Read(error)
    }
}

/// `limits` has what may come of a compressed archive, as of a compressed layer.
fn open(import: &Import<'_>, limits: &UnpackLimits) -> io::Result<Plain> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(import.path, flags, Mode::empty())?);
    let bound = file.metadata()?.len().saturating_mul(limits.max_ratio).max(limits.ratio_from);
    let mut file = BufReader::new(file);
    let (inner, bound): (Box<dyn Read>, u64) = match file.fill_buf()? {
        [0x1f, 0x8b, ..] => (Box::new(flate2::bufread::MultiGzDecoder::new(file)), bound),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (Box::new(zstd::stream::read::Decoder::with_buffer(file)?), bound),
        _ => (Box::new(file), u64::MAX),
    };
    Ok(Plain { inner: BufReader::with_capacity(256 << 10, inner), left: bound, bound })
}

/// Stores every member of the archive by its digest.
pub(super) fn gather(import: &mut Import<'_>) -> Result<Found, ImportError> {
    let limits = UnpackLimits { max_bytes: import.limits.image_bytes, ..UnpackLimits::default() };
    let mut source = open(import, &limits).map_err(|error| import.unreadable(error))?;
    let mut reader = Reader::new(&mut source, &limits);
    let path = import.path.to_owned();
    let broken = |source: LayerError| ImportError::Archive { path: path.clone(), source };
    let mut found = Found::default();
    let (mut entries, mut bytes) = (0usize, 0u64);
    while let Some(entry) = reader.next().map_err(broken)? {
        entries += 1;
        bytes = bytes.saturating_add(entry.size);
        if entries > import.limits.archive_entries {
            return Err(
                import.no_image(format!("it has more than {} members", import.limits.archive_entries))
            );
        }
        if bytes > import.limits.image_bytes {
            return Err(import.no_image(format!("it has more than {} bytes", import.limits.image_bytes)));
        }
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        if name.len() > NAME_MAX {
            continue;
        }
        let member = match entry.kind {
            Kind::Regular if entry.sparse.is_some() => {
                return Err(import.no_image("it has a sparse member, which is not supported"));
            }
            Kind::Regular if matches!(name.as_str(), "index.json" | "manifest.json") => {
                let slot = if name == "index.json" { &mut found.index } else { &mut found.manifest };
                let bytes = small(import, &mut reader, entry.size)?;
                if slot.replace(bytes).is_some() {
                    return Err(import.no_image(format!("it has {name} twice")));
                }
                continue;
            }
            Kind::Regular if is_clutter(&name) => continue,
            Kind::Regular => store(import, &mut reader, &name, entry.size)?,
            Kind::Symlink(to) => match link_target(&name, &to) {
                Some(to) => Member::Link(to),
                None => continue,
            },
            Kind::Hardlink(to) => match link_target("", &to) {
                Some(to) => Member::Link(to),
                None => continue,
            },
            _ => continue,
        };
        if found.members.insert(name, member).is_some() {
            return Err(import.no_image("it has a member twice"));
        }
    }
    Ok(found)
}

/// What `docker save` writes beside and nobody reads any more.
fn is_clutter(name: &str) -> bool {
    matches!(name, "oci-layout" | "repositories") || name.ends_with("/VERSION") || name.ends_with("/json")
}

/// The member that `../x/layer.tar` means beside `y/layer.tar`: a name in the archive, never a path of this machine.
fn link_target(name: &str, to: &[u8]) -> Option<String> {
    let to = std::str::from_utf8(to).ok().filter(|to| to.len() <= NAME_MAX && !to.starts_with('/'))?;
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn small(import: &Import<'_>, reader: &mut Reader<'_, Plain>, size: u64) -> Result<Vec<u8>, ImportError> {
    let max = import.limits.manifest_bytes;
    if size > max {
        return Err(import.refused(ManifestError::TooLarge { max }));
    }
    let mut bytes = Vec::new();
    each_piece(import, reader, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

fn each_piece(
    import: &Import<'_>,
    reader: &mut Reader<'_, Plain>,
    mut take: impl FnMut(&[u8]) -> Result<(), ContentError>,
) -> Result<(), ImportError> {
    loop {
        let broken = |source| ImportError::Archive { path: import.path.to_owned(), source };
        let piece = reader.data().map_err(broken)?;
        let length = piece.len();
        if length == 0 {
            return Ok(());
        }
        take(piece).map_err(ImportError::Content)?;
        reader.used(length);
    }
}

fn store(
    import: &mut Import<'_>,
    reader: &mut Reader<'_, Plain>,
    name: &str,
    size: u64,
) -> Result<Member, ImportError> {
    // In a layout the name is a promise, which is kept to.
    let promised = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
    if let Some(digest) = promised {
        import.lease.hold(digest);
        if import.store.has(&digest, size).map_err(ImportError::Content)? {
            return Ok(Member::File(digest, size));
        }
    }
    let ingest = match promised {
        Some(digest) => Ingest::exact(import.store, digest, size),
        None => Ingest::temporary(import.store, size),
    };
    let mut ingest = ingest.map_err(ImportError::Content)?;
    each_piece(import, reader, |piece| ingest.write(piece))?;
    let verified = ingest.verify().map_err(ImportError::Content)?;
    let digest = verified.digest();
    import.lease.hold(digest);
    verified.commit().map_err(ImportError::Content)?;
    Ok(Member::File(digest, size))
}
