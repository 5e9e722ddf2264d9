use super::*;

#[test]
fn the_name_that_kubectl_looks_for_means_the_cluster() {
    for (called, is) in [
        ("kubectl-stower", true),
        ("/usr/local/bin/kubectl-stower", true),
        ("stower", false),
        ("/usr/bin/kubectl-stower-x", false),
    ] {
        assert_eq!(is_plugin(OsStr::new(called)), is, "{called}");
    }
}
