//! Ways out that no list of others has, or that went wrong elsewhere.

use std::path::Path;

use stower_storage::testsuite::{Item, ItemKind};

use crate::case::{Case, End, Has, up};

pub(crate) fn cases(outside: &Path) -> Vec<Case> {
    let out = outside.display().to_string();
    let up = up(outside);
    let file = |path: &str| Item::file(path, "evil").mode(0o777);
    let link = |path: &str, target: &str| Item::symlink(path, target);
    let hard = |path: &str, target: &str| Item::hardlink(path, target);
    let contained = |name, items: Vec<Item>| Case::new(name, &items, End::Contained);
    let mut all = vec![
        contained("write through an absolute link", vec![link("l", &out), file("l/file")]),
        contained("write through a link up", vec![link("l", &up), file("l/file")]),
        contained("two absolute links", vec![link("a", &out), link("b", "/a"), file("b/file")]),
        contained("two relative links", vec![link("a", &up), link("x/b", "../a"), file("x/b/file")]),
        contained("an empty file over a link", vec![link("l", &format!("{out}/new")), Item::file("l", "")]),
        contained("a link with a slash at its end", vec![link("l/", &format!("{out}/")), file("l/file")]),
        contained("a link for a directory", vec![Item::dir("d"), link("d", &out), file("d/file")]),
        contained("a directory for a link", vec![link("d", &out), Item::dir("d"), file("d/file")]),
        // tar-rs's symlink_dir_collision_does_not_modify_external_dir_permissions (RUSTSEC-2026-0067).
        Case::new(
            "symlink_dir_collision_does_not_modify_external_dir_permissions",
            &[link("d", &format!("{out}/dir")), Item::dir("d").mode(0o777).owner(7, 7).mtime(1, 1)],
            End::Unpacks(vec![Has::Dir("d")]),
        ),
        // And its modify_link_just_created, modify_outside_with_relative_symlink, parent_paths_error.
        contained(
            "modify_link_just_created",
            vec![link("foo", "bar"), link("bar/foo", "foo"), file("foo/file")],
        ),
        contained("modify_symlink_just_created", vec![link("foo", &up), file("foo/dir/inner")]),
        contained(
            "modify_outside_with_relative_symlink",
            vec![link("symlink", &format!("{up}/dir")), Item::file("symlink/x", "")],
        ),
        Case::new("parent_paths_error", &[Item::file("foo/../bar", "")], End::Refused("'..'")),
        contained(
            "a directory whose time is set at the end, through a link by then",
            vec![Item::dir("d/dir").mode(0o777), link("d", &out)],
        ),
        contained("the same, deeper and upwards", vec![Item::dir("x/dir").owner(1, 1), link("x", &up)]),
        contained("a hard link to a file of the host", vec![hard("h", &format!("{out}/file")), file("h")]),
        contained("a hard link through a link", vec![link("l", &out), hard("h", "l/file"), file("h")]),
        contained(
            "the mode of a hard link to a link",
            vec![link("l", &format!("{out}/file")), hard("h", "l").mode(0o777).owner(1, 1)],
        ),
        Case::new(
            "a hard link to a directory",
            &[Item::dir("d"), hard("h", "d")],
            End::Refused("a directory"),
        ),
        Case::new("a hard link to the root", &[hard("h", "/")], End::Refused("cannot have one")),
        Case::new("a hard link to nothing", &[hard("h", "nowhere")], End::Refused("is not there")),
        Case::new("a hard link to itself", &[hard("h", "h")], End::Refused("is not there")),
        contained("a whiteout through a link out", vec![link("l", &out), Item::file("l/.wh.file", "")]),
        contained("a whiteout deep through a link up", vec![link("l", &up), Item::file("l/.wh.dir", "")]),
        contained(
            "an opaque mark through a link out",
            vec![link("l", &out), Item::file("l/.wh..wh..opq", "")],
        ),
        contained(
            "an attribute on a link out",
            vec![link("l", &format!("{out}/file")).xattr("trusted.evil", "1")],
        ),
        contained(
            "a node over a link out",
            vec![link("l", &format!("{out}/file")), Item::special("l", ItemKind::Fifo)],
        ),
        contained(
            "a file into a pipe",
            vec![Item::special("p", ItemKind::Fifo), Item::file("p", "x"), file("p/f")],
        ),
        contained(
            "a file into a device",
            vec![Item::special("n", ItemKind::Char(1, 8)), Item::file("n", "x"), file("n/f")],
        ),
        Case::new(
            "links that go round",
            &[link("a", "b"), link("b", "a"), file("a/f")],
            End::Refused("too many"),
        ),
        Case::new("a link to itself", &[link("a", "a"), file("a/f")], End::Refused("too many")),
        Case::new(
            "a link to further down than a path may go",
            &[link("l", &"x/".repeat(500)), file("l/f")],
            End::Refused("too deep"),
        ),
        Case::new(
            "a path of links that each go further down",
            &[
                link("l", &"x/".repeat(200)),
                link(&("x/".repeat(200) + "l"), &"y/".repeat(200)),
                file("l/l/f"),
            ],
            End::Refused("too deep"),
        ),
        contained(
            "through the process's own files",
            vec![link("l", "/proc/self/root"), file(&format!("l{out}/f"))],
        ),
        contained("through a descriptor", vec![link("l", "/proc/self/fd/3"), file("l/f")]),
        contained(
            "through the thread's working directory",
            vec![link("l", "/proc/thread-self/cwd"), file("l/f")],
        ),
        // From here a layer's directory is three steps up from the records of the store.
        contained(
            "up into the store",
            vec![link("l", "../../../.."), file("l/layers/x"), Item::file("l/.wh.layers", "")],
        ),
        contained(
            "up into the staging",
            vec![link("l", "../.."), file("l/evil"), Item::file("l/.wh..wh..opq", "")],
        ),
        Case::new(
            "names of 255 bytes, and of any bytes",
            &[
                Item::file("n".repeat(255), "1"),
                Item::file(vec![0xff; 255], "2"),
                Item::file(b"\xc0\xaf\xe2\x80\xae\x1b[31m\n\t ".as_slice(), "3"),
                Item::symlink(b"\xfe".as_slice(), [0xff; 64]),
                Item::dir(b"d\xfe".as_slice()),
                Item::file(b"d\xfe/\xff".as_slice(), "4"),
                Item::file(b".wh.\xff".as_slice(), ""),
            ],
            End::Unpacks(vec![]),
        ),
        Case::new(
            "a name of 256 bytes",
            &[Item::file("n".repeat(256), "")],
            End::Refused("longer than 255 bytes"),
        ),
        Case::new(
            "a path of 256 directories",
            &[Item::file("d/".repeat(255) + "f", "deep")],
            End::Unpacks(vec![]),
        ),
        Case::new(
            "a path of 257 components",
            &[Item::file("d/".repeat(256) + "f", "")],
            End::Refused("too deep"),
        ),
        Case::new(
            "a path of 4,096 bytes",
            &[Item::file(format!("{}x", "./".repeat(2047)) + "y", "")],
            End::Refused("too long"),
        ),
    ];
    // Each again in two layers, so that the way out is in the lower one.
    let split: Vec<Case> = [
        ("lower: link, file", vec![link("l", &out)], vec![file("l/file"), Item::dir("l/dir").mode(0o777)]),
        (
            "lower: link up, whiteout",
            vec![link("l", &up)],
            vec![Item::file("l/.wh.file", ""), Item::opaque("l")],
        ),
        ("lower: link, hard link", vec![link("l", &out)], vec![hard("h", "l/file")]),
        ("lower: link, directory", vec![link("l", &out)], vec![Item::dir("l").mode(0o777), file("l/file")]),
        (
            "lower: links, file",
            vec![link("a", &up), link("b", "/a/dir")],
            vec![file("b/inner"), file("b/new")],
        ),
        (
            "lower: directory, link",
            vec![Item::dir("d/dir")],
            vec![Item::dir("d/dir").mode(0o777), link("d", &out)],
        ),
    ]
    .into_iter()
    .map(|(name, lower, upper)| Case::on(name, &lower, &upper, End::Contained))
    .collect();
    all.extend(split);
    all
}
