//! All 34 cases of containerd's `TestBreakouts`, by name. Where it resolves a `..` within the root and goes on, we refuse the
//! entry: no image that engines build has one.

use std::path::Path;

use stower_storage::testsuite::{Item, ItemKind};

use crate::case::{Case, End, Has};

const DOTS: &str = "'..'";

pub(crate) fn cases(outside: &Path) -> Vec<Case> {
    let passwd = || vec![Item::dir("etc").mode(0o770), Item::file("/etc/passwd", "inside")];
    let with = |mut items: Vec<Item>, more: Vec<Item>| {
        items.extend(more);
        items
    };
    let on_passwd = |more: Vec<Item>| with(passwd(), more);
    let users = |more: Vec<Item>| with(vec![Item::dir("etc"), Item::file("etc/passwd", "all users")], more);
    let etc = |more: Vec<Item>| with(vec![Item::dir("etc")], more);
    let unbroken = || Item::file("/localetc/unbroken", "unbroken");
    let is_unbroken = || End::Unpacks(vec![Has::File("etc/unbroken", "unbroken")]);
    let same = |one, two| End::Unpacks(vec![Has::Same(one, two), Has::File("etc/passwd", "inside")]);
    let mut out = vec![
        Case::new(
            "SymlinkAbsolute",
            &etc(vec![Item::symlink("localetc", "/etc"), unbroken()]),
            is_unbroken(),
        ),
        Case::new(
            "SymlinkUpAndOut",
            &etc(vec![Item::dir("dummy"), Item::symlink("localetc", "/dummy/../etc"), unbroken()]),
            is_unbroken(),
        ),
    ];
    for (name, target) in
        [("SymlinkMultipleAbsolute", "/dummy/etc"), ("SymlinkMultipleRelative", "./dummy/etc")]
    {
        let items = vec![
            Item::dir("dummy"),
            Item::symlink("/dummy/etc", "/etc"),
            Item::symlink("localetc", target),
            Item::file("/dummy/etc/unbroken", "unbroken"),
        ];
        out.push(Case::new(name, &etc(items), is_unbroken()));
    }
    out.push(Case::new(
        "SymlinkEmptyFile",
        &etc(vec![
            Item::file("etc/emptied", "notempty"),
            Item::symlink("localetc", "/etc"),
            Item::file("/localetc/emptied", ""),
        ]),
        End::Unpacks(vec![Has::File("etc/emptied", "")]),
    ));
    for (name, dir, link, target) in [
        ("HardlinkRelative", "breakouts", "breakouts/d1", "../../etc"),
        ("HardlinkDownAndOut", "downandout", "breakouts/d1", "../downandout/../../etc"),
    ] {
        let items = vec![
            Item::dir("breakouts"),
            Item::dir(dir),
            Item::symlink(link, target),
            Item::hardlink("breakouts/mypasswd", "/breakouts/d1/passwd"),
        ];
        out.push(Case::new(name, &on_passwd(items), same("breakouts/mypasswd", "etc/passwd")));
    }
    for (name, target) in [
        ("HardlinkAbsolute", "/etc"),
        ("HardlinkRelativeLong", "../../../../../../../etc"),
        ("HardlinkRelativeUpAndOut", "upandout/../../../etc"),
    ] {
        let mut items =
            vec![Item::symlink("localetc", target), Item::hardlink("localpasswd", "/localetc/passwd")];
        if name.ends_with("UpAndOut") {
            items.insert(0, Item::dir("upandout"));
        }
        out.push(Case::new(name, &on_passwd(items), same("localpasswd", "etc/passwd")));
    }
    let to_passwd = |path: &str| Item::hardlink(path, "/etc/passwd");
    out.extend([
        Case::new(
            "HardlinkDirectRelative",
            &on_passwd(vec![Item::hardlink("localpasswd", "../../../../../etc/passwd")]),
            End::Refused(DOTS),
        ),
        Case::new(
            "HardlinkDirectAbsolute",
            &on_passwd(vec![to_passwd("localpasswd")]),
            same("localpasswd", "etc/passwd"),
        ),
        Case::new(
            "SymlinkParentDirectory",
            &on_passwd(vec![Item::symlink("..", "/etc/"), to_passwd("localpasswd")]),
            End::Refused(DOTS),
        ),
        Case::new(
            "SymlinkEmptyFilename",
            &on_passwd(vec![Item::symlink("", "/etc/"), to_passwd("localpasswd")]),
            End::Refused("without a name"),
        ),
        Case::new(
            "SymlinkParentRelative",
            &on_passwd(vec![Item::symlink("localetc/sub/..", "/etc/"), to_passwd("/localetc/localpasswd")]),
            End::Refused(DOTS),
        ),
        Case::new(
            "SymlinkSlashEnded",
            &on_passwd(vec![Item::dir("localetc/").mode(0o770), to_passwd("/localetc/localpasswd")]),
            same("localetc/localpasswd", "etc/passwd"),
        ),
    ]);
    for (name, target) in
        [("SymlinkOverrideDirectory", "/etc"), ("SymlinkOverrideDirectoryRelative", "../../etc")]
    {
        out.push(Case::on(
            name,
            &on_passwd(vec![Item::dir("localetc")]),
            &[Item::symlink("localetc", target), to_passwd("/localetc/localpasswd")],
            same("etc/localpasswd", "etc/passwd"),
        ));
    }
    out.extend([
        Case::on(
            "DirectoryOverrideSymlink",
            &on_passwd(vec![Item::symlink("localetc", "/etc")]),
            &[Item::dir("/localetc/"), to_passwd("/localetc/localpasswd")],
            same("localetc/localpasswd", "etc/passwd"),
        ),
        Case::on(
            "DirectoryOverrideSymlinkAndHardlink",
            &on_passwd(vec![Item::symlink("localetc", "etc"), to_passwd("/localetc/localpasswd")]),
            &[Item::dir("/localetc/"), Item::file("/localetc/localpasswd", "different")],
            End::Unpacks(vec![
                Has::NotSame("localetc/localpasswd", "etc/passwd"),
                Has::File("etc/passwd", "inside"),
            ]),
        ),
    ]);
    for (name, whiteout) in [
        ("WhiteoutRootParent", ".wh..."),
        ("WhiteoutParent", "etc/.wh..."),
        ("WhiteoutRoot", ".wh.."),
        ("WhiteoutCurrentDirectory", "etc/.wh.."),
    ] {
        out.push(Case::on(
            name,
            &passwd(),
            &[Item::file(whiteout, "")],
            End::Refused("a whiteout of nothing"),
        ));
    }
    let still = || Has::File("etc/passwd", "all users");
    let to_etc = || Item::symlink("localetc", "/etc");
    let whited = || Item::file("etc/whitedout", "ahhhh whiteout");
    out.extend([
        Case::on(
            "WhiteoutSymlink",
            &users(vec![to_etc()]),
            &[Item::file(".wh.localetc", "")],
            End::Unpacks(vec![still(), Has::Not("localetc")]),
        ),
        Case::on(
            "WhiteoutSymlinkPath",
            &users(vec![whited(), to_etc()]),
            &[Item::file("localetc/.wh.whitedout", "")],
            End::Unpacks(vec![still(), Has::Not("etc/whitedout"), Has::Link("localetc", "/etc".into())]),
        ),
        Case::on(
            "WhiteoutDirectoryName",
            &users(vec![whited(), to_etc()]),
            &[Item::file(".wh.etc/somefile", "non-empty")],
            End::Refused("a whiteout has no children"),
        ),
        Case::on(
            "WhiteoutDeadSymlinkParent",
            &users(vec![Item::symlink("localetc", "/dne")]),
            &[Item::file("localetc/.wh.etc", "")],
            End::Unpacks(vec![still()]),
        ),
        Case::on(
            "WhiteoutRelativePath",
            &users(vec![Item::symlink("localetc", "/dne")]),
            &[Item::file("dne/../.wh.etc", "")],
            End::Refused(DOTS),
        ),
        // The one that a cache of resolved directories let out (CVE-2025-47290).
        Case::new(
            "SymlinkOverridePath",
            &[
                Item::dir("foo"),
                Item::file("foo/bar", "inside"),
                Item::symlink("foo", outside.display().to_string()),
                Item::file("foo/file", "evil"),
                Item::special("foo/pipe", ItemKind::Fifo),
            ],
            End::Contained,
        ),
        Case::new(
            "HardlinkSymlinkBeforeCreateTarget",
            &[
                Item::dir("etc").mode(0o770),
                Item::symlink("localpasswd", "/etc/passwd"),
                Item::hardlink("localpasswd-dup", "localpasswd"),
                Item::file("/etc/passwd", "after"),
            ],
            End::Unpacks(vec![
                Has::Link("localpasswd-dup", "/etc/passwd".into()),
                Has::File("etc/passwd", "after"),
            ]),
        ),
    ]);
    for (name, target) in
        [("HardlinkSymlinkRelative", "../../../../../etc/passwd"), ("HardlinkSymlinkAbsolute", "/etc/passwd")]
    {
        out.push(Case::new(
            name,
            &on_passwd(vec![
                Item::symlink("passwdlink", target),
                Item::hardlink("localpasswd", "/passwdlink"),
            ]),
            End::Unpacks(vec![
                Has::Same("localpasswd", "passwdlink"),
                Has::Link("localpasswd", target.into()),
                Has::File("etc/passwd", "inside"),
            ]),
        ));
    }
    // The file that the link leads to is outside, and the path that it has inside is outside too.
    let target = outside.join("file").display().to_string();
    let inside = outside.join("also-exists-outside-root").display().to_string();
    out.push(Case::new(
        "HardlinkSymlinkChmod",
        &[Item::symlink(&inside, &target), Item::hardlink("sketchylink", &inside).mode(0o777).owner(1, 1)],
        End::Unpacks(vec![Has::Link("sketchylink", target)]),
    ));
    assert_eq!(out.len(), 34);
    out
}
