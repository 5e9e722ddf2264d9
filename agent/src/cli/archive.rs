//! An archive from the agent, to a file or to standard output.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    context::{Context, on_terminal, print},
    error::CliError,
};
use crate::client::{Content, Url};

/// Refuses to fill a person's terminal with bytes.
pub(super) fn refuse_terminal(output: Option<&Path>) -> Result<(), CliError> {
    if output.is_none() && on_terminal() {
        return Err(CliError::Message(
            "refusing to write an archive to a terminal: use -o FILE, or redirect the output".to_owned(),
        ));
    }
    Ok(())
}

/// Takes the whole answer. A file has its name only once all of it is there.
pub(super) async fn receive(
    context: &Context,
    method: hyper::Method,
    url: &Url,
    content: Option<Content>,
    output: Option<&Path>,
) -> Result<(), CliError> {
    let mut stream = context.client.stream(method, url.as_str(), content).await?;
    let Some(path) = output else {
        while let Some(piece) = stream.chunk().await? {
            print(piece)?;
        }
        return Ok(());
    };
    let mut file = Partial::new(path)?;
    while let Some(piece) = stream.chunk().await? {
        file.write(&piece)?;
    }
    file.finish()
}

/// A file that is removed again unless it is finished.
struct Partial<'a> {
    path: &'a Path,
    /// Where it is written; none for a device or a pipe, which is written as it is.
    temporary: Option<PathBuf>,
    file: File,
}

impl<'a> Partial<'a> {
    fn new(path: &'a Path) -> Result<Self, CliError> {
        let failed =
            |error: std::io::Error| CliError::Message(format!("cannot write {}: {error}", path.display()));
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self { path, temporary: None, file });
        }
        let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
        name.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create_new(&temporary).map_err(failed)?;
        Ok(Self { path, temporary: Some(temporary), file })
    }

    fn failed(&self, error: &std::io::Error) -> CliError {
        CliError::Message(format!("cannot write {}: {error}", self.path.display()))
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CliError> {
        self.file.write_all(piece).map_err(|error| self.failed(&error))
    }

    fn finish(mut self) -> Result<(), CliError> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, self.path).map_err(|error| self.failed(&error))?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What is told is why it was not finished.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
