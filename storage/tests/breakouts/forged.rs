//! What an image would have to say to make overlayfs or a driver believe something: it cannot.

use std::path::Path;

use stower_storage::testsuite::{Item, ItemKind};

use crate::case::{Case, End, Has};

/// All that overlayfs has kept its books with up to Linux 6.18, those of nested overlays (`overlay.overlay.`) too
/// (kernel documentation, filesystems/overlayfs.rst).
const BOOKS: [&str; 12] = [
    "opaque",
    "redirect",
    "metacopy",
    "origin",
    "impure",
    "nlink",
    "upper",
    "uuid",
    "verity",
    "protattr",
    "whiteout",
    "overlay.opaque",
];

pub(crate) fn cases(outside: &Path) -> Vec<Case> {
    let out = outside.display().to_string();
    let base = || vec![Item::dir("d"), Item::file("d/f", "lower"), Item::file("e", "lower"), Item::dir("q")];
    let stays = || vec![Has::File("d/f", "lower"), Has::Dir("q")];
    let mut list = Vec::new();
    for (name, prefix) in [("trusted.overlay.*", "trusted.overlay."), ("user.overlay.*", "user.overlay.")] {
        let forge = |mut item: Item| {
            for book in BOOKS {
                // A value for each that would do something: `x` marks a directory of whiteouts by attribute, 17 zero
                // bytes are no valid origin, a path redirects.
                let value: &[u8] = match book {
                    "redirect" => b"/d/f",
                    "opaque" if item.path.ends_with(b"q") => b"x",
                    "opaque" | "impure" | "overlay.opaque" => b"y",
                    "origin" | "upper" => &[0; 17],
                    "nlink" => b"U+5",
                    _ => b"",
                };
                item = item.xattr(&format!("{prefix}{book}"), value);
            }
            item
        };
        let has = [stays(), vec![Has::File("e", "upper"), Has::File("q/g", "")]].concat();
        let forged = vec![
            forge(Item::dir("d")),
            forge(Item::file("e", "upper")),
            forge(Item::dir("q")),
            forge(Item::file("q/g", "")),
            forge(Item::symlink("link", "e")),
        ];
        list.push(Case::on(name, &base(), &forged, End::Unpacks(has)));
    }
    list.extend([
        Case::on(
            "redirect out of the layer",
            &base(),
            &[Item::dir("d").xattr("trusted.overlay.redirect", format!("/../../../..{out}"))],
            End::Unpacks(stays()),
        ),
        Case::on(
            "whiteout by device 0:0",
            &base(),
            &[Item::special("e", ItemKind::Char(0, 0))],
            End::Refused("overlayfs's own whiteout"),
        ),
        Case::on(
            "whiteout by device 0:0 that is renamed by a link",
            &base(),
            &[Item::whiteout("e"), Item::hardlink("d/f", "e")],
            End::Refused("its hard link target is not there"),
        ),
        Case::on(
            "whiteout by attribute",
            &base(),
            &[
                Item::dir("d").xattr("trusted.overlay.opaque", "x"),
                Item::file("d/f", "").xattr("trusted.overlay.whiteout", ""),
            ],
            End::Unpacks(vec![Has::File("d/f", "")]),
        ),
        Case::on(
            "a block device 0:0 is a device",
            &base(),
            &[Item::special("e", ItemKind::Block(0, 0))],
            End::Unpacks(stays()),
        ),
        Case::on(
            "an opaque mark that is a directory",
            &base(),
            &[Item::dir("d/.wh..wh..opq")],
            End::Refused("a whiteout is a regular file"),
        ),
        Case::on(
            "a whiteout that is a link out",
            &base(),
            &[Item::symlink(".wh.e", &out)],
            End::Refused("a whiteout is a regular file"),
        ),
        Case::on("a whiteout of a whiteout", &base(), &[Item::file(".wh..wh.e", "")], End::Unpacks(stays())),
        Case::on(
            "what aufs kept for itself",
            &base(),
            &[
                Item::dir(".wh..wh.plnk"),
                Item::file(".wh..wh.plnk/1.2", "evil"),
                Item::file(".wh..wh.aufs", ""),
            ],
            End::Unpacks([stays(), vec![Has::Not(".wh..wh.plnk"), Has::Not(".wh..wh.aufs")]].concat()),
        ),
        // Names of the driver's own files mean nothing inside a layer.
        Case::on(
            "a record of a driver",
            &base(),
            &[
                Item::symlink("layer", "v1/-/sha256:0"),
                Item::symlink("snapshot", "v1/writable/-"),
                Item::dir("work"),
                Item::file("diff/f", "1"),
            ],
            End::Unpacks([stays(), vec![Has::File("diff/f", "1")]].concat()),
        ),
        Case::on(
            "attributes that mean something to the kernel",
            &base(),
            &[
                Item::file("e", "upper").xattr(
                    "security.capability",
                    [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
                Item::dir("d").xattr("system.posix_acl_default", b"garbage"),
            ],
            End::Contained,
        ),
        Case::new(
            "an attribute of no name and one that is too long",
            &[Item::file("f", "").xattr("", "1").xattr(&"n".repeat(256), "1")],
            End::Refused("attribute the kernel cannot hold"),
        ),
        Case::new(
            "an attribute that is too large",
            &[Item::file("f", "").xattr("user.big", vec![0; (64 << 10) + 1])],
            End::Refused("attribute the kernel cannot hold"),
        ),
        Case::new(
            "attributes of more than a header holds",
            &[(0..40)
                .fold(Item::file("f", ""), |item, n| item.xattr(&format!("user.{n}"), vec![0; 32 << 10]))],
            End::Refused("bytes of an extended header"),
        ),
    ]);
    list
}
