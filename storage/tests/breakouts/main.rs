//! Layers that try to get out, to lie, or to take all there is: contained or refused, and everything outside is as before.
//!
//! `guard` says what outside is and compares it, `case` runs one case, and each of the others has cases: those of
//! `containerd` and of `goarchive` by their names, `headers` that readers differ over, `forged` books of overlayfs, our
//! own ways out, and what comes in `masses`.
//! Every driver runs all: `cargo test -p stower-storage --test breakouts root_overlay::containerd`.

mod case;
mod containerd;
mod forged;
mod goarchive;
mod guard;
mod headers;
mod masses;
mod ours;

use case::{Case, run};
use stower_storage::testsuite::{Bench, Item};

/// What a test takes its cases from, and where outside is.
type Cases = fn(&std::path::Path) -> Vec<Case>;

const ALL: &[(&str, Cases)] = &[
    ("containerd", containerd::cases),
    ("goarchive", goarchive::cases),
    ("headers", headers::cases),
    ("forged", forged::cases),
    ("ours", ours::cases),
];

fn all(subject: &str, name: &str) {
    let (_, cases) = ALL.iter().find(|(known, _)| *known == name).unwrap();
    run(subject, *cases);
}

macro_rules! subjects {
    ($($module:ident $subject:literal;)*) => {
        $(mod $module {
            #[test] fn containerd() { super::all($subject, "containerd"); }
            #[test] fn goarchive() { super::all($subject, "goarchive"); }
            #[test] fn headers() { super::all($subject, "headers"); }
            #[test] fn forged() { super::all($subject, "forged"); }
            #[test] fn ours() { super::all($subject, "ours"); }
            #[test] fn hard_links() { super::masses::hard_links($subject); }
            #[test] fn absolute_links_of_real_images() { super::absolute_links($subject); }
        })*
    };
}

subjects! {
    root_overlay "overlay";
    root_overlay_xfs "overlay_xfs";
    root_btrfs "btrfs";
    root_native "native";
    root_looped "looped";
}

/// What engines in the field accept has to work here too.
fn absolute_links(subject: &str) {
    let mut bench = Bench::new(subject);
    let top = bench.unpack(&[
        vec![
            Item::dir("run"),
            Item::dir("usr"),
            Item::dir("usr/bin"),
            Item::symlink("bin", "usr/bin"),
            Item::symlink("var/run", "/run"),
            Item::symlink("var/lock", "/run/lock"),
            Item::symlink("etc/mtab", "/proc/mounts"),
            Item::symlink("etc/alternatives/x", "/usr/bin/x"),
            Item::symlink("deep/er/up", "../../../../usr"),
        ],
        vec![
            Item::file("var/run/a.pid", "1"),
            Item::file("var/lock/b", "2"),
            Item::file("bin/x", "3").mode(0o755),
            Item::file("deep/er/up/bin/y", "4"),
            Item::hardlink("c", "/var/run/a.pid"),
        ],
    ]);
    let seen = bench.view(&top);
    for path in ["run/a.pid", "run/lock/b", "c", "usr/bin/x", "usr/bin/y"] {
        assert!(seen.contains_key(path), "{path}");
    }
    for (path, target) in [("var/run", "-> /run"), ("etc/mtab", "-> /proc/mounts"), ("bin", "-> usr/bin")] {
        assert_eq!(seen[path].content, target);
    }
}

/// The host's mount table is as before, whatever was mounted meanwhile.
#[test]
fn root_nothing_is_attached() {
    let mounts =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches("stower-storage").count();
    let mut bench = Bench::new("overlay");
    let top =
        bench.unpack(&[vec![Item::symlink("l", "d"), Item::file("f", "1")], vec![Item::file("l/g", "2")]]);
    let (_key, mount) = bench.mounted(Some(&top));
    assert_eq!(mounts(), 0);
    drop(mount);
}
