use super::*;

#[test]
fn paths_are_taken_apart_and_put_together() {
    for (path, dir, name) in [("", "", ""), ("a", "", "a"), ("a/b", "a", "b"), ("a/b/c", "a/b", "c")] {
        assert_eq!(split_last(path.as_bytes()), (dir.as_bytes(), name.as_bytes()));
        if !name.is_empty() {
            assert_eq!(join(dir.as_bytes(), name.as_bytes()), path.as_bytes());
        }
    }
    assert_eq!(absolute(b"a/b"), Path::new("/a/b"));
}

#[test]
fn only_attributes_of_this_machine_are_left_out() {
    for local in
        ["trusted.overlay.opaque", "user.overlay.x", "security.selinux", "security.ima", "security.evm"]
    {
        assert!(is_local_attribute(local.as_bytes()), "{local}");
    }
    for kept in ["security.capability", "user.x", "trusted.x", "system.posix_acl_access"] {
        assert!(!is_local_attribute(kept.as_bytes()), "{kept}");
    }
}
