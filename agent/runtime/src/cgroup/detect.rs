//! Which hierarchies are mounted, from `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::path::PathBuf;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where.
    pub mount: PathBuf,
    /// Last component of the mount point.
    pub name: String,
    /// Whether it is cgroup2.
    pub v2: bool,
    /// Controllers that can be used in it; for a named version 1 hierarchy none.
    pub controllers: Vec<String>,
}

/// Version 1 controllers (`cgroups(7)`); everything else among the super options is an option.
const V1: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "blkio",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

/// The hierarchies in the table's order, cgroup2 last. Only the first mount of each counts, and of those only what
/// shows the hierarchy from its top.
pub(super) fn parse(text: &str) -> Vec<Hierarchy> {
    let mut v1: Vec<Hierarchy> = Vec::new();
    let mut v2 = None;
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(dash) = fields.iter().position(|f| *f == "-") else { continue };
        let (Some(mount), Some(fstype), Some(options)) =
            (fields.get(4), fields.get(dash + 1), fields.get(dash + 3))
        else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        let name = mount.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        match *fstype {
            "cgroup2" if v2.is_none() => {
                let controllers =
                    std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                let controllers = controllers.split_whitespace().map(str::to_owned).collect();
                v2 = Some(Hierarchy { mount, name, v2: true, controllers });
            }
            "cgroup" => {
                let controllers: Vec<String> =
                    options.split(',').filter(|o| V1.contains(o)).map(str::to_owned).collect();
                let label = options.split(',').find(|o| o.starts_with("name="));
                let known = v1
                    .iter()
                    .any(|h| h.mount == mount || (!controllers.is_empty() && h.controllers == controllers));
                // A container's copy of a hierarchy without controllers is known by the name alone.
                let again = label.is_some_and(|l| controllers.is_empty() && names.contains(&l));
                names.extend(label);
                if !known && !again && (label.is_some() || !controllers.is_empty()) {
                    v1.push(Hierarchy { mount, name, v2: false, controllers });
                }
            }
            _ => {}
        }
    }
    v1.extend(v2);
    v1
}

/// The table writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        match after.get(1..4).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[4..];
            }
            None => {
                out.push('\\');
                rest = &after[1..];
            }
        }
    }
    out.push_str(rest);
    out
}
