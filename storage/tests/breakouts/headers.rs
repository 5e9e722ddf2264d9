//! Headers that readers in the field understand differently, and sizes and numbers that lie. Names in lower case with
//! underscores are those of the tests of tar-rs and astral-tokio-tar. What the reader says to each in detail is in
//! `src/layer/tar/tests.rs`; here they go through a whole store.

use std::path::Path;

use stower_storage::testsuite::tar::{append, archive, block, header, record};
use stower_storage::testsuite::{Item, ItemKind};

use crate::case::{Case, End, Has};

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        record(&mut body, key, value);
    }
    let mut out = Vec::new();
    block(&mut out, &header(b"pax", b'x', body.len()), &body);
    out
}

fn whole(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = parts.concat();
    out.extend_from_slice(&[0; 1024]);
    out
}

fn entry(item: &Item) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, item);
    out
}

/// A header that is changed, with its data.
fn edited(name: &[u8], kind: u8, size: usize, data: &[u8], change: impl Fn(&mut [u8; 512])) -> Vec<u8> {
    let mut head = header(name, kind, size);
    change(&mut head);
    let mut out = Vec::new();
    block(&mut out, &head, data);
    out
}

fn gnu(head: &mut [u8; 512]) {
    head[257..265].copy_from_slice(b"ustar  \0");
}

/// Base 256, as GNU writes what octal has no room for.
fn binary(field: &mut [u8], value: u64) {
    field.fill(0);
    field[0] = 0x80;
    let at = field.len() - 8;
    field[at..].copy_from_slice(&value.to_be_bytes());
    field[0] |= 0x80;
}

pub(crate) fn cases(outside: &Path) -> Vec<Case> {
    let mut out = names(outside);
    out.extend(sizes());
    out.extend(numbers());
    out
}

fn names(outside: &Path) -> Vec<Case> {
    let out = outside.display().to_string();
    let evil = Item::symlink("smuggled", &out);
    let f = || entry(&Item::file("f", "data"));
    let refused = |name, parts: &[Vec<u8>], why| Case::raw(name, whole(parts), End::Refused(why));
    let long = |kind: u8, name: &[u8]| edited(b"././@LongLink", kind, name.len(), name, gnu);
    let mut list = vec![
        refused(
            "pax_path_and_gnu_longname_are_rejected",
            &[pax(&[("path", b"a")]), long(b'L', b"b\0"), f()],
            "a pax and a GNU name",
        ),
        refused(
            "pax linkpath and GNU long link",
            &[pax(&[("linkpath", b"a")]), long(b'K', b"b\0"), entry(&Item::symlink("l", "x"))],
            "a pax and a GNU name",
        ),
        refused("two GNU long names", &[long(b'L', b"a\0"), long(b'L', b"b\0"), f()], "two GNU long names"),
        refused("GNU long name with NUL", &[long(b'L', b"a\0b\0"), f()], "NUL byte"),
        refused(
            "two extended headers",
            &[pax(&[("path", b"a")]), pax(&[("path", b"b")]), f()],
            "two extended headers",
        ),
        refused("a key twice", &[pax(&[("path", b"a"), ("path", b"b")]), f()], "key twice"),
        refused("a global path", &[edited(b"g", b'g', 10, b"10 path=x\n", |_| {}), f()], "global header"),
        refused(
            "nul_version_ustar_headers_are_rejected",
            &[edited(b"f", b'0', 0, b"", |head| head[257..265].copy_from_slice(b"ustar\0\0\0"))],
            "unknown version of ustar",
        ),
        refused("path with NUL", &[pax(&[("path", b"a\0/b")]), f()], "NUL byte"),
        refused("empty path", &[pax(&[("path", b"")]), f()], "empty name"),
        refused("no name", &[edited(b"", b'0', 0, b"", |_| {})], "without a name"),
        refused("extension of nothing", &[pax(&[("path", b"a")])], "no entry follows"),
        refused(
            "unterminated_pax_record_is_rejected",
            &[edited(b"pax", b'x', 11, b"11 path=abc", |_| {}), f()],
            "unterminated",
        ),
        refused(
            "a pax record past the end",
            &[edited(b"pax", b'x', 11, b"99 path=abc", |_| {}), f()],
            "past its end",
        ),
        Case::raw(
            "pax_precedence",
            whole(&[
                pax(&[("path", b"right"), ("uid", b"7"), ("mtime", b"5.5")]),
                edited(b"wrong", b'0', 4, b"data", |_| {}),
            ]),
            End::Unpacks(vec![Has::File("right", "data"), Has::Not("wrong")]),
        ),
        Case::raw(
            "a prefix in a GNU header is none",
            whole(&[edited(b"f", b'0', 0, b"", |head| {
                gnu(head);
                head[345..348].copy_from_slice(b"etc");
            })]),
            End::Unpacks(vec![Has::File("f", ""), Has::Not("etc")]),
        ),
        Case::raw(
            "what follows a lone zero block",
            [&[0; 512][..], &entry(&evil), &[0; 1024]].concat(),
            End::Refused("lone zero block"),
        ),
        Case::raw(
            "what follows the end",
            [&archive(&[Item::file("f", "data")])[..], &entry(&evil), &[0; 1024]].concat(),
            End::Unpacks(vec![Has::File("f", "data"), Has::Not("smuggled")]),
        ),
        Case::raw(
            "a trailing slash on a file of version 7",
            whole(&[edited(b"d/", 0, 0, b"", |head| head[257..265].fill(0))]),
            End::Unpacks(vec![Has::Dir("d")]),
        ),
    ];
    // tar-rs's extracting_malicious_tarball: names that begin or end in every way.
    for (name, path) in [
        ("malicious: /abs", format!("{out}/abs")),
        ("malicious: //abs", format!("/{out}/abs")),
        ("malicious: ///abs", format!("//{out}/abs")),
        ("malicious: /./abs", format!("/.{out}/abs")),
    ] {
        list.push(Case::raw(name, whole(&[entry(&Item::file(path, "evil"))]), End::Contained));
    }
    for (name, path) in [
        ("malicious: ../rel", "../rel"),
        ("malicious: ./../rel", "./../rel"),
        ("malicious: some/../../rel", "some/../../rel"),
        ("malicious: ././//./..", "././//./.."),
        ("malicious: ..", ".."),
        ("malicious: /////////..", "/////////.."),
    ] {
        list.push(refused(name, &[entry(&Item::file(path, "evil"))], "'..'"));
    }
    list.push(refused(
        "malicious: /////////",
        &[entry(&Item::file("/////////", "evil"))],
        "the root can only be",
    ));
    list
}

fn sizes() -> Vec<Case> {
    let hidden = entry(&Item::symlink("smuggled", "/etc"));
    let size = hidden.len();
    let shown = size.to_string();
    let octal = |size: usize| format!("{size:011o}");
    let refused = |name, parts: &[Vec<u8>], why| Case::raw(name, whole(parts), End::Refused(why));
    vec![
        // The header says 0, pax the truth: who believes the header sees the data as an entry (RUSTSEC-2026-0068).
        Case::raw(
            "pax_size_smuggled_symlink",
            whole(&[
                pax(&[("size", shown.as_bytes())]),
                edited(b"f", b'0', 0, &hidden, |_| {}),
                entry(&Item::file("g", "")),
            ]),
            End::Unpacks(vec![Has::File("g", ""), Has::Not("smuggled")]),
        ),
        // The other way round: who believes the header does not see an entry.
        Case::raw(
            "pax_hidden_entry",
            whole(&[
                entry(&Item::file("file_a", "")),
                pax(&[("size", b"0")]),
                edited(b"file_b", b'0', 0, b"", |head| {
                    head[124..135].copy_from_slice(octal(size).as_bytes());
                }),
                entry(&Item::file("hidden", "")),
            ]),
            End::Unpacks(vec![Has::File("file_a", ""), Has::File("file_b", ""), Has::File("hidden", "")]),
        ),
        Case::raw(
            "pax_phantom_entry",
            whole(&[
                entry(&Item::file("file_a", "")),
                pax(&[("size", shown.as_bytes())]),
                edited(b"file_b", b'0', 0, &hidden, |head| {
                    head[124..135].copy_from_slice(octal(0).as_bytes());
                }),
            ]),
            End::Unpacks(vec![Has::File("file_a", ""), Has::Not("smuggled")]),
        ),
        refused(
            "header_size_overflow",
            &[edited(b"f", b'0', 0, b"x", |head| binary(&mut head[124..136], u64::MAX - 513))],
            "out of range",
        ),
        refused(
            "header_size_overflow after an entry",
            &[
                entry(&Item::file("first", vec![0; 1000])),
                edited(b"f", b'0', 0, b"x", |head| binary(&mut head[124..136], u64::MAX - 513)),
            ],
            "out of range",
        ),
        refused(
            "the largest size there is",
            &[edited(b"f", b'0', 0, b"x", |head| binary(&mut head[124..136], i64::MAX.unsigned_abs()))],
            "bytes in one file",
        ),
        refused(
            "a negative size",
            &[edited(b"f", b'0', 0, b"", |head| head[124..136].fill(0xff))],
            "negative size",
        ),
        Case::raw(
            "truncated_entry_reports_eof_while_reading_body",
            edited(b"f", b'0', 4096, b"only this", |_| {}),
            End::Refused("Truncated"),
        ),
        refused("more data than said", &[edited(b"f", b'0', 4, &[b'x'; 1024], |_| {})], "Header"),
        refused("a directory with data", &[edited(b"d", b'5', 4, b"data", |_| {})], "only a regular file"),
        refused("a link with data", &[edited(b"l", b'2', 4, b"data", |_| {})], "only a regular file"),
        refused(
            "a sparse file smaller than its data",
            &[entry(&Item::special("s", ItemKind::Sparse(10, vec![(0, vec![1; 100])])))],
            "outside",
        ),
        refused(
            "a sparse file of more than all",
            &[entry(&Item::special("s", ItemKind::Sparse(1 << 62, vec![(0, vec![1; 10])])))],
            "bytes in one file",
        ),
        refused(
            "a sparse map that overlaps",
            &[entry(&Item::special("s", ItemKind::Sparse(100, vec![(0, vec![1; 50]), (10, vec![2; 50])])))],
            "overlap",
        ),
    ]
}

fn numbers() -> Vec<Case> {
    let refused = |name, parts: &[Vec<u8>], why| Case::raw(name, whole(parts), End::Refused(why));
    let device = |kind: u8, major: u64, minor: u64| {
        edited(b"dev", kind, 0, b"", |head| {
            binary(&mut head[329..337], major);
            binary(&mut head[337..345], minor);
        })
    };
    let owner = |uid: u64| edited(b"f", b'0', 0, b"", |head| binary(&mut head[108..116], uid));
    vec![
        refused(
            "a character device of major 4096",
            &[device(b'3', 1 << 12, 0)],
            "device number out of range",
        ),
        refused("a block device of minor 2^20", &[device(b'4', 8, 1 << 20)], "device number out of range"),
        refused(
            "a device of major 2^32 + 1",
            &[device(b'3', (1 << 32) + 1, 3)],
            "device number out of range",
        ),
        refused(
            "a device of major -1",
            &[edited(b"dev", b'3', 0, b"", |head| head[329..337].fill(0xff))],
            "device number out of range",
        ),
        // What lies between what Linux has and what the filesystem has is the filesystem's to say.
        Case::raw(
            "the highest device there is",
            whole(&[device(b'4', (1 << 12) - 1, (1 << 20) - 1)]),
            End::Contained,
        ),
        refused("an owner of 2^32", &[owner(1 << 32)], "owner is out of range"),
        refused("an owner of 2^32 - 1", &[owner((1 << 32) - 1)], "owner is out of range"),
        refused(
            "an owner by pax of 2^32",
            &[pax(&[("uid", b"4294967296")]), owner(0)],
            "owner is out of range",
        ),
        refused("an owner by pax of -1", &[pax(&[("gid", b"-1")]), owner(0)], "malformed decimal"),
        refused("a time that is no number", &[pax(&[("mtime", b"1e99")]), owner(0)], "malformed"),
        Case::raw(
            "the furthest times",
            whole(&[
                pax(&[("mtime", b"9223372036854775807.999999999")]),
                edited(b"far", b'0', 0, b"", |_| {}),
                pax(&[("mtime", b"-9223372036854775807.5")]),
                edited(b"long ago", b'0', 0, b"", |_| {}),
            ]),
            End::Contained,
        ),
        refused("a type that nobody knows", &[edited(b"f", b'Z', 0, b"", |_| {})], "type is not known"),
        refused(
            "a wrong checksum",
            &[{
                let mut raw = edited(b"f", b'0', 0, b"", |_| {});
                raw[0] = b'g';
                raw
            }],
            "checksum",
        ),
    ]
}
