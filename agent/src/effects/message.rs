//! The last message of a run (`terminationMessagePath`): an empty file that is mounted in the container, and what it
//! holds at the end. Whatever a container writes there is hostile; it is read by descriptor and within bounds.

use std::{
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use stower_controllers::LastWords;
use stower_crds::Uid;
use stower_runtime::{
    LogDir,
    job::{RootFs, VolumeMount},
};

use super::Effects;
use crate::paths::{Paths, private_dir};

/// The file's name among the container's own.
const FILE: &str = "termination-log";
/// Bytes of the file that are told, the last ones, as kubelet has it.
const FILE_BYTES: usize = 4096;
/// Bytes and lines of the log that are told, the last ones, as kubelet has it.
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

fn path(paths: &Paths, uid: &Uid) -> PathBuf {
    paths.container_data(uid.as_str()).join(FILE)
}

/// Makes a new file, since another run may still have the last one open, and says how it is mounted. It is in the data
/// root: the run root may be in memory, which a container must not fill.
///
/// # Errors
/// The system's answer.
pub(super) fn prepare(paths: &Paths, uid: &Uid, destination: &str) -> io::Result<VolumeMount> {
    let path = path(paths, uid);
    private_dir(&paths.container_data(uid.as_str()))?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    // Whoever the program runs as may write to it; its directory is root's alone.
    file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
    Ok(VolumeMount {
        destination: destination.to_owned(),
        tree: RootFs::Bind { path, readonly: false },
        inside: None,
        sub_path: None,
        options: ["rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
    })
}

impl Effects {
    /// What a run that has ended left to be told. What cannot be read is not there.
    pub(super) fn last_words(&self, uid: &Uid, run: u64, failed: bool) -> LastWords {
        let told = |what: &'static str, read: Result<Vec<u8>, String>, most: usize| {
            let bytes = read.unwrap_or_else(|error| {
                tracing::warn!(%uid, error, "cannot read {what}");
                Vec::new()
            });
            text(&bytes, most)
        };
        let file = read(&path(&self.paths, uid), FILE_BYTES).map_err(|error| error.to_string());
        let message = told("the last message of a run", file, FILE_BYTES);
        let logs = self.paths.logs(uid.as_str());
        let log = (failed && message.is_empty()).then(|| {
            let log = LogDir::open(&logs).and_then(|dir| {
                dir.map_or_else(|| Ok(Vec::new()), |dir| dir.last_words(run, LOG_LINES, LOG_BYTES))
            });
            told("the end of a log", log.map_err(|error| super::chain(&error)), LOG_BYTES)
        });
        LastWords { message, log: log.unwrap_or_default() }
    }
}

/// The last bytes of a file; none when it is not there.
fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    use rustix::fs::OFlags;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let mut file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(meta.len().saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as text of at most so many bytes, the last ones: what is no text takes more room as a mark.
fn text(bytes: &[u8], most: usize) -> String {
    // A character that the cut went through is left out rather than marked.
    let start = bytes.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    let whole = if bytes.len() == most { &bytes[start..] } else { bytes };
    let text = String::from_utf8_lossy(whole);
    let cut = text.len().saturating_sub(most);
    text[text.ceil_char_boundary(cut)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_file_is_read_and_only_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        assert_eq!(read(&path, 4).unwrap(), b"");
        std::fs::write(&path, "123456").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"3456");
        std::fs::write(&path, "12").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"12");
        // A hole of a terabyte costs nothing.
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path, 4).unwrap(), [0; 4]);
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 4).is_err());
        assert!(read(dir.path(), 4).is_err());
    }

    #[test]
    fn whatever_was_written_is_text_within_the_bound() {
        assert_eq!(text("a\u{e4}".as_bytes(), 100), "a\u{e4}");
        assert_eq!(text(&"\u{e4}b".as_bytes()[1..], 2), "b", "the cut went through a character");
        assert_eq!(text(&[0xff, b'x'], 100), "\u{fffd}x");
        for most in [1, 2, 3, 4, 4096] {
            for bytes in [vec![0xff; most], vec![0x80; most], "\u{1f600}".repeat(most).into_bytes()] {
                let bytes = &bytes[bytes.len() - most..];
                assert!(text(bytes, most).len() <= most, "{most}");
            }
        }
    }
}
