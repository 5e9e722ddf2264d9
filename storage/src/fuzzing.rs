//! What the fuzz targets of `fuzz/` call: each takes any bytes, and must neither panic, nor hang, nor touch anything
//! outside. Only with the feature `fuzzing`, and never in a release: it is no part of the interface.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::dm::metadata::{self, BLOCK, Blocks};
use crate::driver::store;
use crate::layer::tar::{Reader, octal_size};
use crate::layer::{Apart, Compression, LayerError, Stream, UnpackLimits, apply_apart, apply_onto, finish};
use crate::limits::Limits;
use crate::testsuite::{blob, difference, tree};

#[cfg(not(debug_assertions))]
compile_error!("the feature `fuzzing` is for cargo-fuzz alone, which builds with debug assertions");

/// A directory in memory, with something beside the one that is written to.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let builder = || tempfile::Builder::new().prefix("stower-fuzz").to_owned();
        let dir = builder().tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::write(dir.path().join("canary"), "outside").unwrap();
        Self(dir)
    }

    fn make(&self, name: &str) -> OwnedFd {
        let at = self.0.path().join(name);
        std::fs::create_dir(&at).unwrap();
        std::fs::File::open(at).unwrap().into()
    }

    /// Nothing but `made` has come, and what was there is as it was.
    fn check(&self, made: &[&str]) {
        let mut there: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        let mut wanted = [made, &["canary"]].concat();
        wanted.sort_unstable();
        assert_eq!(there, wanted);
        assert_eq!(std::fs::read(self.0.path().join("canary")).unwrap(), b"outside");
    }
}

fn limits() -> UnpackLimits {
    UnpackLimits {
        max_bytes: 1 << 20,
        max_entries: 200,
        max_held: 1 << 20,
        max_depth: 32,
        max_pax: 64 << 10,
        max_sparse: 64,
        ..UnpackLimits::default()
    }
}

/// Makes the sums of headers right, where the first byte asks for it: no chance finds them.
fn sum_up(archive: &mut [u8]) {
    let mut at = 0;
    while at + 512 <= archive.len() {
        let head = &mut archive[at..at + 512];
        if head.iter().all(|byte| *byte == 0) {
            return;
        }
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let data = octal_size(head).unwrap_or(0).min(1 << 20);
        at += 512 + usize::try_from(data.next_multiple_of(512)).unwrap_or(0);
    }
}

/// A layer: the reader alone, then unpacked in both ways, which must give the same.
pub fn layer(data: &[u8]) {
    let Some((how, archive)) = data.split_first() else { return };
    let mut archive = archive.to_vec();
    if how & 1 == 1 {
        sum_up(&mut archive);
    }
    let limits = limits();
    if read(&archive, &limits).is_err() && how & 2 == 0 {
        return;
    }
    // As the thread that unpacks has it.
    crate::snapshots::own_umask().unwrap();
    let place = Place::new();
    let stream =
        |archive: &[u8]| Stream::open(&mut blob(archive.to_vec(), Compression::None), &limits).unwrap();
    let (onto, apart) = (place.make("onto"), place.make("apart"));
    let reopen = |fd: &OwnedFd| fd.try_clone().unwrap();
    let sequential = apply_onto(reopen(&onto), true, stream(&archive), &limits);
    let parallel = match apply_apart(reopen(&apart), stream(&archive), &limits) {
        Ok(Apart::Done(rest)) => finish(&apart, &rest, None).map(|_| true),
        // The driver reads it again, onto its parent.
        Ok(Apart::NeedsParent) => Ok(false),
        Err(error) => Err(error),
    };
    match (sequential, parallel) {
        (Ok(()), Ok(true)) => {
            let different = difference(&tree(&onto), &tree(&apart));
            assert!(different.is_empty(), "{}", different.join("\n"));
        }
        (Ok(()) | Err(_), Ok(false)) => {}
        (Err(_), Err(_)) => {}
        // What costs memory in one way need not in the other.
        (Ok(()), Err(LayerError::Limit { .. })) | (Err(LayerError::Limit { .. }), Ok(_)) => {}
        (one, two) => panic!("only one refuses it: {one:?}, {two:?}"),
    }
    place.check(&["apart", "onto"]);
}

fn read(archive: &[u8], limits: &UnpackLimits) -> Result<(), LayerError> {
    let mut source = archive;
    let mut reader = Reader::new(&mut source, limits);
    while reader.next()?.is_some() {
        loop {
            let piece = reader.data()?.len();
            if piece == 0 {
                break;
            }
            reader.used(piece);
        }
    }
    Ok(())
}

/// The two documents of an image, parted by a byte that no JSON has, and names.
pub fn image_config_and_manifest(data: &[u8]) {
    let limits = Limits::default();
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    for served_as in [None, Some(crate::media::OCI_MANIFEST), Some(crate::media::OCI_INDEX)] {
        let _ = crate::image::parse_manifest(first, served_as, &limits);
    }
    for layers in 0..3 {
        let _ = crate::image::parse_config(second, layers);
    }
    if let Ok(text) = std::str::from_utf8(first) {
        if let Ok(name) = text.parse::<crate::Reference>() {
            // A name that was taken is taken again, as the same.
            assert_eq!(name.to_string().parse::<crate::Reference>().ok(), Some(name));
        }
        let _ = text.parse::<crate::Platform>();
        let _ = text.parse::<crate::ConfigChange>();
    }
}

/// Status of a pool or of a thin device.
pub fn dm_status(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<crate::dm::status::Pool>();
    let _ = text.parse::<crate::dm::status::Thin>();
}

/// By the first byte: a record as a link, `volume.json`, `index.json`, or blocks of a pool's metadata.
pub fn driver_metadata(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => links(rest),
        1 => json(rest, &["volume.json"], |dir| {
            let _ = crate::volumes::fuzz_record(dir);
        }),
        // Beside its list, the content store keeps a reserve for a disk that is full.
        2 => json(rest, &["index.json", "ballast"], |dir| {
            let _ = crate::content::fuzz_names(&dir.join("index.json"));
        }),
        _ => blocks(rest),
    }
}

fn json(bytes: &[u8], made: &[&str], read: impl Fn(&Path)) {
    let place = Place::new();
    std::fs::write(place.0.path().join(made[0]), bytes).unwrap();
    read(place.0.path());
    place.check(made);
}

/// A driver's directory whose records say `target`: start-up takes them or removes what they are of.
fn links(target: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let root = place.0.path().join("driver");
    let names = ["layers", "snapshots"].map(|dir| root.join(dir).join("0".repeat(64)));
    for (dir, link) in names.iter().zip(["layer", "snapshot"]) {
        std::fs::create_dir_all(dir).unwrap();
        if symlink(std::ffi::OsStr::from_bytes(target), dir.join(link)).is_err() {
            return;
        }
    }
    let store = store::Store::open(root.clone()).unwrap();
    let found = store.load().unwrap();
    let again = store.load().unwrap();
    assert_eq!((found.layers, found.snapshots), (again.layers, again.snapshots), "twice the same");
    place.check(&["driver"]);
}

/// Blocks of zeros that `patches` change, each by a block, an offset, a length and bytes; their sums are made right.
struct Patched(Vec<Vec<u8>>);

impl Blocks for Patched {
    fn read(&mut self, number: u64, to: &mut [u8]) -> io::Result<()> {
        let block = usize::try_from(number).ok().and_then(|number| self.0.get(number));
        to.copy_from_slice(block.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn blocks(mut patches: &[u8]) {
    let mut image = vec![vec![0; BLOCK]; 8];
    while let [block, high, low, length, rest @ ..] = patches {
        let length = usize::from(*length).min(rest.len());
        let (bytes, next) = rest.split_at(length);
        let offset = usize::from(u16::from_be_bytes([*high, *low])) % BLOCK;
        let block = &mut image[usize::from(block % 8)];
        let end = (offset + length).min(BLOCK);
        block[offset..end].copy_from_slice(&bytes[..end - offset]);
        patches = next;
    }
    for (number, block) in image.iter_mut().enumerate() {
        metadata::seal(block, u64::try_from(number).unwrap_or(0), number == 0);
    }
    let _ = metadata::devices(&mut Patched(image), 0);
}

#[cfg(test)]
mod tests;
