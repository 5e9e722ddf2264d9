//! Every driver, every check. One of them: `cargo test -p stower-storage --test conformance root_overlay::whiteout`.

use stower_storage::testsuite::{Bench, SUBJECTS, all};

fn run(subject: &str, name: &str) {
    let checks = all();
    let (_, check) = checks.iter().find(|(known, _)| *known == name).expect("no such check");
    check(&mut Bench::new(subject));
}

macro_rules! suite {
    ($($check:ident)*) => {
        suite!(@subject root_overlay, "overlay", [], $($check)*);
        suite!(@subject root_overlay_xfs, "overlay_xfs", [], $($check)*);
        suite!(@subject root_overlay_limited, "overlay_limited", [], $($check)*);
        suite!(@subject root_btrfs, "btrfs", [], $($check)*);
        suite!(@subject root_btrfs_quota, "btrfs_quota", [], $($check)*);
        suite!(@subject root_native, "native", [], $($check)*);
        suite!(@subject root_looped, "looped", [], $($check)*);
        suite!(@subject root_devicemapper_ext4, "devicemapper_ext4",
            [#[ignore = "needs device-mapper: cargo xtask vm"]], $($check)*);
        suite!(@subject root_devicemapper_xfs, "devicemapper_xfs",
            [#[ignore = "needs device-mapper: cargo xtask vm"]], $($check)*);

        #[test]
        fn every_check_is_listed() {
            let listed = [$(stringify!($check)),*];
            let all: Vec<&str> = all().into_iter().map(|(name, _)| name).collect();
            assert_eq!(all, listed);
        }
    };
    // What is in brackets goes to every test, such as #[ignore = "needs device-mapper: cargo xtask vm"].
    (@subject $module:ident, $name:literal, $attributes:tt, $($check:ident)*) => {
        mod $module {
            pub(super) const NAME: &str = $name;
            $(suite!(@test $attributes $check);)*
        }
    };
    (@test [$($attribute:tt)*] $check:ident) => {
        #[test]
        $($attribute)*
        fn $check() {
            super::run(NAME, stringify!($check));
        }
    };
}

suite! {
    basic prepare_twice prepare_without_parent view_readonly activate_twice remove_twice remove_active
    remove_intermediate remove_after_commit commit_refusals commit_same_mounts restart_finds_all usage
    independent_writers layers_unpack_once unpack_shared unpack_wrong_bytes compressions deep_stack

    empty_store unknown_snapshot stat_active stat_committed commit_twice transitivity prepare_view_failing walk
    stat_in_walk remove_in_walk close_twice same_mounts_for_ever

    create_empty create_base create_snap deep_layer_read diff_apply changes_exact concurrent_snapshots
    merged_trees_equal

    quota quota_grows quota_is_of_one quota_refused quota_is_told quota_changes_nothing_else

    layer_file_update remove_directory_in_lower deleted_files_in_child move_file_from_lower rename chown_lower
    chmod_lower directory_permission_on_commit root_permission unix_socket directory_inode_stability
    open_file_inode_stability getcwd remove_directory_after_commit many_layers_of_changes

    image_trees whiteout_applies_to_lower_only implied_directories lower_symlink_on_path hardlink_to_lower metadata
    sparse overlay_books_not_forged
}

#[test]
fn every_subject_runs() {
    let here = [
        root_overlay::NAME,
        root_overlay_xfs::NAME,
        root_overlay_limited::NAME,
        root_btrfs::NAME,
        root_btrfs_quota::NAME,
        root_native::NAME,
        root_looped::NAME,
        root_devicemapper_ext4::NAME,
        root_devicemapper_xfs::NAME,
    ];
    let all: Vec<&str> = SUBJECTS.iter().map(|subject| subject.name).collect();
    assert_eq!(all, here);
}
