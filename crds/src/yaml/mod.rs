//! Reading YAML and JSON with bounds, and writing YAML.

mod node;

use serde_json::Value;

use self::node::{Node, Places};
use crate::FieldError;

/// What a file may cost. The reader of the file bounds what it reads by `max_bytes` as well.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest file, in bytes.
    pub max_bytes: usize,
    /// The most documents in it, and items in its lists of kind List, together.
    pub max_documents: usize,
    /// How deep maps and lists may nest. Reading takes some 32 kB of stack for each level in a debug build, so
    /// that 24 levels fit well into a thread's usual 2 MiB; the deepest field of a kind needs 9.
    pub max_depth: usize,
    /// The most maps, lists and scalars in a file.
    pub max_nodes: usize,
    /// The most nodes that aliases may stand for, in a file.
    pub max_alias_nodes: usize,
}

impl Default for Limits {
    /// 8 MiB, 25,000 documents, 24 deep, 250,000 nodes, 2,000 of them by aliases.
    fn default() -> Self {
        Self {
            max_bytes: 8 << 20,
            max_documents: 25_000,
            max_depth: 24,
            max_nodes: 250_000,
            max_alias_nodes: 2_000,
        }
    }
}

/// A place in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One document of a file, or one item of a List in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its content.
    pub value: Value,
    /// Line of its first key, from 1.
    pub first_line: u64,
    places: Places,
}

impl Document {
    /// The place of the key at a path such as `spec.volumes[0].name`, or of what is nearest above it.
    pub fn locate(&self, path: &str) -> Location {
        self.places.find(path)
    }

    /// Gives errors about this document their places.
    pub fn locate_all(&self, errors: &mut [FieldError]) {
        for error in errors {
            error.location = Some(self.locate(&error.path));
        }
    }
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl ParseError {
    fn new(at: Location, message: String) -> Self {
        Self { line: at.line, column: at.column, message }
    }
}

/// Reads the documents of a YAML or JSON file. Empty documents are left out; of a `List`, each item is a document.
///
/// # Errors
/// The first thing that is wrong: syntax, a key that is there twice, or a limit that is passed.
pub fn read_documents(bytes: &[u8], limits: &Limits) -> Result<Vec<Document>, ParseError> {
    const START: Location = Location { line: 1, column: 1 };
    if bytes.len() > limits.max_bytes {
        let message = format!("file has {} bytes, at most {} are read", bytes.len(), limits.max_bytes);
        return Err(ParseError::new(START, message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        let at = Location {
            line: u64::try_from(line).unwrap_or(u64::MAX),
            column: u64::try_from(column).unwrap_or(u64::MAX),
        };
        ParseError::new(at, "file is not UTF-8".to_owned())
    })?;
    let nodes: Vec<Node> =
        serde_yaml::from_multiple_with_options(text, options(limits)).map_err(|error| {
            let at = error
                .location()
                .map_or(START, |at| Location { line: at.line().max(1), column: at.column().max(1) });
            ParseError::new(at, plain_message(&error, limits))
        })?;

    let mut documents = Vec::with_capacity(nodes.len());
    let mut add = |node: Node| {
        if documents.len() >= limits.max_documents {
            let message = format!("more than {} documents", limits.max_documents);
            return Err(ParseError::new(node.location(), message));
        }
        let (value, places) = node.split();
        let first_line = places.find("").line;
        documents.push(Document { value, first_line, places });
        Ok(())
    };
    for node in nodes {
        if node.is_null() {
            continue;
        }
        if node.text("kind") != Some("List") || node.text("apiVersion") != Some("v1") {
            add(node)?;
            continue;
        }
        let at = node.location();
        let items = node
            .take_list("items")
            .ok_or_else(|| ParseError::new(at, "items: a List must have a list of items".to_owned()))?;
        items.into_iter().filter(|item| !item.is_null()).try_for_each(&mut add)?;
    }
    Ok(documents)
}

fn options(limits: &Limits) -> serde_yaml::Options {
    let budget = serde_yaml::budget! {
        max_reader_input_bytes: Some(limits.max_bytes),
        max_depth: limits.max_depth,
        // One more, so that the limit above speaks for all kinds of nesting.
        flow_nesting_limit: limits.max_depth.saturating_add(1),
        max_documents: limits.max_documents,
        max_nodes: limits.max_nodes,
        // A map of n scalars has n + 2 events, and each document two more.
        max_events: limits.max_nodes.saturating_mul(3),
        max_aliases: limits.max_alias_nodes,
        max_anchors: limits.max_alias_nodes,
        max_recorded_anchor_events: limits.max_alias_nodes,
        max_recorded_anchor_bytes: limits.max_bytes,
        max_total_scalar_bytes: limits.max_bytes,
        max_total_comment_bytes: limits.max_bytes,
        // A file may open with any number of comment lines; their bytes are bounded above.
        max_buffered_comment_events: limits.max_nodes,
    };
    serde_yaml::options! {
        budget: budget,
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: limits.max_alias_nodes,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: limits.max_alias_nodes,
        },
        // As kubectl reads it: modes such as 0644 are octal.
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// The message without its place, which the error has beside it; advice for programmers is left out.
fn plain_message(error: &serde_yaml::DeserializeError, limits: &Limits) -> String {
    use serde_yaml::{DeserializeError as Error, budget::BudgetBreach as Breach};
    let aliases = || format!("aliases stand for more than {} values", limits.max_alias_nodes);
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => plain_message(error, limits),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => aliases(),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("key \"{key}\" is there twice"),
        Error::Budget { breach, .. } => match breach {
            Breach::Depth { .. } => format!("nested deeper than {} levels", limits.max_depth),
            Breach::Nodes { .. } | Breach::Events { .. } => format!("more than {} values", limits.max_nodes),
            Breach::Documents { .. } => format!("more than {} documents", limits.max_documents),
            Breach::Aliases { .. }
            | Breach::Anchors { .. }
            | Breach::AliasAnchorRatio { .. }
            | Breach::RecordedAnchorEvents { .. }
            | Breach::RecordedAnchorBytes { .. } => aliases(),
            _ => "file passes a limit of the reader".to_owned(),
        },
        error => {
            let text = error.without_snippet().to_string();
            let line = text.lines().next().unwrap_or_default().trim_end();
            line.rsplit_once(" at line ").map_or(line, |(message, _)| message).to_owned()
        }
    }
}

/// Writes a value as YAML: maps in the order that the value has, which for JSON is that of the alphabet.
pub fn to_yaml<T: serde::Serialize>(value: &T) -> String {
    let options = serde_yaml::ser_options! { compact_list_indent: true, folded_wrap_chars: usize::MAX };
    serde_yaml::to_string_with_options(value, options).expect("plain data can be written as YAML")
}

#[cfg(test)]
mod tests;
