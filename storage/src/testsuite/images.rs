//! Stacks of layers that say one thing each. [`stacks`] gives them by name; whoever compares drivers takes them all.

use super::{Bench, Check, Item, ItemKind};

pub(super) const CHECKS: &[Check] = &[
    ("image_trees", image_trees),
    ("whiteout_applies_to_lower_only", whiteout_applies_to_lower_only),
    ("implied_directories", implied_directories),
    ("lower_symlink_on_path", lower_symlink_on_path),
    ("hardlink_to_lower", hardlink_to_lower),
    ("metadata", metadata),
    ("sparse", sparse),
    ("overlay_books_not_forged", overlay_books_not_forged),
];

/// Layers, the lowest first.
pub type Stack = Vec<Vec<Item>>;

/// Hand-made stacks.
pub fn stacks() -> Vec<(&'static str, Stack)> {
    let base = || {
        vec![
            Item::dir("a").mode(0o750).owner(1, 2).mtime(1_000_000, 123_456_789).xattr("user.k", "v"),
            Item::dir("a/b").mode(0o1777).mtime(2_000_000, 5),
            Item::file("a/b/f", "f").mode(0o4755),
            Item::file("a/g", "g").owner(3, 4).mode(0o2711),
            Item::file("h", "h"),
            Item::symlink("l", "/a"),
            Item::symlink("r", "a/b"),
            Item::dir("run"),
            Item::dir("var"),
            Item::symlink("var/run", "/run"),
            Item::symlink("up", "../../a/b/../b"),
        ]
    };
    let over = |items: Vec<Item>| vec![base(), items];
    vec![
        ("base", vec![base()]),
        ("no entries", vec![Vec::new(), base(), Vec::new()]),
        ("root entry", vec![vec![Item::dir("./").mode(0o700).owner(5, 5)], base()]),
        ("implied", over(vec![Item::file("a/b/new", "n")])),
        ("implied new", vec![vec![Item::file("x/y/z", "z")], base(), vec![Item::file("x/y/q", "q")]]),
        ("explicit", over(vec![Item::dir("a").mode(0o711), Item::file("a/n", "n")])),
        ("whiteout file", over(vec![Item::whiteout("h")])),
        ("whiteout nested", over(vec![Item::whiteout("a/b/f"), Item::whiteout("a/nothing")])),
        ("whiteout nowhere", over(vec![Item::whiteout("no/such/thing")])),
        ("whiteout dir", over(vec![Item::whiteout("a")])),
        ("whiteout link", over(vec![Item::whiteout("l"), Item::whiteout("var/run")])),
        ("whiteout in bottom", vec![vec![Item::whiteout("a"), Item::file("b", "")], base()]),
        ("opaque", over(vec![Item::opaque("a"), Item::file("a/n", "n")])),
        ("opaque after", over(vec![Item::file("a/n", "n"), Item::opaque("a")])),
        ("opaque new", over(vec![Item::opaque("new/dir"), Item::file("new/dir/f", "f")])),
        ("opaque deep", over(vec![Item::file("a/b/n", "n"), Item::opaque("a"), Item::whiteout("a/b/f")])),
        ("opaque root", over(vec![Item::file(".wh..wh..opq", ""), Item::file("only", "1")])),
        ("whiteout then dir", over(vec![Item::whiteout("a"), Item::file("a/b/n", "n")])),
        ("dir then whiteout", over(vec![Item::file("a/b/n", "n"), Item::whiteout("a")])),
        ("explicit then whiteout", over(vec![Item::dir("a").mode(0o700), Item::whiteout("a")])),
        ("through then whiteout", over(vec![Item::file("l/n", "n"), Item::whiteout("l")])),
        ("inner whiteout then outer", over(vec![Item::whiteout("a/b/f"), Item::whiteout("a")])),
        ("own file stays", over(vec![Item::file("h", "2"), Item::whiteout("h")])),
        ("file for dir", over(vec![Item::file("a", "now a file")])),
        ("dir for file", over(vec![Item::dir("h"), Item::file("h/i", "i")])),
        ("dir for link", over(vec![Item::dir("l"), Item::file("l/i", "i")])),
        ("file, then dir", over(vec![Item::file("a", "1"), Item::dir("a"), Item::file("a/i", "i")])),
        ("dir, file, dir", over(vec![Item::file("a/n", "n"), Item::file("a", "1"), Item::file("a/i", "i")])),
        ("three layers", vec![base(), vec![Item::file("a", "1")], vec![Item::file("a/z", "z")]]),
        ("implied for file", over(vec![Item::file("h/i/j", "j")])),
        ("link on path", over(vec![Item::file("var/run/pid", "1"), Item::file("l/b/n", "n")])),
        ("link on path up", over(vec![Item::file("up/n", "n")])),
        ("link then dir", over(vec![Item::file("l/n", "n"), Item::dir("l"), Item::file("l/m", "m")])),
        ("link then file", over(vec![Item::file("l/n", "n"), Item::file("l", "file")])),
        ("whiteout through link", over(vec![Item::whiteout("l/g"), Item::opaque("r")])),
        (
            "dir becomes link",
            over(vec![Item::file("q/w/1", "1"), Item::symlink("q", "a"), Item::file("q/w/2", "2")]),
        ),
        ("hardlink to what is implied here", over(vec![Item::file("l/x", "x"), Item::hardlink("hard", "l")])),
        ("hardlink to itself", over(vec![Item::whiteout("l/x"), Item::hardlink("l", "l")])),
        ("dangling", vec![vec![Item::symlink("d", "/not/there")], vec![Item::file("d/f", "f")]]),
        ("own link", over(vec![Item::symlink("own", "a/b"), Item::file("own/n", "n")])),
        ("own link to lower link", over(vec![Item::symlink("own", "var/run"), Item::file("own/n", "n")])),
        ("own link up", over(vec![Item::symlink("own", "l/../h2"), Item::file("own/n", "n")])),
        ("hardlinks", vec![vec![Item::file("1", "x"), Item::hardlink("2", "1"), Item::hardlink("d/3", "2")]]),
        ("hardlink to lower", over(vec![Item::hardlink("a/b/hard", "h"), Item::hardlink("x/y", "a/g")])),
        ("hardlink through link", over(vec![Item::hardlink("hard", "l/g")])),
        ("hardlink then whiteout", over(vec![Item::hardlink("hard", "h"), Item::whiteout("h")])),
        ("hardlink to link", over(vec![Item::symlink("s", "h"), Item::hardlink("t", "s")])),
        (
            "replace hardlink",
            vec![vec![Item::file("1", "x"), Item::hardlink("2", "1")], vec![Item::file("1", "y")]],
        ),
        (
            "twice",
            over(vec![
                Item::file("h", "1"),
                Item::file("h", "2"),
                Item::dir("a"),
                Item::dir("a").mode(0o711),
            ]),
        ),
        (
            "specials",
            over(vec![
                Item::special("dev/null", ItemKind::Char(1, 3)).mode(0o666),
                Item::special("dev/sda", ItemKind::Block(8, 1)).owner(0, 6),
                Item::special("pipe", ItemKind::Fifo).mtime(77, 7),
                Item::special("h", ItemKind::Char(5, 0)),
            ]),
        ),
        (
            "sparse",
            over(vec![Item::special(
                "s",
                ItemKind::Sparse(1 << 20, vec![(4096, vec![1; 4096]), (1 << 19, vec![2; 100])]),
            )]),
        ),
        (
            "sgid dir",
            vec![
                vec![Item::dir("d").mode(0o2775).owner(0, 50)],
                vec![
                    Item::file("d/f", "f"),
                    Item::dir("d/e"),
                    Item::file("d/x/y", "y"),
                    Item::symlink("d/l", "f"),
                ],
            ],
        ),
        (
            "attributes",
            vec![
                vec![
                    Item::dir("d").xattr("user.one", "1").xattr("trusted.two", "2"),
                    Item::file("d/f", "").xattr("user.f", "f"),
                ],
                vec![Item::dir("d").xattr("user.three", "3"), Item::file("d/f", "new")],
            ],
        ),
        (
            "odd names",
            vec![vec![
                Item::file(b"bytes \xff\xfe".as_slice(), "1"),
                Item::file("n".repeat(255), "2"),
                Item::file(format!("{}/f", ["d".repeat(200), "e".repeat(200)].join("/")), "3"),
                Item::file("./x//y/./z", "4"),
                Item::file("/absolute", "5"),
                Item::file("new\nline", "6"),
            ]],
        ),
    ]
}

/// Every stack unpacks; whether it is right, others compare.
fn image_trees(bench: &mut Bench) {
    for (name, stack) in stacks() {
        let top = bench.try_unpack(&stack).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        bench.view(&top);
    }
}

fn find(name: &str) -> Stack {
    stacks().into_iter().find(|(known, _)| *known == name).unwrap().1
}

fn names(bench: &mut Bench, stack: &Stack) -> Vec<String> {
    let top = bench.unpack(stack);
    bench.view(&top).into_keys().collect()
}

fn whiteout_applies_to_lower_only(bench: &mut Bench) {
    let common = ["", "h", "l", "r", "run", "up", "var", "var/run"].map(str::to_owned).to_vec();
    let with = |more: &[&str]| {
        let mut all = common.clone();
        all.extend(more.iter().map(|name| (*name).to_owned()));
        all.sort();
        all
    };
    assert_eq!(names(bench, &find("whiteout dir")), with(&[]));
    for name in ["whiteout then dir", "dir then whiteout"] {
        assert_eq!(names(bench, &find(name)), with(&["a", "a/b", "a/b/n"]), "{name}");
    }
    for name in ["opaque", "opaque after"] {
        assert_eq!(names(bench, &find(name)), with(&["a", "a/n"]), "{name}");
    }
    assert_eq!(names(bench, &find("file, then dir")), with(&["a", "a/i"]));
    let top = bench.unpack(&find("own file stays"));
    assert!(bench.view(&top)["h"].content.starts_with("1 bytes"));
}

fn implied_directories(bench: &mut Bench) {
    let base = bench.unpack(&find("base"));
    let top = bench.unpack(&find("implied"));
    let (before, after) = (bench.view(&base), bench.view(&top));
    for dir in ["a", "a/b"] {
        assert_eq!(before[dir], after[dir], "{dir}");
    }
    assert_eq!(after["a"].owner, (1, 2));
    assert_eq!(after["a"].mtime, (1_000_000, 123_456_789));
    assert_eq!(after["a"].xattrs, [("user.k".to_owned(), b"v".to_vec())]);
    let top = bench.unpack(&find("whiteout then dir"));
    let after = bench.view(&top);
    assert_eq!((after["a"].mode & 0o7777, after["a"].owner, after["a"].mtime), (0o755, (0, 0), (0, 0)));
}

fn lower_symlink_on_path(bench: &mut Bench) {
    let top = bench.unpack(&find("link on path"));
    let seen = bench.view(&top);
    assert!(seen.contains_key("run/pid") && seen.contains_key("a/b/n"));
    assert_eq!(seen["var/run"].content, "-> /run");
    let top = bench.unpack(&find("own link to lower link"));
    assert!(bench.view(&top).contains_key("run/n"));
}

fn hardlink_to_lower(bench: &mut Bench) {
    let top = bench.unpack(&find("hardlink to lower"));
    let seen = bench.view(&top);
    assert_eq!(seen["h"].link, seen["a/b/hard"].link);
    assert_eq!(seen["x/y"].link, seen["a/g"].link);
    assert_eq!(seen["x/y"].owner, (3, 4));
    let top = bench.unpack(&find("hardlink then whiteout"));
    let seen = bench.view(&top);
    assert!(seen.contains_key("hard") && !seen.contains_key("h"));
}

fn metadata(bench: &mut Bench) {
    // cap_net_raw+ep, as setcap writes it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let top = bench.unpack(&[vec![
        Item::file("suid", "x").mode(0o6755).owner(11, 12).mtime(-5, 250_000_000),
        Item::file("ping", "x").mode(0o755).owner(1, 1).xattr("security.capability", capability),
        Item::symlink("link", "to").owner(13, 14).mtime(123, 456),
        Item::dir("sticky").mode(0o1777).mtime(99, 1),
        Item::file("sticky/f", "1"),
        Item::special("null", ItemKind::Char(1, 3)).owner(1, 5).mode(0o640),
        // The most that XFS takes.
        Item::special("big", ItemKind::Block(511, (1 << 18) - 1)),
        Item::file("far", "").mtime(4_294_967_296, 1),
    ]]);
    let seen = bench.view(&top);
    assert_eq!((seen["suid"].mode & 0o7777, seen["suid"].owner), (0o6755, (11, 12)));
    assert_eq!(seen["suid"].mtime, (-6, 750_000_000));
    assert_eq!(seen["ping"].xattrs, [("security.capability".to_owned(), capability.to_vec())]);
    assert_eq!((seen["link"].owner, seen["link"].mtime), ((13, 14), (123, 456)));
    assert_eq!((seen["sticky"].mode & 0o7777, seen["sticky"].mtime), (0o1777, (99, 1)));
    assert_eq!((seen["null"].device, seen["null"].owner), (rustix::fs::makedev(1, 3), (1, 5)));
    assert_eq!(seen["big"].device, rustix::fs::makedev(511, (1 << 18) - 1));
    assert_eq!(seen["far"].mtime, (4_294_967_296, 1));
}

fn sparse(bench: &mut Bench) {
    use std::os::unix::fs::MetadataExt;
    let pieces = vec![(1 << 20, vec![7; 4096]), ((1 << 30) - 10, vec![8; 10])];
    let top = bench.unpack(&[vec![Item::special("s", ItemKind::Sparse(1 << 30, pieces))]]);
    let (_key, mount) = bench.mounted(Some(&top));
    let path = super::Files::new(&mount).path("s");
    let meta = path.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "the holes are on disk");
    let file = std::fs::File::open(path).unwrap();
    let mut byte = [0];
    for (offset, expected) in [(0, 0), ((1 << 20) + 1, 7), ((1 << 30) - 1, 8)] {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, offset).unwrap();
        assert_eq!(byte[0], expected);
    }
}

/// Neither attributes nor devices of an image can tell overlayfs what to do.
fn overlay_books_not_forged(bench: &mut Bench) {
    let base = vec![Item::dir("d"), Item::file("d/f", "1"), Item::file("e", "2")];
    let forged = vec![
        Item::dir("d")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.opaque", "y")
            .xattr("user.keep", "1"),
        Item::file("e", "3").xattr("trusted.overlay.redirect", "/d/f").xattr("trusted.overlay.metacopy", ""),
    ];
    let top = bench.unpack(&[base.clone(), forged]);
    let seen = bench.view(&top);
    assert!(seen.contains_key("d/f"));
    assert_eq!(seen["d"].xattrs, [("user.keep".to_owned(), b"1".to_vec())]);
    assert!(seen["e"].content.starts_with("1 bytes"));
    let refused = bench.try_unpack(&[base, vec![Item::special("e", ItemKind::Char(0, 0))]]).unwrap_err();
    assert!(format!("{refused:?}").contains("whiteout"), "{refused:?}");
}
