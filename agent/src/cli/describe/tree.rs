//! Fields and groups of fields, each level aligned by itself.

use serde_json::Value;

use crate::cli::table::{printable, width};

/// One level of a description.
#[derive(Debug, Default)]
pub(in crate::cli) struct Tree(Vec<Entry>);

#[derive(Debug)]
enum Entry {
    /// A key with a value, which may have several lines.
    Field(String, Vec<String>),
    /// A key with more below, perhaps with a value of its own.
    Group(String, Option<String>, Tree),
    /// A key with one thing a line below.
    Block(String, Vec<String>),
}

impl Tree {
    /// Whether there is nothing in it.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key with a value.
    pub(in crate::cli) fn field(&mut self, key: &str, value: impl Into<String>) {
        self.0.push(Entry::Field(key.to_owned(), vec![value.into()]));
    }

    /// A key with a value, if there is one.
    pub(in crate::cli) fn maybe(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.field(key, value);
        }
    }

    /// A key with several values, one a line beside it; `<none>` without any.
    pub(in crate::cli) fn lines(&mut self, key: &str, values: Vec<String>) {
        let values = if values.is_empty() { vec!["<none>".to_owned()] } else { values };
        self.0.push(Entry::Field(key.to_owned(), values));
    }

    /// A key with more below it.
    pub(in crate::cli) fn group(&mut self, key: &str, inner: Tree) {
        self.0.push(Entry::Group(key.to_owned(), None, inner));
    }

    /// A key with a value, and more below it.
    pub(in crate::cli) fn headed(&mut self, key: &str, value: String, inner: Tree) {
        self.0.push(Entry::Group(key.to_owned(), Some(value), inner));
    }

    /// A key with one thing a line below it.
    pub(in crate::cli) fn block(&mut self, key: &str, lines: Vec<String>) {
        self.0.push(Entry::Block(key.to_owned(), lines));
    }

    /// All of it as text.
    pub(in crate::cli) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, 0);
        out
    }

    /// The column, from its own left edge, at which the values of this level begin.
    fn column(&self) -> usize {
        let widest = |entry: &Entry| match entry {
            Entry::Field(key, _) => width(key) + 3,
            // Fields below a heading line up with its value, as kubectl's do.
            Entry::Group(key, Some(_), inner) => (width(key) + 3).max(inner.column() + 2),
            Entry::Group(..) | Entry::Block(..) => 0,
        };
        self.0.iter().map(widest).max().unwrap_or(0)
    }

    fn write(&self, out: &mut String, indent: usize, column: usize) {
        let column = self.column().max(column);
        let start = |out: &mut String, key: &str| {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(&printable(key));
            out.push(':');
        };
        let pad =
            |out: &mut String, used: usize| out.extend(std::iter::repeat_n(' ', column.saturating_sub(used)));
        for entry in &self.0 {
            match entry {
                Entry::Field(key, values) => {
                    start(out, key);
                    let mut values = values.iter().flat_map(|value| lines_of(value));
                    let first = values.next().unwrap_or_default();
                    if !first.is_empty() {
                        pad(out, width(key) + 1);
                        out.push_str(&printable(first));
                    }
                    out.push('\n');
                    for value in values {
                        pad(out, 0);
                        out.extend(std::iter::repeat_n(' ', indent));
                        out.push_str(&printable(value));
                        out.push('\n');
                    }
                }
                Entry::Group(key, value, inner) => {
                    start(out, key);
                    if let Some(value) = value {
                        pad(out, width(key) + 1);
                        out.push_str(&printable(value));
                    }
                    out.push('\n');
                    inner.write(out, indent + 2, if value.is_some() { column - 2 } else { 0 });
                }
                Entry::Block(key, lines) => {
                    start(out, key);
                    out.push('\n');
                    for line in lines {
                        out.extend(std::iter::repeat_n(' ', indent + 2));
                        out.push_str(&printable(line));
                        out.push('\n');
                    }
                }
            }
        }
    }
}

/// The lines of a value; an empty value has one.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.trim_end_matches('\n').split('\n')
}

/// Any value below a key.
pub(super) fn generic(tree: &mut Tree, key: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            let mut inner = Tree::default();
            for (key, value) in map {
                generic(&mut inner, &title(key), value);
            }
            tree.group(key, inner);
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            tree.field(key, items.iter().map(scalar).collect::<Vec<_>>().join(", "));
        }
        Value::Array(items) => tree.block(key, items.iter().map(flat).collect()),
        scalar_value => tree.field(key, scalar(scalar_value)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An item of a list on one line: `name=a, value=b`.
fn flat(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", scalar(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// `terminationGracePeriodSeconds` as `Termination Grace Period Seconds`; a name that is no field stays.
pub(super) fn title(key: &str) -> String {
    if !key.starts_with(|c: char| c.is_ascii_lowercase())
        || key.contains(|c: char| !c.is_ascii_alphanumeric())
    {
        return key.to_owned();
    }
    if matches!(key, "cpu" | "memory") {
        return key.to_owned();
    }
    let mut out = String::new();
    let mut before = 'A';
    for (n, c) in key.chars().enumerate() {
        if n == 0 {
            out.push(c.to_ascii_uppercase());
        } else {
            if c.is_ascii_uppercase() && !before.is_ascii_uppercase() {
                out.push(' ');
            }
            out.push(c);
        }
        before = c;
    }
    out
}
