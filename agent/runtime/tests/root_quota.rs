//! Limits on processor time of a container and of all of them together: the least counts, on both versions of cgroups.

mod common;

use std::fs;

use common::require_root;
use stower_runtime::cgroup::{Cgroups, Limits, UNLIMITED};

/// The groups of one test; they go with it.
struct Groups(Cgroups);

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = self.0.remove("u");
        let _ = self.0.remove_root();
    }
}

fn quota(quota: u64) -> Limits {
    Limits { cpu_quota_us: Some(quota), ..Limits::default() }
}

impl Groups {
    /// The quota that counts for the container: the least of its own and that of all, in a period of 100 ms.
    fn counts(&self) -> Option<u64> {
        let h = self.0.hierarchies().iter().find(|h| h.controllers.iter().any(|c| c == "cpu")).unwrap();
        let group = h.mount.join(self.0.path_of("u").trim_start_matches('/'));
        let read = |dir: &std::path::Path| -> Option<u64> {
            let file = if h.v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
            fs::read_to_string(dir.join(file)).unwrap().split_whitespace().next().unwrap().parse().ok()
        };
        [read(&group), read(group.parent().unwrap())].into_iter().flatten().min()
    }
}

#[test]
fn root_a_container_may_be_allowed_more_time_than_all_have_together() {
    require_root();
    let groups = Groups(Cgroups::detect(&format!("quota{}", std::process::id()), None).unwrap());
    groups.0.limit_all(&quota(100_000)).unwrap();
    groups.0.create("u", &quota(250_000)).unwrap();
    assert_eq!(groups.counts(), Some(100_000));
    groups.0.update("u", &quota(60_000)).unwrap();
    assert_eq!(groups.counts(), Some(60_000));
    groups.0.replace("u", &quota(300_000)).unwrap();
    assert_eq!(groups.counts(), Some(100_000));
    // All get less, while one has more.
    groups.0.limit_all(&quota(40_000)).unwrap();
    assert_eq!(groups.counts(), Some(40_000));
    groups.0.update("u", &quota(UNLIMITED)).unwrap();
    assert_eq!(groups.counts(), Some(40_000));
    groups.0.limit_all(&Limits::default()).unwrap();
    groups.0.replace("u", &quota(300_000)).unwrap();
    assert_eq!(groups.counts(), Some(300_000));
}
