//! Users and groups from the image's own files, which are hostile input: bounded, regular files only, line by line.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};
use crate::job::UserJob;

/// No user database is longer, in bytes.
const MAX_LEN: u64 = 10 << 20;
/// The kernel takes −1 as "leave as it is", and some programs read ids as signed.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Who the process will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups; the primary group is among them.
    pub(crate) groups: Vec<u32>,
    /// The home directory of the user's entry.
    pub(crate) home: Option<String>,
}

/// Resolves the job's user. The files are read only when they are needed.
pub(crate) fn resolve(root: BorrowedFd<'_>, user: &UserJob) -> Result<Identity, Failure> {
    let passwd = read(root, "/etc/passwd")?;
    let group = if user.lookup.is_some() { read(root, "/etc/group")? } else { String::new() };
    resolve_in(user, &passwd, &group)
}

/// The pure part of [`resolve`]: `passwd(5)` and `group(5)` as text.
pub(crate) fn resolve_in(user: &UserJob, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let (uid, gid, name, home) = match &user.lookup {
        None => {
            let entry = find_user(passwd, |e| e.uid == user.uid);
            (user.uid, user.gid, None, entry.map(|e| e.home.to_owned()))
        }
        Some(text) => {
            let (who, of) = match text.split_once(':') {
                Some((who, of)) => (who, Some(of)),
                None => (text.as_str(), None),
            };
            let entry = match numeric("user", who)? {
                Some(uid) => find_user(passwd, |e| e.uid == uid)
                    .map_or(User { name: "", uid, gid: 0, home: "" }, |e| e),
                None => find_user(passwd, |e| e.name == who).ok_or_else(|| {
                    no_such(format!(
                        "no user `{who}` in the image's /etc/passwd; use a name that is there, or a number"
                    ))
                })?,
            };
            let gid = match of {
                None => entry.gid,
                Some(of) => match numeric("group", of)? {
                    Some(gid) => gid,
                    None => find_group(group, of).ok_or_else(|| {
                        no_such(format!(
                            "no group `{of}` in the image's /etc/group; use a name that is there, or a number"
                        ))
                    })?,
                },
            };
            let home = Some(entry.home.to_owned()).filter(|h| !h.is_empty());
            (entry.uid, gid, Some(entry.name.to_owned()).filter(|n| !n.is_empty()), home)
        }
    };
    // The primary group is named too: a process that leaves its group must not lose what the group denies it.
    let mut groups: BTreeSet<u32> = user.additional_gids.iter().copied().collect();
    groups.insert(gid);
    if let Some(name) = name {
        groups.extend(memberships(group, &name));
    }
    Ok(Identity { uid, gid, groups: groups.into_iter().collect(), home: home.filter(|h| h.starts_with('/')) })
}

/// All digits is always a number and never a name; a number that does not fit is refused.
fn numeric(what: &str, text: &str) -> Result<Option<u32>, Failure> {
    if text.is_empty() {
        return Err(no_such(format!("the {what} is empty")));
    }
    if text.bytes().any(|b| b == b'\n' || b == b'\r' || b == 0) {
        return Err(no_such(format!("the {what} holds a line end or a zero byte")));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(no_such(format!("the {what} id {text} is above {MAX_ID}"))),
    }
}

fn no_such(message: String) -> Failure {
    Failure::new("user", FailureKind::NoSuchUser, message)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The first entry that fits. A line that is no entry is passed over, as the C library does.
fn find_user(passwd: &str, fits: impl Fn(&User<'_>) -> bool) -> Option<User<'_>> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or("");
        let user = User { name, uid, gid, home };
        (!name.is_empty() && fits(&user)).then_some(user)
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn find_group(group: &str, name: &str) -> Option<u32> {
    groups(group).find(|(n, ..)| *n == name).map(|(_, gid, _)| gid)
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups(group).filter(move |(.., members)| members.split(',').any(|m| m == user)).map(|(_, gid, _)| gid)
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

/// A file of the image; missing is empty. Bytes that are no UTF-8 are replaced, so they match no name.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, Failure> {
    let fail = |message: String| Failure::new("user", FailureKind::UnsafePath, message);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match super::mounts::open_inside(root, path, flags, ResolveFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(Errno::LOOP) => {
            return Err(fail(format!("{path} of the image leads through a loop, or a link of /proc")));
        }
        Err(e) => return Err(Failure::errno("user", format_args!("{path} of the image"), e)),
    };
    let file = std::fs::File::from(fd);
    let meta = file.metadata().map_err(|e| Failure::errno("user", format_args!("{path} of the image"), e))?;
    if !meta.is_file() {
        return Err(fail(format!("{path} of the image is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::errno("user", format_args!("{path} of the image"), e))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(fail(format!("{path} of the image is longer than {MAX_LEN} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        1:x:0:0:a trap:/:/bin/sh\n\
        redis:x:999:998::/home/redis:\n\
        broken:x:notanumber:0::/:\n\
        # comment\n\
        huge:x:4294967296:0::/:\n\
        app:x:1000:1000:App,,,:/srv/app:/bin/false";
    const GROUP: &str =
        "root:x:0:\nwheel:x:10:app,redis\nredis:x:998:\nnumbered:x:5:apple,app2\nlast:x:77:app";

    fn ask(lookup: &str) -> Result<Identity, Failure> {
        let user = UserJob { lookup: Some(lookup.to_owned()), uid: 7, gid: 7, additional_gids: vec![44] };
        resolve_in(&user, PASSWD, GROUP)
    }

    #[test]
    fn names_bring_their_group_home_and_memberships() {
        let app = ask("app").unwrap();
        assert_eq!((app.uid, app.gid), (1000, 1000));
        assert_eq!(app.groups, [10, 44, 77, 1000]);
        assert_eq!(app.home.as_deref(), Some("/srv/app"));
        assert_eq!(ask("redis:root").unwrap().gid, 0);
        assert_eq!(ask("app:55").unwrap().gid, 55);
    }

    #[test]
    fn digits_are_a_number_and_never_a_name() {
        let one = ask("1").unwrap();
        assert_eq!((one.uid, one.gid), (1, 0), "the user *named* 1 has uid 0");
        assert_eq!(ask("999").unwrap().gid, 998, "a known number brings its group");
        assert_eq!(ask("1000").unwrap().groups, [10, 44, 77, 1000]);
    }

    #[test]
    fn numbers_that_do_not_fit_and_empty_parts_are_refused() {
        for text in ["4294967296", "4294967295", "2147483648", "99999999999999999999", "0:4294967296"] {
            let e = ask(text).unwrap_err();
            assert_eq!(e.kind, FailureKind::NoSuchUser);
            assert!(e.message.contains("is above 2147483647"), "{e}");
        }
        assert!(ask(":5").unwrap_err().message.contains("the user is empty"));
        assert!(ask("0:").unwrap_err().message.contains("the group is empty"));
    }

    #[test]
    fn unknown_names_are_named_and_broken_lines_give_nothing() {
        assert!(ask("nobody").unwrap_err().message.contains("no user `nobody`"));
        assert!(ask("app:nogroup").unwrap_err().message.contains("no group `nogroup`"));
        for name in ["broken", "huge", "# comment", "-1", "+0"] {
            assert_eq!(ask(name).unwrap_err().kind, FailureKind::NoSuchUser, "{name}");
        }
    }

    #[test]
    fn a_line_end_in_a_name_matches_nothing() {
        assert!(ask("app\nroot").unwrap_err().message.contains("line end"));
    }

    #[test]
    fn plain_numbers_of_the_specification_need_no_files() {
        let user = UserJob { lookup: None, uid: 1000, gid: 3, additional_gids: vec![5, 5] };
        let seen = resolve_in(&user, "", "").unwrap();
        assert_eq!(seen, Identity { uid: 1000, gid: 3, groups: vec![3, 5], home: None });
    }
}
