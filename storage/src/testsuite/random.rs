//! Random stacks of layers, small in names so that they meet.

use proptest::prelude::*;

use super::images::Stack;
use super::{Item, ItemKind};

pub use super::images::stacks;

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "c", "d"], 1..4).prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    (path(), prop_oneof![Just(""), Just("/"), Just("../"), Just("./")])
        .prop_map(|(path, prefix)| format!("{prefix}{path}"))
}

fn item() -> impl Strategy<Value = Item> {
    let kind = prop_oneof![
        6 => (path(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(path, content)| Item::file(path, content)),
        4 => path().prop_map(Item::dir),
        3 => (path(), target()).prop_map(|(path, target)| Item::symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Item::hardlink(path, target)),
        3 => path().prop_map(|path| Item::whiteout(&path)),
        2 => path().prop_map(|path| Item::opaque(&path)),
        1 => path().prop_map(|path| Item::special(path, ItemKind::Fifo)),
        1 => path().prop_map(|path| Item::special(path, ItemKind::Char(1, 3))),
    ];
    let mode = prop_oneof![Just(0o755), Just(0o644), Just(0o4711), Just(0o2775), Just(0o1777), Just(0o500)];
    let owner = prop_oneof![Just((0, 0)), Just((1000, 100)), Just((0, 5))];
    let xattr = prop_oneof![3 => Just(false), 1 => Just(true)];
    (kind, mode, owner, 0..2_000_000_000i64, 0..1_000_000_000u32, xattr).prop_map(
        |(item, mode, (uid, gid), seconds, nanos, xattr)| {
            let plain = matches!(item.kind, ItemKind::File(_) | ItemKind::Dir);
            let item = item.mode(mode).owner(uid, gid).mtime(seconds, nanos);
            if xattr && plain { item.xattr("user.x", seconds.to_string()) } else { item }
        },
    )
}

/// Up to four layers of up to twelve entries.
pub fn stack() -> impl Strategy<Value = Stack> {
    proptest::collection::vec(proptest::collection::vec(item(), 0..12), 1..5)
}
