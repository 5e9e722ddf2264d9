//! From a file's bytes to what it declares.

use stower_crds::{AdmitContext, Limits, Location, Object, admit, read_documents};

use super::MAX_FILE;

/// One object of a file.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    /// The object, admitted, with its defaults.
    pub object: Object,
}

impl Declared {
    /// Kind, namespace and name as one text.
    #[must_use]
    pub(crate) fn key(&self) -> String {
        self.object.key().to_string()
    }
}

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The first thing wrong, where a place can be named.
    pub at: Option<Location>,
    /// What is wrong; several things are separated by `; `.
    pub message: String,
}

impl Problem {
    pub(super) fn new(message: String) -> Self {
        Self { at: None, message }
    }
}

/// What bytes turned out to be.
#[derive(Debug)]
pub(crate) enum Content {
    /// Every document is an object that can be taken.
    Good(Vec<Declared>),
    /// At least one is not; none of the file is taken.
    Bad(Problem),
}

/// Reads and admits every document. A file is one whole: one bad document makes all of it bad.
#[must_use]
pub(super) fn parse(bytes: &[u8]) -> Content {
    let limits = Limits { max_bytes: usize::try_from(MAX_FILE).unwrap_or(usize::MAX), ..Limits::default() };
    let documents = match read_documents(bytes, &limits) {
        Ok(documents) => documents,
        Err(error) => {
            let at = Some(Location { line: error.line, column: error.column });
            return Content::Bad(Problem { at, message: error.message });
        }
    };
    let mut objects: Vec<Declared> = Vec::with_capacity(documents.len());
    for mut document in documents {
        match admit(document.value.take(), &AdmitContext::default()) {
            Ok(object) => {
                let key = object.key();
                if objects.iter().any(|earlier| earlier.object.key() == key) {
                    let at = Some(Location { line: document.first_line, column: 1 });
                    return Content::Bad(Problem {
                        at,
                        message: format!("{key} is declared twice in this file"),
                    });
                }
                objects.push(Declared { object });
            }
            Err(mut errors) => {
                document.locate_all(&mut errors);
                let at = errors.first().and_then(|error| error.location);
                let at = at.or(Some(Location { line: document.first_line, column: 1 }));
                // The first one's place is the problem's own.
                if let Some(first) = errors.first_mut() {
                    first.location = None;
                }
                let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                return Content::Bad(Problem { at, message });
            }
        }
    }
    Content::Good(objects)
}
