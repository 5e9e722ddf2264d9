//! Containers that another OCI runtime makes: the directory of each, commands of the runtime, and what is left to remove.
//!
//! ```text
//! DIR/runtime.json     which runtime, by its program; written first
//! DIR/config.json      the bundle
//! DIR/state/           the runtime's own
//! DIR/m/               one private mount over itself, and below it:
//! DIR/m/rootfs, m/vN   the root filesystem and the volumes, as the host sees them
//! ```
//!
//! The starter makes the mounts, lets the runtime create and start the container, and becomes its shim as with any other: the
//! first process is handed down to it, since it is a subreaper. Output, stops and exits are the shim's, limits those of the
//! container's groups; of the runtime there is only `delete` at the end.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::proc;
use crate::start::pidfd_of;

/// Which runtime a container was started with.
const RECORD: &str = "runtime.json";
/// No record, log or answer of a runtime is read further, in bytes.
const MAX_READ: u64 = 1 << 20;
/// How much of what a runtime says is told, in bytes.
const MAX_TOLD: usize = 1024;
/// How long the removal of a container may take.
const DELETE_LIMIT: Duration = Duration::from_secs(20);
/// Where programs are looked for by a runtime, which gets no other environment.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root filesystem of a directory.
pub(crate) fn root(dir: &Path) -> PathBuf {
    mounts(dir).join("rootfs")
}

/// The volume of the job's mount with this number.
pub(crate) fn volume(dir: &Path, number: usize) -> PathBuf {
    mounts(dir).join(format!("v{number}"))
}

/// Where everything is mounted.
pub(crate) fn mounts(dir: &Path) -> PathBuf {
    dir.join("m")
}

/// Which runtime operates a container, from its start to its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The name that it was configured by.
    pub name: String,
    /// The program that the container was started with.
    pub program: PathBuf,
}

impl Runtime {
    /// That of a directory; `None` where nothing was begun.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        match read(&dir.join(RECORD)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("runtime.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, dir.join(RECORD))
    }

    /// A command of it about the containers of a directory.
    pub(crate) fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.arg("--root").arg(dir.join("state"));
        command.arg("--log").arg(dir.join("log.json")).args(["--log-format", "json"]);
        command
    }
}

/// How a command of a runtime ended badly.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// It could not be run.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("did not end within {0:?}")]
    Timeout(Duration),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Why what a container left could not be removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClearError {
    /// A file or directory of it.
    #[error("{}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs a command to its end, at most so long.
pub(crate) fn run(mut command: Command, log: Option<&Path>, limit: Duration) -> Result<(), RunError> {
    let program = PathBuf::from(command.get_program());
    let failed = |source| RunError::Spawn { program: program.clone(), source };
    let child = command.spawn().map_err(failed)?;
    let status = end_of(child, &program, limit)?;
    if status.success() {
        return Ok(());
    }
    let said = log.and_then(last_error).unwrap_or_else(|| "it said nothing in its log".to_owned());
    Err(RunError::Failed(format!("{said} ({status})")))
}

/// How a command has ended, which is killed after so long.
fn end_of(mut child: Child, program: &Path, limit: Duration) -> Result<ExitStatus, RunError> {
    let failed = |source| RunError::Spawn { program: program.to_owned(), source };
    let pidfd = pidfd_of(&child).map_err(failed)?;
    if !proc::wait(&pidfd, Some(limit)).map_err(failed)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(RunError::Timeout(limit));
    }
    child.wait().map_err(failed)
}

/// What a runtime's log says last of errors, as JSON lines or as text.
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: Option<String>,
        msg: String,
    }
    let bytes = read(log).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let parsed = lines.map(|line| match serde_json::from_str::<Line>(line) {
        Ok(line) => (line.level.is_none_or(|level| level == "error" || level == "fatal"), line.msg),
        Err(_) => (true, line.to_owned()),
    });
    let mut told = parsed.rev().find(|(is_error, _)| *is_error)?.1;
    if told.len() > MAX_TOLD {
        told.truncate(told.floor_char_boundary(MAX_TOLD));
        told.push('…');
    }
    Some(told)
}

/// The end of a file, bounded.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_READ)))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a runtime says of itself (`features`), as the OCI runtime specification has it.
///
/// # Errors
/// When it does not know the command, or gives no JSON.
pub fn features(program: &Path, limit: Duration) -> Result<serde_json::Value, RunError> {
    let failed = |source| RunError::Spawn { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.arg("features").env_clear().env("PATH", PATH).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let out = child.stdout.take();
    // Its answer is read beside, so that a full pipe holds up nobody.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.map(|out| out.take(MAX_READ).read_to_end(&mut bytes)).transpose().map(|_| bytes)
    });
    let status = end_of(child, program, limit)?;
    if !status.success() {
        return Err(RunError::Failed(format!("it has no command `features` ({status})")));
    }
    let bytes = reader.join().unwrap_or_else(|_| Ok(Vec::new())).map_err(failed)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| RunError::Failed(format!("its features are no JSON: {error}")))
}

/// Removes what the container of a directory left: the runtime's state, the mounts, the directory. Processes that are left are
/// killed by the runtime, so it is called when there are none, or when there are to be none. Again and again is fine.
///
/// # Errors
/// When something cannot be removed; nothing below a mount ever is.
pub fn clear(dir: &Path, id: &str) -> Result<(), ClearError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ClearError::Io { path, source }
    };
    if let Err(error) = fs::symlink_metadata(dir) {
        return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(failed(dir)(error)) };
    }
    match Runtime::of(dir) {
        Ok(Some(runtime)) if dir.join("state").join(id).exists() => {
            let mut command = runtime.command(dir);
            command.args(["delete", "--force", id]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Err(error) = run(command, Some(&dir.join("log.json")), DELETE_LIMIT) {
                // Its state goes with the directory, and its processes with their group.
                tracing::warn!(id, runtime = runtime.name, %error, "a runtime could not delete a container");
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(id, %error, "it is not known which runtime a container was started with");
        }
    }
    let base = mounts(dir);
    // One over the other, if an earlier start was cut off between two.
    loop {
        match rustix::mount::unmount(&base, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(failed(&base)(error.into())),
        }
    }
    // Places to mount on are empty; one that is not has something that is not ours to remove.
    for entry in fs::read_dir(&base).into_iter().flatten() {
        let path = entry.map_err(failed(&base))?.path();
        let is_dir = fs::symlink_metadata(&path).map_err(failed(&path))?.is_dir();
        let removed = if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed(&path))?;
    }
    for path in [base, dir.join("state")] {
        let removed = if path.ends_with("m") { fs::remove_dir(&path) } else { fs::remove_dir_all(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(error)),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    fs::remove_dir(dir).map_err(failed(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told_in_short() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        let told = |text: &str| {
            fs::write(&log, text).unwrap();
            last_error(&log)
        };
        let lines = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"no such user\"}\n\
                     {\"level\":\"debug\",\"msg\":\"bye\"}\n";
        assert_eq!(told(lines).as_deref(), Some("no such user"));
        assert_eq!(told("plain words\n").as_deref(), Some("plain words"));
        assert_eq!(told(""), None);
        let long = "é".repeat(2000);
        let told = told(&long).unwrap();
        assert!(told.len() <= MAX_TOLD + '…'.len_utf8() && told.ends_with('…'));
    }

    #[test]
    fn nothing_below_a_place_to_mount_on_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("m/v1/data")).unwrap();
        assert!(clear(&outside, "x").is_err());
        assert!(outside.join("m/v1/data").exists());
        fs::remove_dir(outside.join("m/v1/data")).unwrap();
        clear(&outside, "x").unwrap();
        assert!(!outside.exists());
        clear(&outside, "x").unwrap();
    }
}
