//! The socket: for root and its group alone, and never taken from an agent that still answers.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

/// The mode of the socket.
const MODE: u32 = 0o660;
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another agent answers on {}: stop it, or give this one another socket with --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("{} is there already and is no socket: move it away, or name another with --socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot listen on {}: {what}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Which step.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket; its file is removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`. A socket there is replaced only when nobody answers on it.
    ///
    /// Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// When another agent answers there, something else lies there, or the kernel refuses.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed =
            |what| move |source: io::Error| BindError::Failed { path: path.to_owned(), what, source };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed("it names no file")(io::ErrorKind::InvalidInput.into()));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // Two agents that start at once look and replace one after the other.
        let folder = fs::File::open(parent).map_err(failed("its directory cannot be opened"))?;
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)
            .map_err(|error| failed("its directory cannot be locked")(error.into()))?;
        // An address has 108 bytes (unix(7)); a path through the descriptor always fits.
        let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let (target, fresh) =
            (through.join(name), through.join(format!(".stower-{}.sock", std::process::id())));
        match fs::symlink_metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("it cannot be looked at")(error)),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(BindError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(&target) {
                // Refused is proof: nobody listens on it, and nobody ever will again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) => return Err(BindError::InUse { path: path.to_owned() }),
                // A full queue of connections is an agent too.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(BindError::InUse { path: path.to_owned() });
                }
                Err(error) => return Err(failed("it cannot be told whether another agent answers")(error)),
            },
        }
        let _ = fs::remove_file(&fresh);
        let socket = listen(&fresh).map_err(failed("the socket cannot be made"))?;
        let replaced = fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE))
            .and_then(|()| fs::rename(&fresh, &target))
            .and_then(|()| fs::symlink_metadata(&target));
        let meta = replaced.map_err(|error| {
            let _ = fs::remove_file(&fresh);
            failed("the socket cannot be put in place")(error)
        })?;
        let socket = UnixListener::from_std(socket.into()).map_err(failed("the socket cannot be watched"))?;
        Ok(Self { socket, path: path.to_owned(), identity: (meta.dev(), meta.ino()) })
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = |meta: &fs::Metadata| (meta.dev(), meta.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            // What stays is found stale by the next agent.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A socket that at no moment is open to more than [`MODE`]: the kernel makes the file with the mode of the
/// descriptor, less the umask (`unix_bind_bsd` in net/unix/af_unix.c).
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
