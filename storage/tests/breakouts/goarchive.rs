//! The invalid paths of moby's go-archive: names, hard links and symbolic links that lead to a victim beside the root.
//! Its tests give each as a tar and as a layer; to us all are layers.

use std::path::Path;

use stower_storage::testsuite::Item;

use crate::case::{Case, End, Has, up};

const DOTS: &str = "'..'";

pub(crate) fn cases(outside: &Path) -> Vec<Case> {
    // `victim` is what lies beside the root there; here it is the canaries, by any number of steps up.
    let victim = up(outside);
    let at = |rest: &str| format!("{victim}/{rest}");
    let file = |path: &str| Item::file(path, "evil");
    let refused = |name, items: Vec<Item>| Case::new(name, &items, End::Refused(DOTS));
    let contained = |name, items: Vec<Item>, has| Case::new(name, &items, End::Unpacks(has));
    vec![
        refused("InvalidFilenames: dotdot", vec![file("../victim/dotdot")]),
        refused("InvalidFilenames: slash-dotdot", vec![file("/../victim/slash-dotdot")]),
        refused("InvalidFilenames: out", vec![file(&at("file"))]),
        refused("InvalidHardlink: dotdot", vec![Item::hardlink("dotdot", at("file"))]),
        refused(
            "InvalidHardlink: slash-dotdot",
            vec![Item::hardlink("slash-dotdot", format!("/{}", at("file")))],
        ),
        refused(
            "InvalidHardlink: write through",
            vec![Item::hardlink("loophole-victim", &victim), file("loophole-victim/file")],
        ),
        refused(
            "InvalidHardlink: hardlink, symlink",
            vec![
                Item::hardlink("loophole-victim", &victim),
                Item::symlink("symlink", "loophole-victim/file"),
            ],
        ),
        refused(
            "InvalidHardlink: hardlink, hardlink",
            vec![
                Item::hardlink("loophole-victim", &victim),
                Item::hardlink("hardlink", "loophole-victim/file"),
            ],
        ),
        refused(
            "InvalidHardlink: remove",
            vec![Item::hardlink("loophole-victim", &victim), file("loophole-victim")],
        ),
        // A link may say whatever it likes; it is followed within the root.
        contained(
            "InvalidSymlink: dotdot",
            vec![Item::symlink("dotdot", at("file"))],
            vec![Has::Link("dotdot", at("file"))],
        ),
        contained(
            "InvalidSymlink: slash-dotdot",
            vec![Item::symlink("slash-dotdot", format!("/{}", at("file")))],
            vec![Has::Link("slash-dotdot", format!("/{}", at("file")))],
        ),
        contained(
            "InvalidSymlink: write through",
            vec![Item::symlink("loophole-victim", &victim), file("loophole-victim/file")],
            vec![Has::Link("loophole-victim", victim.clone())],
        ),
        Case::new(
            "InvalidSymlink: symlink, hardlink",
            &[Item::symlink("loophole-victim", &victim), Item::hardlink("hardlink", "loophole-victim/file")],
            End::Refused("its hard link target is not there"),
        ),
        contained(
            "InvalidSymlink: symlink, symlink",
            vec![Item::symlink("loophole-victim", &victim), Item::symlink("symlink", "loophole-victim/file")],
            vec![Has::Link("symlink", "loophole-victim/file".into())],
        ),
        contained(
            "InvalidSymlink: remove",
            vec![Item::symlink("loophole-victim", &victim), file("loophole-victim")],
            vec![Has::File("loophole-victim", "evil")],
        ),
        contained(
            "InvalidSymlink: new directories",
            vec![Item::symlink("dir/loophole", &victim), file("dir/loophole/newdir/newfile")],
            vec![Has::Link("dir/loophole", victim.clone())],
        ),
        contained(
            "HardlinkToSymlink",
            vec![
                Item::symlink("symlink1", "regfile"),
                Item::hardlink("symlink2", "symlink1"),
                Item::file("regfile", "inside"),
            ],
            vec![
                Has::Link("symlink2", "regfile".into()),
                Has::Same("symlink1", "symlink2"),
                Has::File("regfile", "inside"),
            ],
        ),
        // What its repairs of 2026 had broken at first: links of real images, and the mode of a device.
        contained(
            "absolute symlink, then hardlink through it",
            vec![
                Item::file("run/file", "inside"),
                Item::symlink("var/run", "/run"),
                Item::hardlink("hard", "/var/run/file"),
            ],
            vec![Has::Same("hard", "run/file")],
        ),
        contained(
            "mode of a device",
            vec![
                Item::special("dev/null", stower_storage::testsuite::ItemKind::Char(1, 3)).mode(0o666),
                Item::hardlink("null", "dev/null").mode(0o600),
            ],
            vec![Has::Same("null", "dev/null")],
        ),
    ]
}
