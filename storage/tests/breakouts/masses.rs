//! Much of what is harmless alone: bombs, a million files, ten thousand links. Each bound is looked for at its edge.

use std::io::{Cursor, Read, Write};

use stower_storage::testsuite::tar::{append, block, header};
use stower_storage::testsuite::{Bench, Item, ItemKind, tar};
use stower_storage::{Compression, DiffId, Digest, Hasher, LayerBlob, UnpackLimits};

use crate::guard::Guard;

/// A blob of bytes that are given, whatever is in them.
fn packed(compression: Compression, bytes: Vec<u8>, diff_id: DiffId) -> LayerBlob {
    let size = u64::try_from(bytes.len()).unwrap();
    let open = move || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
    LayerBlob { diff_id, compression, size, open: Box::new(open) }
}

/// The diff id of something that is never read to its end, or never right: another one each time, so that it is not
/// there already.
fn any() -> DiffId {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    DiffId(Digest::of(&next.to_le_bytes()))
}

/// Is refused with these words, and leaves nothing.
fn refused(bench: &Bench, layer: LayerBlob, limits: &UnpackLimits, why: &str) {
    let error = bench.store().unpack_image(vec![layer], limits).expect_err(why);
    let text = format!("{error:?}");
    assert!(text.contains(why), "{text} does not say {why:?}");
    assert_eq!(bench.entries("staging"), 0);
}

/// Zeros by the gigabyte in a few kilobytes: each way to pack them is refused when a bound is reached, having read no
/// more than that.
#[test]
fn root_bombs() {
    let mut bench = Bench::new("overlay");
    let guard = Guard::new(&mut bench);
    let zeros = |out: &mut dyn Write| {
        out.write_all(&{
            let mut head = Vec::new();
            let mut bomb = header(b"zeros", b'0', 0);
            bomb[124..135].copy_from_slice(format!("{:011o}", 1280_u64 << 20).as_bytes());
            block(&mut head, &bomb, b"");
            head
        })
        .unwrap();
        for _ in 0..1280 {
            out.write_all(&[0; 1 << 20]).unwrap();
        }
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zeros(&mut gzip);
    let gzip = gzip.finish().unwrap();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    zeros(&mut zstd);
    let zstd = zstd.finish().unwrap();
    assert!(gzip.len() < 2 << 20 && zstd.len() < 1 << 20, "{} {}", gzip.len(), zstd.len());
    // The bounds that are there without a word from anybody.
    for (compression, bytes) in [(Compression::Gzip, &gzip), (Compression::Zstd, &zstd)] {
        let layer = || packed(compression, bytes.clone(), any());
        refused(&bench, layer(), &UnpackLimits::default(), "uncompressed bytes for a compressed one");
        let size = UnpackLimits { max_bytes: 100 << 20, max_ratio: u64::MAX, ..UnpackLimits::default() };
        refused(&bench, layer(), &size, "limit: 104857600");
    }
    // In pieces: members and frames are counted together.
    let small = |compression| {
        let piece = vec![0; 1 << 20];
        match compression {
            Compression::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                out.write_all(&piece).unwrap();
                out.finish().unwrap()
            }
            _ => zstd::encode_all(Cursor::new(piece), 3).unwrap(),
        }
    };
    let limits = UnpackLimits { max_bytes: 64 << 20, max_ratio: u64::MAX, ..UnpackLimits::default() };
    for compression in [Compression::Gzip, Compression::Zstd] {
        let many = small(compression).repeat(100);
        refused(&bench, packed(compression, many, any()), &limits, "bytes uncompressed");
    }
    // Nothing but empty members is no progress, and ends.
    let mut empty = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    empty.flush().unwrap();
    let empty = empty.finish().unwrap().repeat(100_000);
    let nothing = DiffId(Digest::of(b""));
    bench.store().unpack_image(vec![packed(Compression::Gzip, empty, nothing)], &limits).unwrap();
    // A frame that wants a window of 2 GiB (RFC 8878, 3.1.1.1.2), and has one empty block.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
    refused(&bench, packed(Compression::Zstd, wide.to_vec(), any()), &limits, "Read");
    // A hole is nothing here, and everything to whoever copies it.
    let hole = tar::archive(&[Item::special("s", ItemKind::Sparse(65 << 20, vec![]))]);
    refused(&bench, packed(Compression::None, hole, any()), &limits, "limit: 67108864");
    let holes: Vec<Item> =
        (0..9).map(|n| Item::special(format!("s{n}"), ItemKind::Sparse(8 << 20, vec![]))).collect();
    refused(&bench, packed(Compression::None, tar::archive(&holes), any()), &limits, "bytes in files");
    guard.check(&bench, "bombs");
}

/// Directories that nobody named cost as much as those that were.
#[test]
fn root_implied_directories_count() {
    let mut bench = Bench::new("overlay");
    let guard = Guard::new(&mut bench);
    let limits = UnpackLimits { max_entries: 1000, ..UnpackLimits::default() };
    let deep = |n: usize| Item::file(format!("{n}/{}", "d/".repeat(200) + "f"), "");
    let layer = |count: usize| {
        let archive = tar::archive(&(0..count).map(deep).collect::<Vec<_>>());
        let diff_id = DiffId(Digest::of(&archive));
        packed(Compression::None, archive, diff_id)
    };
    bench.store().unpack_image(vec![layer(4)], &limits).unwrap();
    refused(&bench, layer(5), &limits, "limit: 1000");
    // Removed and made again they count again.
    let turn = |n: usize| vec![Item::file(format!("a/{}f{n}", "d/".repeat(100)), ""), Item::file("a", "")];
    let again = tar::archive(&(0..20).flat_map(turn).collect::<Vec<_>>());
    refused(&bench, packed(Compression::None, again, any()), &limits, "limit: 1000");
    guard.check(&bench, "implied directories");
}

/// What has to be remembered until a layer's end is bounded: names of directories, and attributes of those that
/// are set last.
#[test]
fn root_memory_is_bounded() {
    let mut bench = Bench::new("overlay");
    let guard = Guard::new(&mut bench);
    let limits = UnpackLimits { max_held: 1 << 20, ..UnpackLimits::default() };
    let dirs = |count: usize, big: usize| {
        (0..count).map(|n| Item::dir(format!("d{n}")).xattr("user.big", vec![b'x'; big])).collect::<Vec<_>>()
    };
    let layer = |items: &[Item]| {
        let archive = tar::archive(items);
        let diff_id = DiffId(Digest::of(&archive));
        packed(Compression::None, archive, diff_id)
    };
    let whys = "bytes of what is set last";
    bench.store().unpack_image(vec![layer(&dirs(100, 3000))], &limits).unwrap();
    refused(&bench, layer(&dirs(1000, 3000)), &limits, whys);
    let long = |n: usize| Item::dir(format!("{}/{n}", ["n".repeat(250), "m".repeat(250)].join("/")));
    refused(&bench, layer(&(0..3000).map(long).collect::<Vec<_>>()), &limits, whys);
    let white = |n: usize| Item::whiteout(&format!("{}/{n}", ["n".repeat(90), "m".repeat(90)].join("/")));
    refused(&bench, layer(&(0..9000).map(white).collect::<Vec<_>>()), &limits, whys);
    // One directory again and again holds what it has last.
    let same = vec![Item::dir("same").xattr("user.big", vec![b'x'; 3000]); 1000];
    bench.store().unpack_image(vec![layer(&same)], &limits).unwrap();
    guard.check(&bench, "what is held");
}

/// An image may have many files; one of more than the bound is refused, and nothing of it stays.
#[test]
fn root_a_hundred_thousand_files() {
    many_files(100_000);
}

#[test]
#[ignore = "takes minutes, and a million inodes: --ignored root_a_million_files"]
fn root_a_million_files() {
    many_files(1_000_000);
}

fn many_files(many: u64) {
    let mut bench = Bench::new("overlay");
    let guard = Guard::new(&mut bench);
    let mut hasher = Hasher::new();
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut piece = Vec::new();
    let mut put = |piece: &mut Vec<u8>, out: &mut flate2::write::GzEncoder<Vec<u8>>| {
        hasher.update(piece);
        out.write_all(piece).unwrap();
        piece.clear();
    };
    for n in 0..many {
        append(&mut piece, &Item::file(format!("{}/{n}", n / 1000), ""));
        if piece.len() > 1 << 20 {
            put(&mut piece, &mut out);
        }
    }
    piece.extend_from_slice(&[0; 1024]);
    put(&mut piece, &mut out);
    let diff_id = DiffId(hasher.finish());
    let packed_layer = out.finish().unwrap();
    let layer = || packed(Compression::Gzip, packed_layer.clone(), diff_id);
    // With the directories that they imply.
    let enough = UnpackLimits { max_entries: many + many / 1000, ..UnpackLimits::default() };
    let few = UnpackLimits { max_entries: 1000, ..UnpackLimits::default() };
    refused(&bench, layer(), &few, "limit: 1000");
    let top = bench.store().unpack_image(vec![layer()], &enough).unwrap();
    let key = bench.key();
    bench.store().view(&key, Some(&top)).unwrap();
    let mount = bench.mount(&key);
    let at = stower_storage::testsuite::Files::new(&mount).path("");
    let dirs: Vec<_> = std::fs::read_dir(&at).unwrap().map(|dir| dir.unwrap().path()).collect();
    assert_eq!(u64::try_from(dirs.len()).unwrap(), many / 1000);
    for dir in dirs {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1000);
    }
    stower_storage::testsuite::close(mount);
    guard.check(&bench, "many files");
    bench.store().remove(&key).unwrap();
    bench.store().remove_layer(&top).unwrap();
    bench.reopen();
    assert_eq!(bench.entries("trash"), 0);
}

/// Ten thousand names of one file are one file.
pub(crate) fn hard_links(subject: &str) {
    let mut bench = Bench::new(subject);
    let guard = Guard::new(&mut bench);
    let links: Vec<Item> = std::iter::once(Item::file("0", "one"))
        .chain((1..10_000).map(|n| Item::hardlink(n.to_string(), (n - 1).to_string())))
        .collect();
    let top = bench.unpack(&[links]);
    let seen = bench.view(&top);
    assert_eq!(seen.len(), 10_001);
    assert!(seen.iter().all(|(path, node)| path.is_empty() || node.link == "0"));
    guard.check(&bench, "ten thousand hard links");
    bench.store().remove_layer(&top).unwrap();
}
