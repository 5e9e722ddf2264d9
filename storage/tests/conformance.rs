//! Every driver, every check. One of them: `cargo test -p stower-storage --test conformance root_overlay::whiteout`.

use stower_storage::testsuite::{Bench, all};

fn run(driver: &str, name: &str) {
    let checks = all();
    let (_, check) = checks.iter().find(|(known, _)| *known == name).expect("no such check");
    check(&mut Bench::new(driver));
}

macro_rules! suite {
    ($($check:ident)*) => {
        suite!(@driver root_overlay, "overlay", $($check)*);
        suite!(@driver root_native, "native", $($check)*);
        suite!(@driver root_looped, "looped", $($check)*);

        #[test]
        fn every_check_is_listed() {
            let listed = [$(stringify!($check)),*];
            let all: Vec<&str> = all().into_iter().map(|(name, _)| name).collect();
            assert_eq!(all, listed);
        }
    };
    (@driver $driver:ident, $name:literal, $($check:ident)*) => {
        mod $driver {
            $(#[test] fn $check() { super::run($name, stringify!($check)); })*
        }
    };
}

suite! {
    basic prepare_twice prepare_without_parent view_readonly activate_twice remove_twice remove_active
    remove_intermediate remove_after_commit commit_refusals commit_same_mounts restart_finds_all usage
    independent_writers layers_unpack_once unpack_shared unpack_wrong_bytes compressions deep_stack

    layer_file_update remove_directory_in_lower deleted_files_in_child move_file_from_lower rename chown_lower
    chmod_lower directory_permission_on_commit root_permission unix_socket directory_inode_stability
    open_file_inode_stability getcwd many_layers_of_changes

    image_trees whiteout_applies_to_lower_only implied_directories lower_symlink_on_path hardlink_to_lower metadata
    sparse overlay_books_not_forged
}
