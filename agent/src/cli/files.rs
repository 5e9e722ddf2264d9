//! Manifests as a command line names them: files, directories, standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;
use stower_crds::Limits;

use super::error::CliError;

/// The longest manifest, in bytes; as in the agent's directory.
const MAX_FILE: u64 = 8 << 20;
/// How deep folders may lie in each other.
const MAX_DEPTH: usize = 32;

/// A manifest as text.
#[derive(Debug)]
pub(super) struct Manifest {
    /// As the person named it; `-` is standard input.
    pub(super) name: String,
    /// Its content.
    pub(super) text: String,
}

/// One object of a manifest.
#[derive(Debug)]
pub(super) struct Document {
    /// The manifest.
    pub(super) name: String,
    /// The object, and where it stands in it.
    pub(super) read: stower_crds::Document,
}

impl Document {
    /// The object.
    pub(super) fn object(&self) -> &Value {
        &self.read.value
    }

    /// Where it begins, for messages: `web.yaml:12`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.name, self.read.first_line)
    }
}

/// Reads all that `-f` names. A directory gives its `*.yaml`, `*.yml` and `*.json` in order of name.
pub(super) fn read(names: &[String], recursive: bool) -> Result<Vec<Manifest>, CliError> {
    let mut manifests = Vec::new();
    for name in names {
        if name == "-" {
            manifests.push(Manifest {
                name: "standard input".to_owned(),
                text: text("standard input", io::stdin())?,
            });
            continue;
        }
        let path = Path::new(name);
        let kind = fs::metadata(path).map_err(|error| cannot_read(name, &error))?;
        if kind.is_dir() {
            let before = manifests.len();
            directory(path, recursive, 0, &mut manifests)?;
            if manifests.len() == before {
                let hint = if recursive { "" } else { "; -R looks in its folders too" };
                return Err(CliError::Message(format!("no *.yaml, *.yml or *.json in {name}{hint}")));
            }
        } else {
            manifests.push(file(path)?);
        }
    }
    Ok(manifests)
}

fn directory(path: &Path, recursive: bool, depth: usize, out: &mut Vec<Manifest>) -> Result<(), CliError> {
    let name = path.display().to_string();
    if depth > MAX_DEPTH {
        return Err(CliError::Message(format!("{name}: folders lie more than {MAX_DEPTH} deep")));
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        entries.map_err(|error| cannot_read(&name, &error))?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            if recursive {
                directory(&path, true, depth + 1, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(file(&path)?);
        }
    }
    Ok(())
}

fn file(path: &Path) -> Result<Manifest, CliError> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|error| cannot_read(&name, &error))?;
    Ok(Manifest { text: text(&name, file)?, name })
}

fn text(name: &str, from: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(name, &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(CliError::Message(format!(
            "{name}: longer than {} MiB, the most that a manifest may have",
            MAX_FILE >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        CliError::Message(format!("{name}: not text: byte {} is no UTF-8", error.utf8_error().valid_up_to()))
    })
}

fn cannot_read(name: &str, error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::NotFound => CliError::Message(format!("the path {name:?} does not exist")),
        _ => CliError::Message(format!("cannot read {name}: {error}")),
    }
}

/// Reads the objects of all manifests, or says everything that is wrong with any of them.
pub(super) fn documents(manifests: &[Manifest]) -> Result<Vec<Document>, CliError> {
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    for manifest in manifests {
        match parse(manifest) {
            Ok(more) => documents.extend(more),
            Err(message) => wrong.push(message),
        }
    }
    if !wrong.is_empty() {
        return Err(CliError::Message(wrong.join("\nerror: ")));
    }
    if documents.is_empty() {
        return Err(CliError::Message("no objects passed".to_owned()));
    }
    Ok(documents)
}

/// Reads the documents of one manifest.
pub(super) fn parse(manifest: &Manifest) -> Result<Vec<Document>, String> {
    let documents = stower_crds::read_documents(manifest.text.as_bytes(), &Limits::default())
        .map_err(|error| format!("{}:{error}", manifest.name))?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.value.is_null())
        .map(|document| Document { name: manifest.name.clone(), read: document })
        .collect())
}

#[cfg(test)]
mod tests;
