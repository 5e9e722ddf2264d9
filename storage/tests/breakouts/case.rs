//! One hostile image, and what has to come of it.

use std::path::Path;

use stower_storage::testsuite::{Bench, Item, Tree, blob, tar};
use stower_storage::{Compression, Digest, UnpackLimits};

use crate::guard::{Guard, SECRET};

/// What has to be in the tree.
#[derive(Debug, Clone)]
pub(crate) enum Has {
    /// Both paths are one file.
    Same(&'static str, &'static str),
    /// They are not.
    NotSame(&'static str, &'static str),
    /// A file of this content.
    File(&'static str, &'static str),
    /// A link to this.
    Link(&'static str, String),
    /// A directory.
    Dir(&'static str),
    /// Nothing.
    Not(&'static str),
}

/// How it ends.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Unpacked, so that all of this is so.
    Unpacks(Vec<Has>),
    /// Refused, with these words in the reason.
    Refused(&'static str),
    /// The one or the other, on whatever filesystem.
    Contained,
}

/// See the module.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Archives, the lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) end: End,
}

impl Case {
    pub(crate) fn new(name: &'static str, layer: &[Item], end: End) -> Self {
        Self { name, layers: vec![tar::archive(layer)], end }
    }

    /// On a layer that is innocent.
    pub(crate) fn on(name: &'static str, lower: &[Item], layer: &[Item], end: End) -> Self {
        Self { name, layers: vec![tar::archive(lower), tar::archive(layer)], end }
    }

    pub(crate) fn raw(name: &'static str, layer: Vec<u8>, end: End) -> Self {
        Self { name, layers: vec![layer], end }
    }
}

/// Runs cases as they are, and again on a parent that has directories of the names in them.
pub(crate) fn run(subject: &str, cases: crate::Cases) {
    let mut bench = Bench::new(subject);
    let guard = Guard::new(&mut bench);
    let mut names = std::collections::BTreeSet::new();
    for case in cases(guard.path()) {
        assert!(names.insert(case.name), "{} is there twice", case.name);
        once(&mut bench, &guard, &case, &case.layers, true);
        let below = tar::archive(&[Item::dir("x/y"), Item::file("x/file", "x"), Item::dir("dir")]);
        let on_others = [&[below][..], &case.layers].concat();
        once(&mut bench, &guard, &case, &on_others, false);
    }
    assert!(!names.is_empty());
    // And nothing of it comes with the next start either.
    bench.reopen();
    guard.check(&bench, "the start after all cases");
}

fn once(bench: &mut Bench, guard: &Guard, case: &Case, layers: &[Vec<u8>], exact: bool) {
    let what = format!("{}, {} layers", case.name, layers.len());
    let before = bench.store().layers();
    let blobs = layers.iter().map(|layer| blob(layer.clone(), Compression::Gzip)).collect();
    let unpacked = bench.store().unpack_image(blobs, &UnpackLimits::default());
    guard.check(bench, &what);
    match (&unpacked, &case.end) {
        (Ok(top), end) => {
            let seen = bench.view(top);
            let secret = Digest::of(SECRET.as_bytes()).to_string();
            for (path, node) in &seen {
                assert!(!node.content.contains(&secret), "{what}: {path} is the host's");
            }
            match end {
                End::Unpacks(all) if exact => all.iter().for_each(|has| holds(has, &seen, &what)),
                End::Refused(why) if exact => panic!("{what}: not refused ({why:?}) but unpacked: {seen:?}"),
                _ => {}
            }
        }
        (Err(error), End::Refused(why)) if exact => {
            let text = format!("{error:?}");
            assert!(text.contains(why), "{what}: {text} does not say {why:?}");
        }
        (Err(error), End::Unpacks(_)) if exact => panic!("{what}: {error:?}"),
        _ => {}
    }
    assert_eq!(bench.entries("staging"), 0, "{what}: something is left");
    // Away with what is new, the topmost first.
    loop {
        let new: Vec<_> =
            bench.store().layers().into_iter().filter(|layer| !before.contains(layer)).collect();
        let Some(top) = new.iter().find(|layer| !new.iter().any(|other| other.parent == Some(layer.chain)))
        else {
            break;
        };
        bench.store().remove_layer(&top.chain).unwrap();
    }
    guard.check(bench, &format!("{what}, its removal"));
}

fn holds(has: &Has, seen: &Tree, what: &str) {
    let is = |path: &str| seen.get(path).unwrap_or_else(|| panic!("{what}: no {path} in {seen:?}"));
    let file = |content: &str| format!("{} bytes {}", content.len(), Digest::of(content.as_bytes()));
    match has {
        Has::Same(one, two) => assert_eq!(is(one).link, is(two).link, "{what}: {one} and {two}"),
        Has::NotSame(one, two) => assert_ne!(is(one).link, is(two).link, "{what}: {one} and {two}"),
        Has::File(path, content) => assert_eq!(is(path).content, file(content), "{what}: {path}"),
        Has::Link(path, target) => assert_eq!(is(path).content, format!("-> {target}"), "{what}: {path}"),
        Has::Dir(path) => assert_eq!(is(path).mode & 0o170_000, 0o040_000, "{what}: {path}"),
        Has::Not(path) => assert!(!seen.contains_key(*path), "{what}: {path} is there"),
    }
}

/// From somewhere in a layer to `outside`, by going up more often than there is up.
pub(crate) fn up(outside: &Path) -> String {
    format!("{}{}", "../".repeat(30), outside.display().to_string().trim_start_matches('/'))
}
