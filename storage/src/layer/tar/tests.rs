//! What readers in the field differ over is refused, by name.

use super::*;
use crate::testsuite::tar::{append, archive, block, header, record};
use crate::testsuite::{Item, ItemKind};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    let limits = UnpackLimits::default();
    let mut source = bytes;
    let mut reader = Reader::new(&mut source, &limits);
    let mut out = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?.to_vec();
            if piece.is_empty() {
                break;
            }
            reader.used(piece.len());
            data.extend(piece);
        }
        out.push((entry, data));
    }
    Ok(out)
}

fn refused(bytes: &[u8], why: &str) {
    let text = read(bytes).expect_err(why).to_string();
    assert!(text.contains(why), "{text:?} does not say {why:?}");
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        record(&mut body, key, value);
    }
    raw_pax(&body)
}

fn raw_pax(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, &header(b"pax", b'x', body.len()), body);
    out
}

fn then_file(mut head: Vec<u8>) -> Vec<u8> {
    append(&mut head, &Item::file("f", "data"));
    head.extend_from_slice(&[0; 1024]);
    head
}

#[test]
fn reads_what_writers_write() {
    let long = format!("{}/f", "d".repeat(150));
    let items = [
        Item::file("a", "hello").mode(0o4755).owner(7, 8).mtime(5, 6),
        Item::file(&long, vec![3; 1000]),
        Item::symlink("l", "x".repeat(300)),
        Item::special("s", ItemKind::Sparse(10_000, vec![(4096, vec![1; 10]), (9_000, vec![2; 1000])])),
        Item::file("x", "").xattr("user.bin", [0, 1, b'\n', 255]),
    ];
    let entries = read(&archive(&items)).unwrap();
    assert_eq!(entries.len(), 5);
    assert_eq!((entries[0].0.mode, entries[0].0.uid, entries[0].0.gid), (0o4755, 7, 8));
    assert_eq!(entries[0].0.mtime, Time { seconds: 5, nanos: 6 });
    assert_eq!(entries[0].1, b"hello");
    assert_eq!(entries[1].0.path, long.as_bytes());
    assert_eq!(entries[2].0.kind, Kind::Symlink("x".repeat(300).into_bytes()));
    assert_eq!(entries[3].0.size, 10_000);
    assert_eq!(entries[3].0.sparse.as_ref().unwrap().len(), 2);
    assert_eq!(entries[3].1.len(), 1010);
    assert_eq!(entries[4].0.xattrs, [(b"user.bin".to_vec(), vec![0, 1, b'\n', 255])]);
}

#[test]
fn reads_gnu_names_and_numbers() {
    let mut bytes = Vec::new();
    let name = "n".repeat(200);
    let mut gnu = header(b"././@LongLink", b'L', 201);
    gnu[257..265].copy_from_slice(b"ustar  \0");
    block(&mut bytes, &gnu, format!("{name}\0").as_bytes());
    let mut head = header(b"short", b'0', 0);
    head[257..265].copy_from_slice(b"ustar  \0");
    head[345..350].copy_from_slice(b"other");
    // Base 256.
    head[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0x01, 0, 0, 0]);
    head[136..148].copy_from_slice(&[0xff; 12]);
    block(&mut bytes, &head, b"");
    let entries = read(&bytes).unwrap();
    assert_eq!(entries[0].0.path, name.as_bytes());
    assert_eq!(entries[0].0.uid, 1 << 24);
    assert_eq!(entries[0].0.mtime.seconds, -1);
}

#[test]
fn reads_old_gnu_sparse() {
    let mut head = header(b"s", b'S', 10);
    head[257..265].copy_from_slice(b"ustar  \0");
    head[386..397].copy_from_slice(b"00000000144");
    head[398..409].copy_from_slice(b"00000000012");
    head[483..494].copy_from_slice(b"00000001000");
    let mut bytes = Vec::new();
    block(&mut bytes, &head, &[9; 10]);
    let entries = read(&bytes).unwrap();
    assert_eq!(entries[0].0.size, 512);
    assert_eq!(entries[0].0.sparse, Some(vec![Segment { offset: 100, length: 10 }]));
}

#[test]
fn version_7_directory_by_slash() {
    let mut head = header(b"dir/", 0, 0);
    head[257..265].fill(0);
    let mut bytes = Vec::new();
    block(&mut bytes, &head, b"");
    assert_eq!(read(&bytes).unwrap()[0].0.kind, Kind::Directory);
}

#[test]
fn the_end_of_an_archive() {
    assert!(read(b"").unwrap().is_empty());
    assert!(read(&[0; 512]).unwrap().is_empty());
    assert!(read(&[0; 1024]).unwrap().is_empty());
    let mut bytes = vec![0; 512];
    append(&mut bytes, &Item::file("hidden", ""));
    refused(&bytes, "lone zero block");
    refused(&[0; 100], "truncated");
    let whole = archive(&[Item::file("f", "data")]);
    refused(&whole[..515], "truncated");
    refused(&whole[..300], "truncated");
}

#[test]
fn pax_size_counts_for_skipping() {
    // RUSTSEC-2026-0068: a reader that believes the header would see the data as an entry.
    let mut hidden = Vec::new();
    append(&mut hidden, &Item::symlink("smuggled", "/etc"));
    let mut bytes = pax(&[("size", hidden.len().to_string().as_bytes())]);
    let mut head = header(b"f", b'0', 0);
    head[124..135].copy_from_slice(b"00000000000");
    block(&mut bytes, &head, &hidden);
    append(&mut bytes, &Item::file("g", ""));
    let names: Vec<_> = read(&bytes).unwrap().into_iter().map(|(entry, _)| entry.path).collect();
    assert_eq!(names, [b"f".to_vec(), b"g".to_vec()]);
}

#[test]
fn differentials_are_refused() {
    let twice = [pax(&[("path", b"a")]), pax(&[("path", b"b")])].concat();
    refused(&then_file(twice), "two extended headers");
    refused(&then_file(pax(&[("path", b"a"), ("path", b"b")])), "key twice");
    refused(&then_file(pax(&[("path", b"a\0b")])), "NUL byte");
    refused(&then_file(pax(&[("path", b"")])), "empty name");
    refused(&then_file(pax(&[("size", b"-1")])), "malformed decimal");
    refused(&then_file(pax(&[("size", b"99999999999999999999")])), "malformed decimal");
    refused(&then_file(pax(&[("mtime", b"1e9")])), "malformed");
    refused(&then_file(raw_pax(b"12 path=abc")), "past its end");
    refused(&then_file(raw_pax(b"11 path=abc")), "unterminated");
    refused(&then_file(raw_pax(b"1 ")), "past its end");
    refused(&pax(&[("path", b"a")]), "no entry follows");
    refused(&[pax(&[("path", b"a")]), vec![0; 1024]].concat(), "no entry follows");

    let mut both = pax(&[("path", b"a")]);
    block(&mut both, &header(b"././@LongLink", b'L', 2), b"b\0");
    refused(&then_file(both), "a pax and a GNU name");

    let mut body = Vec::new();
    record(&mut body, "path", b"everywhere");
    let mut global = Vec::new();
    block(&mut global, &header(b"pax", b'g', body.len()), &body);
    refused(&then_file(global), "global header");

    let mut nul = header(b"f", b'0', 0);
    nul[257..265].copy_from_slice(b"ustar\0\0\0");
    let mut bytes = Vec::new();
    block(&mut bytes, &nul, b"");
    refused(&bytes, "unknown version of ustar");
}

#[test]
fn a_comment_for_all_is_no_matter() {
    let mut body = Vec::new();
    record(&mut body, "comment", b"0123abcd");
    let mut bytes = Vec::new();
    block(&mut bytes, &header(b"pax_global_header", b'g', body.len()), &body);
    assert_eq!(read(&then_file(bytes)).unwrap().len(), 1);
}

#[test]
fn headers_that_lie_are_refused() {
    let edit = |change: &dyn Fn(&mut [u8; 512])| {
        let mut head = header(b"f", b'0', 0);
        change(&mut head);
        let mut bytes = Vec::new();
        block(&mut bytes, &head, b"");
        bytes
    };
    refused(&edit(&|head| head[124..128].copy_from_slice(b"-001")), "malformed number");
    refused(&edit(&|head| head[124..136].copy_from_slice(&[0xff; 12])), "negative size");
    refused(&edit(&|head| head[124] = 0xc0), "malformed number");
    refused(&edit(&|head| head[156] = b'V'), "not known");
    refused(
        &edit(&|head| head[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
        "out of range",
    );
    refused(&edit(&|head| head[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0])), "out of range");
    let device = |head: &mut [u8; 512]| {
        head[156] = b'3';
        head[329..337].copy_from_slice(b"0010000\0");
    };
    refused(&edit(&device), "device number");
    let mut sized = Vec::new();
    block(&mut sized, &header(b"d", b'5', 10), &[0; 10]);
    refused(&sized, "only a regular file");
    let mut wrong = edit(&|_| {});
    wrong[0] = b'g';
    refused(&wrong, "checksum");
    refused(&edit(&|head| head[0] = 0), "without a name");
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let map = |map: &[u8], realsize: &[u8]| {
        then_file(pax(&[
            ("GNU.sparse.map", map),
            ("GNU.sparse.size", realsize),
            ("GNU.sparse.numblocks", b"2"),
        ]))
    };
    // The file's data is 4 bytes.
    assert!(read(&map(b"0,2,10,2", b"20")).is_ok());
    refused(&map(b"10,2,0,2", b"20"), "overlap");
    refused(&map(b"0,2,1,2", b"20"), "overlap");
    refused(&map(b"0,2,19,2", b"20"), "outside");
    refused(&map(b"0,2,9223372036854775807,2", b"20"), "overlap");
    refused(&map(b"0,2,10,3", b"20"), "not its data");
    refused(&map(b"0,2,10", b"20"), "another length");
    refused(&then_file(pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"1")])), "unknown version");
    refused(
        &then_file(pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"1"),
        ])),
        "cut off",
    );
}

#[test]
fn metadata_is_bounded() {
    let limits = UnpackLimits::default();
    let mut bytes = Vec::new();
    block(&mut bytes, &header(b"pax", b'x', usize::try_from(limits.max_pax).unwrap() + 1), b"");
    refused(&bytes, "exceeds the limit");
    let mut bytes = Vec::new();
    block(&mut bytes, &header(b"././@LongLink", b'L', limits.max_path + 2), b"");
    refused(&bytes, "exceeds the limit");
}

proptest::proptest! {
    /// Whatever comes, it ends, and without a panic.
    #[test]
    fn noise_is_survived(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048), at in 0usize..1024, byte: u8) {
        let _ = read(&bytes);
        bytes.truncate(512);
        let mut good = archive(&[
            Item::file("a", "x").xattr("user.a", "b"),
            Item::special("s", ItemKind::Sparse(100, vec![(50, vec![1; 10])])),
        ]);
        let length = good.len();
        good[at % length] = byte;
        let _ = read(&good);
    }
}
