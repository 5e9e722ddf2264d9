//! OCI mount options as data: which are attributes of the mount, which belong to the filesystem.

use crate::error::CompileError;
use crate::job::MountAttrs;

// linux/mount.h; libc has them only for some targets.
pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// Options taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) attrs: MountAttrs,
    /// `bind` was given: `Some(recursive)`.
    pub(crate) bind: Option<bool>,
    /// The filesystem's own options.
    pub(crate) data: Vec<String>,
    /// `idmap` or `ridmap` was given: `Some(recursive)`.
    pub(crate) idmap: Option<bool>,
    /// `tmpcopyup` was given.
    pub(crate) copy_up: bool,
}

impl Parsed {
    /// Refuses what only the command line does.
    pub(crate) fn refuse_special(&self, field: &str) -> Result<(), CompileError> {
        let option = match (self.idmap, self.copy_up) {
            (Some(true), _) => "ridmap",
            (Some(false), _) => "idmap",
            (None, true) => "tmpcopyup",
            (None, false) => return Ok(()),
        };
        Err(CompileError::unsupported(format!("{field}.options"), format!("leave out `{option}`")))
    }
}

/// `(option, bits set, bits cleared)`; the same with an `r` in front for the whole tree.
const ATTRS: [(&str, u64, u64); 18] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    // The access time modes are one field of the mask: it is cleared whole before one is set.
    ("noatime", NOATIME, ATIME),
    ("atime", 0, NOATIME),
    ("relatime", 0, ATIME),
    ("norelatime", STRICTATIME, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
];

const PROPAGATION: [(&str, u64, bool); 8] = [
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// Takes the options of a mount apart. `field` names the mount in messages. Whether `rshared` and `rslave` make sense is
/// for the caller, who knows what is mounted.
pub(crate) fn parse(field: &str, options: &[String]) -> Result<Parsed, CompileError> {
    let mut p = Parsed::default();
    for option in options {
        let o = option.as_str();
        if let Some((_, set, clear)) = ATTRS.iter().find(|(n, ..)| *n == o) {
            p.attrs.set = p.attrs.set & !clear | set;
            p.attrs.clear = p.attrs.clear & !set | clear;
        } else if let Some((_, set, clear)) = ATTRS.iter().find(|(n, ..)| o.strip_prefix('r') == Some(*n)) {
            p.attrs.rec_set = p.attrs.rec_set & !clear | set;
            p.attrs.rec_clear = p.attrs.rec_clear & !set | clear;
        } else if let Some((_, flag, recursive)) = PROPAGATION.iter().find(|(n, ..)| *n == o) {
            p.attrs.propagation = *flag;
            p.attrs.rec_propagation = *recursive;
        } else {
            match o {
                "bind" => p.bind = Some(p.bind.unwrap_or(false)),
                "rbind" => p.bind = Some(true),
                "defaults" | "async" | "silent" | "loud" => {}
                "idmap" => p.idmap = Some(p.idmap.unwrap_or(false)),
                "ridmap" => p.idmap = Some(true),
                "tmpcopyup" => p.copy_up = true,
                "copy-symlink" => {
                    return Err(CompileError::unsupported(
                        format!("{field}.options"),
                        format!("leave out `{o}`"),
                    ));
                }
                "sync" | "dirsync" | "mand" | "nomand" | "iversion" | "noiversion" | "lazytime" => {
                    p.data.push(o.to_owned());
                }
                "remount" => {
                    return Err(CompileError::invalid(
                        format!("{field}.options"),
                        "`remount` has no mount to change",
                    ));
                }
                _ if o.is_empty() || o.contains('\0') => {
                    return Err(CompileError::invalid(format!("{field}.options"), "an option is empty"));
                }
                _ => p.data.push(o.to_owned()),
            }
        }
    }
    Ok(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<Parsed, CompileError> {
        parse("mounts[0]", &list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn attributes_and_data_are_told_apart() {
        let p = options(&["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]).unwrap();
        assert_eq!(p.attrs.set, NOSUID | NOEXEC | STRICTATIME);
        assert_eq!(p.attrs.clear, ATIME);
        assert_eq!(p.data, ["mode=755", "size=65536k"]);
        assert_eq!(p.bind, None);
    }

    #[test]
    fn the_later_of_two_opposites_wins() {
        let p = options(&["ro", "rw"]).unwrap();
        assert_eq!((p.attrs.set & RDONLY, p.attrs.clear & RDONLY), (0, RDONLY));
        let p = options(&["rw", "ro"]).unwrap();
        assert_eq!((p.attrs.set & RDONLY, p.attrs.clear & RDONLY), (RDONLY, 0));
    }

    #[test]
    fn binds_and_recursive_attributes() {
        let p = options(&["rbind", "rro", "rprivate"]).unwrap();
        assert_eq!(p.bind, Some(true));
        assert_eq!(p.attrs.rec_set, RDONLY);
        assert_eq!((p.attrs.propagation, p.attrs.rec_propagation), (libc::MS_PRIVATE, true));
        assert_eq!(options(&["bind"]).unwrap().bind, Some(false));
        assert_eq!(options(&["rbind", "bind"]).unwrap().bind, Some(true));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for o in ["idmap", "ridmap", "tmpcopyup", "copy-symlink", "remount"] {
            let e = options(&[o]).and_then(|p| p.refuse_special("mounts[0]")).unwrap_err().to_string();
            assert!(e.contains(o) && e.starts_with("mounts[0].options"), "{o}: {e}");
        }
    }
}
